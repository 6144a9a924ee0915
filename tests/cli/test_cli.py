"""The command line as a person meets it: what is printed where, exit codes, files that are whole or as they were."""

import contextlib
import errno
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

import npsiglip
from npsiglip import ClassifierConfig, ImageConfig, SigLIPConfig, save_folder
from npsiglip.cli import app, console, embed
from npsiglip.cli.classify import percent
from npsiglip.cli.embed import Kind, kind_of
from npsiglip.errors import InputError
from npsiglip.params import random_params
from tests.helpers.golden_data import ROOT, TINY

LABELS = ["a cat", "two dogs"]
LABEL_OPTIONS = ["-l", "a cat", "-l", "two dogs"]
FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "NPSIGLIP_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "40")  # nothing may depend on it
    console.out.cache_clear()
    console.err.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def model():
    """The tiny model, its kernels compiled: no test but that of the message meets the message about it."""
    model = npsiglip.SigLIP.from_pretrained(TINY)
    model.classify(np.zeros((5, 5, 3), np.uint8), ["a"])
    return model


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Three image files, named relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    names = ["one.png", "two.png", "three.png"]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (30 + i, 50, 3), np.uint8)).save(name)
    return names


def run(command, *args, model=TINY):
    options = ["--model", str(model)] if model else []
    return CliRunner().invoke(app, [command, *options, *map(str, args)])


def environment(**changes):
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def lines_of_json(stdout):
    """JSON Lines, and JSON: what Python reads beyond it, such as NaN, is refused."""

    def refuse(name):
        raise ValueError(name)

    return [json.loads(line, parse_constant=refuse) for line in stdout.splitlines()]


def run_process(*args, **options):
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **options}
    return subprocess.run([sys.executable, *map(str, args)], text=True, timeout=120, check=False, **options)


