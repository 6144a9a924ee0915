"""The command line as a person meets it: help, versions, exit codes, models, dtypes, and input that cannot be used.

Covers cli/options.py as well.
"""

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

import npsiglip
from tests.helpers.command import (
    FC1,
    LABEL_OPTIONS,
    LABELS,
    assert_refused,
    change_weights,
    lines_of_json,
    run,
    run_process,
    set_nan,
)
from tests.helpers.golden_data import TINY

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
    assert result.stderr.startswith("model: the built-in model, which knows emoji")
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


# What is computed in


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_dtype(images, dtype):
    expected = npsiglip.SigLIP.from_pretrained(TINY, dtype=dtype)
    result = run("classify", *images, *LABEL_OPTIONS, "--json", "--dtype", dtype)
    assert [entry["scores"] for entry in lines_of_json(result.stdout)] == expected.classify(images, LABELS)
    assert run("embed", images[0], "-o", "x.safetensors", "--dtype", dtype).exit_code == 0
    np.testing.assert_array_equal(load_file("x.safetensors")["embeddings"], expected.encode_image(images[0]))
    with safe_open("x.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["dtype"]) == dtype


@pytest.mark.parametrize("command", [["classify", "one.png", "-l", "a"], ["embed", "a", "-o", "x.npy"]])
def test_a_dtype_that_cannot_be(images, quantized, command):
    for model in (TINY, quantized, "nowhere"):
        result = run(*command, "--dtype", "float16", model=model)
        assert_refused(result, "dtype must be one of float32, bfloat16, int8; got 'float16'")
    assert_refused(run(*command, "--dtype", "bfloat16", model=quantized), "quantised to int8", "leave dtype out")
    assert not Path("x.npy").exists()


# Bad input


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def change_config(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return change


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