def assert_refused(result, *phrases):
    """One message on stderr, exit code 1, nothing on stdout, no traceback."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    for phrase in phrases:
        assert phrase in result.stderr


# The command


@pytest.mark.parametrize("args", [["--help"], ["--version"], ["embed", "--help"], ["quantize", "--help"]])
def test_help_and_version_load_nothing_heavy(args):
    heavy = ["numba", "numpy", "rich", "PIL", "safetensors", "sentencepiece"]
    script = (
        "import sys\nfrom npsiglip.cli import main\n"
        f"sys.argv[1:] = {args}\n"
        "try:\n    main()\n"
        f"finally:\n    print([m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    )
    result = run_process("-c", script)
    assert result.returncode == 0
    assert result.stderr == "[]\n"
    assert ("Usage: npsiglip" in result.stdout) == ("--help" in args)


def test_version():
    assert run("--version", model=None).stdout == f"npsiglip {npsiglip.__version__}\n"


def test_help_lists_the_commands():
    stdout = run("--help", model=None).stdout
    assert "\n  classify  " in stdout
    assert "\n  embed  " in stdout
    assert "\n  quantize  " in stdout


@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        (["clasify"], "Did you mean 'classify'?"),
        (["classify", "-l", "a"], "Missing argument"),
        (["classify", "one.png"], "-l 'a cat'"),
        (["classify", "one.png", "-l", "a", "--threads", "0"], "--threads"),
        (["embed", "a"], "Missing option"),
        (["embed", "a", "-o", "x.npy", "--as", "video"], "--as"),
    ],
)
def test_usage_errors_exit_with_2(images, args, phrase):
    result = run(*args)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert phrase in result.stderr
    assert "Usage: " in result.stderr


@pytest.mark.parametrize("args", [["classify", "one.png", "-l", "a"], ["embed", "a", "-o", "x.npy"]])
def test_without_a_model_the_built_in_one_is_used_and_says_so(images, args, monkeypatch):
    result = run(*args, model=None)
    assert result.exit_code == 0
    assert result.stderr.startswith("model: the built-in model, which knows drawn shapes")
    assert "--model NAME" in result.stderr.splitlines()[0]
    assert "built-in" not in result.stdout
    monkeypatch.setenv("NPSIGLIP_MODEL", "")  # as good as not set
    assert run(*args, model=None).stderr == result.stderr
    assert "built-in" not in run(*args, model="builtin").stderr  # who names it knows it


def test_model_from_the_environment(images, monkeypatch):
    monkeypatch.setenv("NPSIGLIP_MODEL", str(TINY))
    assert run("embed", "a", "-o", "x.npy", model=None).exit_code == 0
    monkeypatch.setenv("NPSIGLIP_MODEL", "nowhere")
    assert_refused(run("embed", "a", "-o", "x.npy", model=None), "nowhere does not exist")


def test_an_interrupt_exits_with_130(images, monkeypatch):
    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(npsiglip.SigLIP, "from_pretrained", interrupt)
    result = run("classify", "one.png", "-l", "a")
    assert (result.exit_code, result.output) == (130, "")


@pytest.mark.parametrize("folder, code", [(TINY, 0), ("nowhere", 1)])
def test_what_was_loaded_is_not_collected_and_the_rest_is(images, monkeypatch, folder, code):
    load, before, states = npsiglip.SigLIP.from_pretrained, gc.get_freeze_count(), []
    monkeypatch.setattr(
        npsiglip.SigLIP, "from_pretrained", lambda *a, **k: (states.append(gc.isenabled()), load(*a, **k))[1]
    )
    assert run("embed", "a", "-o", "x.npy", model=folder).exit_code == code
    assert states == [False]
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    gc.unfreeze()


def test_a_bug_keeps_its_traceback(images, monkeypatch):
    def bug(*args, **options):
        raise ValueError("a bug")  # the base of NpsiglipError

    monkeypatch.setattr(npsiglip.SigLIP, "from_pretrained", bug)
    result = run("classify", "one.png", "-l", "a")
    assert type(result.exception) is ValueError
    assert result.exit_code == 1


def test_warnings_are_one_line_without_source(images, monkeypatch):
    load = npsiglip.SigLIP.from_pretrained

    def warn(*args, **options):
        warnings.warn("something\nodd", RuntimeWarning, stacklevel=1)
        return load(*args, **options)

    monkeypatch.setattr(npsiglip.SigLIP, "from_pretrained", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("classify", "one.png", "-l", "a")
    assert result.exit_code == 0
    assert result.stderr == "warning: something\nodd\n"


def test_a_cache_that_cannot_be_written_is_one_warning(images, monkeypatch):
    from npsiglip.kernels import cache

    def no_room(path, parts):
        raise OSError(28, "No space left on device")

    def compile_two(*args, **options):
        for key in ("a", "b"):
            cache.save(Path(key), key.encode(), b"code")
        return load(*args, **options)

    load = npsiglip.SigLIP.from_pretrained
    monkeypatch.setattr(cache, "_write", no_room)
    monkeypatch.setattr(cache, "_told", set())
    monkeypatch.setattr(npsiglip.SigLIP, "from_pretrained", compile_two)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("classify", "one.png", "-l", "a")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: the kernel cache ")
    assert "(No space left on device)" in line
    assert line.endswith("set NUMBA_CACHE_DIR to a folder that can be written")


def compile_two(callback):
    callback("linear")
    callback("attention")


@pytest.mark.parametrize(
    ("compile_some", "writable", "stderr"),
    [
        (compile_two, True, "Compiling kernels (first run only) ...\n"),
        (compile_two, False, "Compiling kernels ...\n"),
        (lambda callback: None, True, ""),
    ],
)
def test_compiling_is_told_once(images, monkeypatch, compile_some, writable, stderr):
    @contextlib.contextmanager
    def on_compile(callback):
        compile_some(callback)
        yield

    monkeypatch.setattr("npsiglip.kernels.jit.on_compile", on_compile)
    monkeypatch.setattr("npsiglip.kernels.cache.is_writable", lambda: writable)
    result = run("classify", "one.png", "-l", "a")
    assert (result.exit_code, result.stderr) == (0, stderr)


# What is computed in


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The tiny model in 8 bits, as the command writes it."""
    folder = tmp_path_factory.mktemp("quantized") / "tiny"
    result = run("quantize", TINY, "-o", folder, model=None)
    assert (result.exit_code, result.stdout) == (0, "")
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_dtype(images, dtype):
    expected = npsiglip.SigLIP.from_pretrained(TINY, dtype=dtype)
    result = run("classify", *images, *LABEL_OPTIONS, "--json", "--dtype", dtype)
    assert [entry["scores"] for entry in lines_of_json(result.stdout)] == expected.classify(images, LABELS)
    assert run("embed", images[0], "-o", "x.safetensors", "--dtype", dtype).exit_code == 0
    np.testing.assert_array_equal(load_file("x.safetensors")["embeddings"], expected.encode_image(images[0]))
    with safe_open("x.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["dtype"]) == dtype


@pytest.mark.parametrize("options", [[], ["--dtype", "int8"]])
def test_a_quantised_model_gives_what_the_original_gives_in_int8(images, quantized, options):
    original = run("classify", *images, *LABEL_OPTIONS, "--json", "--dtype", "int8").stdout
    result = run("classify", *images, *LABEL_OPTIONS, "--json", *options, model=quantized)
    assert (result.exit_code, result.stderr, result.stdout) == (0, "", original)
    assert original != run("classify", *images, *LABEL_OPTIONS, "--json").stdout
    for model, output in ((TINY, "original.npy"), (quantized, "quantised.npy")):
        assert run("embed", "a cat", images[0], "-o", output, "--dtype", "int8", model=model).exit_code == 0
    assert Path("original.npy").read_bytes() == Path("quantised.npy").read_bytes()


@pytest.mark.parametrize("command", [["classify", "one.png", "-l", "a"], ["embed", "a", "-o", "x.npy"]])
def test_a_dtype_that_cannot_be(images, quantized, command):
    for model in (TINY, quantized, "nowhere"):
        result = run(*command, "--dtype", "float16", model=model)
        assert_refused(result, "dtype must be one of float32, bfloat16, int8; got 'float16'")
    assert_refused(run(*command, "--dtype", "bfloat16", model=quantized), "quantised to int8", "leave dtype out")
    assert not Path("x.npy").exists()


# quantize


def test_quantize_tells_the_sizes(images):
    result = run("quantize", TINY, "-o", "tiny-int8", model=None)
    before, after = ((f / "model.safetensors").stat().st_size for f in (TINY, Path("tiny-int8")))
    megabytes = f"{after / 1e6:.1f} MB of weights, {after / before:.0%} of the {before / 1e6:.1f} MB of {TINY}"
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"tiny-int8: int8, {megabytes}\n"


BAD_QUANTIZATIONS = {
    "no model": (["nowhere", "-o", "new"], ["nowhere does not exist"]),
    "quantised": (["quantised", "-o", "new"], ["quantised is quantised already", "expected the original"]),
    "itself": (["model", "-o", "model"], ["model is the model itself", "choose another folder"]),
    "another": (["model", "-o", "quantised"], ["quantised already holds a model (config.json, model.safetensors)"]),
    "a file": (["model", "-o", "one.png"], ["'one.png' ends in .png, and a folder is what would be written"]),
    "below a file": (["model", "-o", "one.png/new"], ["one.png/new cannot be written"]),
    "NaN": (["damaged", "-o", "new"], [FC1, "1 of 1,872 values not finite"]),
}


@pytest.mark.parametrize("args, phrases", BAD_QUANTIZATIONS.values(), ids=BAD_QUANTIZATIONS)
def test_what_is_not_quantised(images, quantized, args, phrases):
    shutil.copytree(quantized, "quantised")
    for name in ("model", "damaged"):
        shutil.copytree(TINY, name)
    change_weights(set_nan)(Path("damaged"))
    before = sorted(Path().rglob("*"))
    assert_refused(run("quantize", *args, model=None), *phrases)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("args", [["quantize"], ["quantize", "model"], ["quantize", "-o", "x"]])
def test_quantize_wants_both_folders(args):
    result = run(*args, model=None)
    assert result.exit_code == 2
    assert "Missing" in result.stderr


# A terminal


def on_terminal(args, **options):
    """Exit code, stdout, and what a terminal shows of stderr."""
    import pty

    leader, terminal = pty.openpty()
    options = {"stdout": subprocess.PIPE, "stderr": terminal, "text": True, **options}
    env = environment(TERM="xterm", COLUMNS="80")
    with subprocess.Popen([sys.executable, *args], env=env, **options) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other side is closed
            while part := os.read(leader, 4096):
                shown += part
        os.close(leader)
        stdout = process.stdout.read()
    return process.returncode, stdout, shown.decode()


def test_a_model_with_classes_of_its_own(images, tmp_path):
    config = SigLIPConfig(
        ImageConfig(width=12, depth=1, num_heads=2, mlp_dim=16, image_size=16, patch_size=8),
        None,
        ClassifierConfig(("cat", "dog", "owl")),
    )
    save_folder(tmp_path, config, random_params(config, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("classify", *images, "--json", model=tmp_path)
    assert result.exit_code == 0
    assert result.stderr.count("no preprocessor_config.json: images are resized with the bicubic filter") == 1
    (tmp_path / "preprocessor_config.json").write_text("{}")
    for entry in lines_of_json(result.stdout):
        assert {score["label"] for score in entry["scores"]} == {"cat", "dog", "owl"}
        assert sum(score["score"] for score in entry["scores"]) == pytest.approx(1, abs=1e-6)
    assert "cat" in run("classify", images[0], model=tmp_path).stdout


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_on_a_terminal_progress_is_shown_there_and_results_go_to_stdout(images):
    script = (
        "import sys, npsiglip.kernels.jit as jit, npsiglip.inputs as inputs, contextlib\n"
        "from npsiglip.cli import main\n"
        "@contextlib.contextmanager\n"
        "def on_compile(callback):\n"
        "    callback('linear')\n"
        "    yield\n"
        "jit.on_compile, inputs.TOKENS_PER_PASS = on_compile, 25\n"  # one image in a pass
        "main()"
    )
    args = ["-c", script, "classify", *images, *LABEL_OPTIONS, "--json", "--model", str(TINY)]
    returncode, stdout, shown = on_terminal(args)
    assert returncode == 0
    assert [entry["image"] for entry in lines_of_json(stdout)] == images
    for phrase in ("Loading the model", "Compiling kernels (first run only): linear", "Images", "1/3", "0:00:0"):
        assert phrase in shown
    assert "score" not in shown
    assert shown.endswith("\x1b[2K")  # nothing is left


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_progress_of_quantize(tmp_path):
    args = ["-m", "npsiglip", "quantize", str(TINY), "-o", str(tmp_path / "new")]
    returncode, _, shown = on_terminal(args, cwd=tmp_path)
    assert returncode == 0
    for phrase in ("Quantising image.patch_embed", "0/125"):
        assert phrase in shown
    assert "int8, 0.2 MB" in shown.rsplit("\x1b[2K")[-1]  # what is left


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_reader_that_has_seen_enough_is_no_error(images, options):
    args = [sys.executable, "-m", "npsiglip", "classify", *images, "-l", "a", *options, "--model", str(TINY)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
        process.stdout.close()
        assert b"error" not in process.stderr.read().lower()
        assert process.wait(120) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_told(images):
    with Path("/dev/full").open("w") as full:
        args = ["-m", "npsiglip", "classify", images[0], "-l", "a", "--json", "--model", TINY]
        result = run_process(*args, stdout=full)
    assert result.returncode == 1
    assert result.stderr.startswith("error: the results cannot be written to standard output: ")


# classify


def test_json_is_what_the_model_says(images, model):
    result = run("classify", *images, *LABEL_OPTIONS, "--json")
    expected = model.classify(images, LABELS)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert lines_of_json(result.stdout) == [
        {"image": image, "scores": scores} for image, scores in zip(images, expected, strict=True)
    ]


def test_text_has_a_line_for_each_label(images, model):
    result = run("classify", *images, *LABEL_OPTIONS)
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert len(lines) == 3 * len(images)
    for i, (image, scores) in enumerate(zip(images, model.classify(images, LABELS), strict=True)):
        assert lines[3 * i] == image
        for line, score in zip(lines[3 * i + 1 : 3 * i + 3], scores, strict=True):
            assert line.split(maxsplit=1) == [percent(score["score"]), score["label"]]
            assert line.index(".") == 5
            assert line.index(score["label"]) == 15


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, "0.0%"),
        (1.0, "100.0%"),
        (0.5, "50.0%"),
        (0.9421, "94.2%"),
        (0.031, "3.1%"),
        (0.0031, "0.31%"),
        (0.000003, "0.00030%"),
        (0.99997, "99.9970%"),
        (float(np.nextafter(np.float32(1), np.float32(0))), "99.999994%"),
        (2e-6, "0.00020%"),
        (7.2e-11, "7.2e-9%"),
    ],
)
def test_percent(score, text):
    assert percent(score) == text


def test_template(images, model):
    result = run("classify", *images, *LABEL_OPTIONS, "--json", "--template", "{}, painted.")
    scores = [entry["scores"] for entry in lines_of_json(result.stdout)]
    assert scores == model.classify(images, LABELS, "{}, painted.")
    assert scores != model.classify(images, LABELS)


@pytest.mark.parametrize("per_pass", [1, 2, 3])
def test_passes_do_not_change_the_results(images, model, monkeypatch, per_pass):
    expected = run("classify", *images, *LABEL_OPTIONS, "--json").stdout
    passes = []
    encode = npsiglip.SigLIP.encode_image

    def counted(self, images, normalize=True):
        passes.append(len(images))
        return encode(self, images, normalize)

    monkeypatch.setattr(npsiglip.SigLIP, "encode_image", counted)
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", per_pass * model.config.image.seq_len)
    assert run("classify", *images, *LABEL_OPTIONS, "--json").stdout == expected
    assert passes == {1: [1, 1, 1], 2: [2, 1], 3: [3]}[per_pass]


def test_nothing_is_wrapped_or_interpreted(images):
    label = "[red]:cat: " + "12 " * 60
    shutil.copy(images[0], name := "n" * 200 + ".png")
    result = run("classify", name, "-l", label, "--truncate")
    assert result.stdout.splitlines()[0] == name
    assert result.stdout.splitlines()[1].endswith(label)
    assert "\x1b" not in result.output


def test_control_characters_are_written_as_escapes(images):
    shutil.copy(images[0], "a\nb.png")
    result = run("classify", "a\nb.png", "-l", "cat\x1b[31m")
    assert result.stdout.splitlines()[0] == r"a\nb.png"
    assert result.stdout.splitlines()[1].endswith(r" cat\x1b[31m")


def test_a_long_label_is_told(images):
    long = "a photograph of " * 10
    assert_refused(run("classify", images[0], "-l", "cat", "-l", long), "24 tokens")
    result = run("classify", images[0], "-l", "cat", "-l", long, "--truncate")
    assert result.exit_code == 0
    assert result.stderr.count("warning: ") == 1
    assert repr(long[:60]) in result.stderr
    assert "24 tokens" in result.stderr
    assert run("classify", images[0], "-l", "cat").stderr == ""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_results_before_a_bad_image_are_kept(images, model, monkeypatch, options):
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", model.config.image.seq_len)
    Path("three.png").write_bytes(b"no image")
    result = run("classify", *images, "-l", "a", *options)
    assert result.exit_code == 1
    lines = [entry["image"] for entry in lines_of_json(result.stdout)] if options else result.stdout.splitlines()[::2]
    assert lines == ["one.png", "two.png"]
    assert "three.png" in result.stderr


# Bad input


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


def change_weights(edit):
    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


def set_nan(tensors):
    tensors[FC1][1, 2] = np.nan


BAD_MODELS = {
    "no folder": (shutil.rmtree, ["does not exist", "config.json"]),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), ["model.safetensors", "download"]),
    "cut weights": (lambda f: cut(f / "model.safetensors"), ["cut short", "download it again"]),
    "no tokenizer": (
        lambda f: (f / "spiece.model").unlink(),
        ["has no tokenizer, which texts need: put spiece.model", "into model"],
    ),
    "CLIP": (change_config(model_type="clip"), ["expected model_type 'siglip' or 'siglip2', got 'clip'"]),
    "NaFlex": (change_config(model_type="siglip2"), ["patch_embedding.weight", "different models"]),
    "shape": (change_weights(lambda t: t.update({FC1: np.zeros((3, 4), np.float32)})), ["[3, 4]", "[52, 36]"]),
    "missing": (change_weights(lambda t: t.pop(FC1)), [f"- {FC1}", "1 missing"]),
    "extra": (change_weights(lambda t: t.update(extra=np.zeros(1, np.float32))), ["+ extra", "1 unexpected"]),
    "NaN": (change_weights(set_nan), [FC1, "1 of 1,872 values not finite"]),
}


@pytest.mark.parametrize("change, phrases", BAD_MODELS.values(), ids=BAD_MODELS)
def test_bad_models(images, change, phrases):
    folder = Path("model")
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("golden.safetensors"))
    change(folder)
    assert_refused(run("classify", images[0], "-l", "a", model=folder), *phrases)


BAD_IMAGES = {
    "missing": (Path.unlink, "does not exist"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "cut": (cut, "truncated or damaged"),
    "text": (lambda path: path.write_text("hello"), "not an image"),
    "huge": (lambda path: Image.new("1", (10000, 10000)).save(path), "10000 x 10000 pixels"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
}


@pytest.mark.parametrize("change, phrase", BAD_IMAGES.values(), ids=BAD_IMAGES)
@pytest.mark.parametrize("command", [["classify", "-l", "a", "--json"], ["embed", "-o", "x.npy"]], ids=lambda c: c[0])
def test_bad_images(images, command, change, phrase):
    change(Path("two.png"))
    assert_refused(run(*command, "one.png", "./two.png"), "two.png", phrase)
    assert not Path("x.npy").exists()


@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        (["-l", "a", "--template", "a photo"], "exactly one {}"),
        (["-l", " "], "at least one letter"),
        (["-l", "a", "--threads", "100000"], "threads must be a whole number from 1 to"),
    ],
)
def test_bad_options(images, args, phrase):
    assert_refused(run("classify", images[0], *args), phrase)


def test_images_are_looked_for_before_the_model_is_loaded(images):
    assert_refused(run("classify", "one.png", "no.png", "-l", "a", model="nowhere"), "no.png")


# embed


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        ("one.png", Kind.IMAGE),
        ("./one.png", Kind.IMAGE),
        ("no-suffix", Kind.IMAGE),
        ("a cat", Kind.TEXT),
        ("a link to nothing", Kind.IMAGE),
        ("a file with spaces", Kind.IMAGE),
        ("photos of cats", Kind.TEXT),
        ("black/white cat", Kind.TEXT),
        ("cats and/or dogs", Kind.TEXT),
        ("24/7", Kind.TEXT),
        ("data: a chart, drawn", Kind.TEXT),
        ("a cat, 4 ft.fit", Kind.TEXT),
        ("x" * 5000, Kind.TEXT),
        ("a\0b", Kind.TEXT),
        ("https://example.org/cat", Kind.IMAGE),
        ("data:image/png;base64,AAAA", Kind.IMAGE),
    ],
)
def test_kind_of(images, argument, kind):
    shutil.copy("one.png", "no-suffix")
    shutil.copy("one.png", "a file with spaces")
    Path("a link to nothing").symlink_to("nowhere")
    Path("photos").mkdir()
    assert kind_of(argument) is kind


@pytest.mark.parametrize(
    ("argument", "phrase"),
    [
        ("", "an argument is empty"),
        (" ", "an argument is empty"),
        ("-", "standard input is not read"),
        (".", "is a folder; give the files in it, such as ./*.jpg"),
        ("/", "is a folder"),
        ("photos", "is a folder; give the files in it, such as photos/*.jpg"),
        ("photos/", "is a folder; give the files in it, such as photos/*.jpg"),
        ("my photos", "such as 'my photos'/*.jpg"),
    ],
)
def test_what_is_neither_an_image_nor_a_text(images, argument, phrase):
    for name in ("photos", "my photos"):
        Path(name).mkdir()
    with pytest.raises(InputError, match=re.escape(phrase)):
        kind_of(argument)
    if argument.strip():
        with pytest.raises(InputError, match="--as text"):
            kind_of(argument)
    assert_refused(run("embed", "--output", "x.npy", "--", argument), phrase)
    assert not Path("x.npy").exists()


NO_TEXTS = ["no.png", "no.JPEG", "x.dng", "my photo 1.jpg", "photos/cat", "./cat", "/cat", "~/cat", "no/", "no/*"]


@pytest.mark.parametrize("argument", [*NO_TEXTS, "C:\\no.png", "x/" * 5000])
def test_a_missing_image_is_not_taken_for_a_text(images, argument):
    Path("photos").mkdir()
    with pytest.raises(InputError, match=r"does not exist.*--as text"):
        kind_of(argument)


MIXED = ["a cat", "two.png", "two dogs", "three.png", "one.png"]


def expected_embeddings(model, normalize=True):
    encode = {True: model.encode_image, False: model.encode_text}
    return np.concatenate([encode[name.endswith(".png")](name, normalize) for name in MIXED])


@pytest.mark.parametrize("options, normalize", [([], True), (["--no-normalize"], False)])
def test_embed_npy(images, model, monkeypatch, options, normalize):
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", 2 * model.config.image.seq_len)
    result = run("embed", *MIXED, "-o", "x.npy", *options)
    embeddings = np.load("x.npy")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "3 images and 2 texts in x.npy: float32 [5, 36]\n"
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, expected_embeddings(model, normalize))
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1) == normalize


@pytest.mark.parametrize("options, normalize", [([], True), (["--no-normalize"], False)])
def test_embed_safetensors(images, model, options, normalize):
    assert run("embed", *MIXED, "-o", "x.safetensors", *options).exit_code == 0
    with safe_open("x.safetensors", framework="np") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        assert list(file.keys()) == ["embeddings"]
        np.testing.assert_array_equal(file.get_tensor("embeddings"), expected_embeddings(model, normalize))
    kinds = ["text", "image", "text", "image", "image"]
    assert metadata == {"inputs": MIXED, "kinds": kinds, "normalized": normalize, "dtype": "float32"}


def test_embed_as_text(images, model):
    texts = ["one.png", "a/b", "x.dng", "-", ".", ""]
    assert run("embed", "-o", "x.npy", "--as", "text", "--", *texts).exit_code == 0
    np.testing.assert_array_equal(np.load("x.npy"), model.encode_text(texts))
    assert_refused(run("embed", "a cat", "-o", "x.npy", "--as", "image"), "'a cat' does not exist")


def test_embed_refuses_a_long_text_or_warns_of_it(images):
    assert_refused(run("embed", "a", "a photograph of " * 10, "-o", "x.npy"), "--truncate")
    assert not Path("x.npy").exists()
    result = run("embed", "a", "a photograph of " * 10, "-o", "x.npy", "--truncate")
    assert result.stderr.count("warning: text 'a photograph of ") == 1


@pytest.mark.parametrize(
    ("output", "phrase"),
    [
        ("x.txt", "must end in .npy or .safetensors"),
        ("x", "must end in .npy or .safetensors"),
        ("no/x.npy", "cannot be written (No such file or directory)"),
        ("one.png/x.npy", "cannot be written (Not a directory)"),
        ("folder.npy", "is a folder"),
        ("loop.npy", "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_the_model_is_loaded(images, output, phrase):
    Path("folder.npy").mkdir()
    Path("loop.npy").symlink_to("loop.npy/x")
    before = sorted(Path().iterdir())
    assert_refused(run("embed", "a", "-o", output, model="nowhere"), output, phrase)
    assert sorted(Path().iterdir()) == before


def test_the_output_is_replaced_also_through_a_link(images, model):
    Path("folder").mkdir()
    Path("folder/x.NPY").write_bytes(b"old")
    Path("link.npy").symlink_to("folder/x.NPY")
    assert run("embed", "a", "-o", "link.npy").exit_code == 0
    assert Path("link.npy").is_symlink()
    np.testing.assert_array_equal(np.load("folder/x.NPY"), model.encode_text("a"))
    assert [path.name for path in Path("folder").iterdir()] == ["x.NPY"]


@pytest.mark.parametrize(
    ("error", "code", "phrase"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "cannot be written (No space left on device)"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("a bug"), 1, ""),
    ],
    ids=["full", "interrupt", "bug"],
)
def test_a_write_that_fails_leaves_the_old_file(images, monkeypatch, error, code, phrase):
    def half(path, embeddings, metadata):
        path.write_bytes(b"half")
        raise error

    Path("x.npy").write_bytes(b"old")
    before = sorted(Path().iterdir())
    monkeypatch.setattr(embed, "_save", half)
    result = run("embed", "a", "-o", "x.npy")
    assert result.exit_code == code
    assert phrase in result.stderr
    assert Path("x.npy").read_bytes() == b"old"
    assert sorted(Path().iterdir()) == before


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_write_leaves_the_old_file(images):
    script = (
        "import os, signal\nfrom npsiglip.cli import embed, main\n"
        "def half(path, embeddings, metadata):\n"
        "    path.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "embed._save = half\n"
        "main()"
    )
    Path("x.npy").write_bytes(b"old")
    result = run_process("-c", script, "embed", "a", "-o", "x.npy", "--model", TINY)
    assert result.returncode == -9
    assert Path("x.npy").read_bytes() == b"old"
