"""What commands leave behind: results on a stdout that fails, JSON, inputs that are skipped, names of outputs."""

import json
import os
import shutil
import warnings
from importlib import util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import npsiglip
from npsiglip.cli import output
from npsiglip.cli.output import finite, to_json
from npsiglip.errors import InputError
from npsiglip.images import files as image_files
from tests.cli.test_cli import (  # noqa: F401
    LABEL_OPTIONS,
    assert_refused,
    environment,
    images,
    lines_of_json,
    no_terminal,
    run,
    run_process,
)
from tests.helpers.golden_data import TINY

CLASSIFY = ["-m", "npsiglip", "classify", "one.png", "-l", "a", "--model", TINY]


@pytest.fixture(scope="module")
def model():
    return npsiglip.SigLIP.from_pretrained(TINY)


# a stdout that fails


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize(
    "args",
    [
        CLASSIFY,
        [*CLASSIFY, "--json"],
        ["-m", "npsiglip", "models"],
        ["-m", "npsiglip", "--version"],
        ["-m", "npsiglip", "--help"],
    ],
    ids=lambda args: args[-1],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])  # buffered, Python tries again when it ends
def test_a_full_disk_is_one_message_and_code_1(images, args, unbuffered):  # noqa: F811
    with Path("/dev/full").open("w") as full:
        result = run_process(*args, stdout=full, env=environment(PYTHONUNBUFFERED=unbuffered))
    assert result.stderr == "error: the results cannot be written to standard output: No space left on device\n"
    assert result.returncode == 1


def closed(descriptor):
    return lambda: os.close(descriptor)


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors before exec")
@pytest.mark.parametrize(
    "args", [CLASSIFY, [*CLASSIFY, "--json"], ["-m", "npsiglip", "models"], ["-m", "npsiglip", "--version"]]
)
def test_a_closed_stdout_is_an_error(images, args):  # noqa: F811
    result = run_process(*args, stdout=None, preexec_fn=closed(1))
    assert result.stderr.startswith("error: the results cannot be written to standard output: it is closed")
    assert result.returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors before exec")
def test_a_closed_stdout_is_told_before_the_model_is_loaded(images):  # noqa: F811
    args = [arg if arg != TINY else "nowhere" for arg in CLASSIFY]
    result = run_process(*args, stdout=None, preexec_fn=closed(1))
    assert "it is closed" in result.stderr
    assert "nowhere" not in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors before exec")
@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_file_does_not_need_the_streams(images, model, descriptor):  # noqa: F811
    streams = {"stdout": None, "stderr": None, "stdin": None}
    args = ["-m", "npsiglip", "embed", "a cat", "-o", "x.npy", "--model", TINY]
    assert run_process(*args, **streams, preexec_fn=closed(descriptor)).returncode == 0
    np.testing.assert_array_equal(np.load("x.npy"), model.encode_text("a cat"))


@pytest.mark.parametrize("name", ["echo", "something_else"])
def test_an_error_of_the_system_elsewhere_keeps_its_traceback(name):
    told, scope = [], {}
    exec(f"def {name}():\n    raise OSError(28, 'No space left on device')", scope)
    try:
        output.run(scope[name], told.append)
    except SystemExit as end:
        assert (name, end.code, len(told)) == ("echo", 1, 1)
    except OSError:
        assert (name, told) == ("something_else", [])


# JSON


def test_json_is_a_line_for_each_image_at_once(images, model, monkeypatch):  # noqa: F811
    """The lines of earlier passes are out when a later one fails."""
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", model.config.image.seq_len)
    Path("two.png").write_bytes(b"no image")
    result = run("classify", *images, *LABEL_OPTIONS, "--json")
    assert result.exit_code == 1
    assert lines_of_json(result.stdout) == [
        {"image": "one.png", "scores": model.classify("one.png", ["a cat", "two dogs"])[0]}
    ]


def test_what_is_not_finite_is_never_printed(images, monkeypatch):  # noqa: F811
    monkeypatch.setattr("npsiglip.zero_shot.rank", lambda labels, row: [{"label": "a", "score": float("nan")}])
    assert_refused(run("classify", "one.png", "-l", "a", "--json"), "not finite")
    for value in (float("nan"), [1.0, float("inf")]):
        with pytest.raises(InputError, match="not finite"):
            to_json(value)
    assert finite({"a": [1.5, float("nan"), {"b": float("-inf")}], "c": "NaN", "d": (1, None)}) == {
        "a": [1.5, None, {"b": None}], "c": "NaN", "d": [1, None]
    }  # fmt: skip


def test_models_as_json():
    rows = json.loads(run("models", "--json", model=None).stdout)
    by_name = {row["name"]: row for row in rows}
    assert next(iter(by_name)) == "builtin"
    assert by_name["builtin"]["download"] is None
    row = by_name["siglip-base-patch16-224"]
    assert (row["repository"], row["parameters"]) == ("google/siglip-base-patch16-224", 203_155_970)
    assert row["download"] == 4 * row["parameters"]
    assert set(row["memory"]) == {"float32", "bfloat16", "int8"}
    assert row["here"] in ("yes", "partly", "no")
    shown = run("models", model=None).stdout.splitlines()
    assert [line.split()[0] for line in shown[1 : 1 + len(rows)]] == list(by_name)


# bad images are skipped

MIXED = ["one.png", "bad.png", "a cat", "no.png", "photos", "cut.png", "two.png"]


@pytest.fixture
def mixed(images, model, monkeypatch):  # noqa: F811
    """Two good images, a text, and five inputs that cannot be used in as many ways; two images in a pass."""
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", 2 * model.config.image.seq_len)
    Path("bad.png").write_bytes(b"no image")
    Path("cut.png").write_bytes(Path("one.png").read_bytes()[:500])
    Path("photos").mkdir()
    return MIXED


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_embed_skips_bad_images(mixed, model, name):
    assert_refused(run("embed", *mixed, "-o", name), "no.png")
    assert not Path(name).exists()
    result = run("embed", *mixed, "-o", name, "--skip-bad")
    assert (result.exit_code, result.stdout) == (0, "")
    expected = np.concatenate(
        [model.encode_image("one.png"), model.encode_text("a cat"), model.encode_image("two.png")]
    )
    *lines, last = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["skipped"] * 4
    for part, line in zip(("no.png", "is a folder", "bad.png", "cut.png"), lines, strict=True):
        assert part in line
    assert last == (
        f"2 images and 1 text in {name}: float32 [3, 36]; skipped 4 of 7 inputs (counted from 0: 1, 3, 4, 5), the rows "
        "are those of the others"
    )
    if name == "x.npy":
        np.testing.assert_array_equal(np.load(name), expected)
        return
    with safe_open(name, framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("embeddings"), expected)
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["inputs"] == ["one.png", "a cat", "two.png"]
    assert metadata["kinds"] == ["image", "text", "image"]
    assert [each["input"] for each in metadata["skipped"]] == ["no.png", "photos", "bad.png", "cut.png"]
    assert "truncated or damaged" in metadata["skipped"][3]["reason"]


def test_classify_skips_bad_images(mixed, model):
    paths = [path for path in mixed if path != "a cat"]
    result = run("classify", *paths, *LABEL_OPTIONS, "--json", "--skip-bad")
    assert result.exit_code == 0
    good = ["one.png", "two.png"]
    assert lines_of_json(result.stdout) == [
        {"image": path, "scores": scores}
        for path, scores in zip(good, model.classify(good, ["a cat", "two dogs"]), strict=True)
    ]
    assert result.stderr.count("skipped: ") == 4
    assert result.stderr.splitlines()[-1] == "skipped 4 of 6 inputs (counted from 0: 1, 2, 3, 4)"


@pytest.mark.parametrize("command", [["classify", "-l", "a"], ["embed", "-o", "x.npy"]], ids=lambda c: c[0])
@pytest.mark.parametrize("bad", [["bad.png", "no.png"], ["bad.png"], ["no.png"]])
def test_nothing_that_can_be_used_is_an_error(mixed, command, bad):
    result = run(*command, *bad, "--skip-bad")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "can be used" in result.stderr or "cannot be used" in result.stderr
    assert not Path("x.npy").exists()


def test_nothing_is_skipped_where_nothing_is_bad(images):  # noqa: F811
    for args in (["classify", *images, "-l", "a"], ["embed", *images, "-o", "x.npy"]):
        assert run(*args, "--skip-bad").output == run(*args).output


def test_what_is_no_fault_of_an_image_is_not_skipped(images, monkeypatch):  # noqa: F811
    """Such as a model without a head."""

    def refuse(*args, **options):
        raise InputError("this image tower has no head")

    monkeypatch.setattr(npsiglip.SigLIP, "encode_image", refuse)
    result = run("embed", *images, "-o", "x.npy", "--skip-bad")
    assert_refused(result, "no head")


# pixels


def test_options_of_pixels(images, model, monkeypatch):  # noqa: F811
    monkeypatch.setattr(image_files, "_warned", set())
    deep = np.linspace(0, 65535, 30 * 40).astype(np.uint16).reshape(30, 40)
    Image.fromarray(deep).save("deep.png")
    run("embed", "deep.png", "-o", "clip.npy")
    monkeypatch.setattr(image_files, "_warned", set())
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("embed", "deep.png", "deep.png", "-o", "clip.npy")
    assert result.stderr.count("warning: ") == 1
    assert "--sixteen-bit scale" in result.stderr
    result = run("embed", "deep.png", "-o", "scale.npy", "--sixteen-bit", "scale")
    assert (result.exit_code, "warning" in result.stderr) == (0, False)
    expected = model.encode_image(np.round(deep / 257).astype(np.uint8)[..., None])
    np.testing.assert_array_equal(np.load("scale.npy"), expected)
    for command in (["embed", "-o", "x.npy"], ["classify", "-l", "a"]):
        assert_refused(run(*command, "deep.png", "--max-megapixels", "0.001"), "max-megapixels 1")
        assert run(*command, "deep.png", "--max-megapixels", "0.0012", "--sixteen-bit", "scale").exit_code == 0
        assert_refused(run(*command, "deep.png", "--max-megapixels", "-1"), "max_megapixels")


# names of what is written, and what is missing


@pytest.mark.parametrize(
    "args",
    [
        ["world", "-o", "w.zip", "--count", "1"],
        ["world", "-o", "w.tar.gz", "--count", "1"],
        ["quantize", TINY, "-o", "q.safetensors"],
        ["convert", TINY, "out.zip"],
        ["train", "nowhere.toml", "-o", "run.tar"],
    ],
    ids=lambda args: args[0],
)
def test_no_folder_gets_the_name_of_a_file(images, args):  # noqa: F811
    before = sorted(Path().iterdir())
    assert_refused(run(*args, model=None), "a folder is what would be written; expected the name of a folder")
    assert sorted(Path().iterdir()) == before


def test_a_folder_that_is_there_keeps_its_name(images, tmp_path):  # noqa: F811
    Path("q.bin").mkdir()
    assert run("quantize", TINY, "-o", "q.bin", model=None).exit_code == 0
    shutil.rmtree("q.bin")


def test_a_world_without_matplotlib_names_no_option_that_is_not_there(images, monkeypatch):  # noqa: F811
    found = util.find_spec
    monkeypatch.setattr("npsiglip.world.fonts.find_spec", lambda name: None if name == "matplotlib" else found(name))
    result = run("world", "-o", "w", "--count", "1", model=None)
    assert_refused(result, "pip install 'npsiglip[train]'", "in Python")


@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        (["verify"], "say what to compare with: --published"),
        (["classify", "one.png"], "give labels"),
        (["bench", "--model", "a", "--variant", "b"], "give --model or --variant, not both"),
    ],
)
def test_no_value_is_blamed_where_none_was_given(images, args, phrase):  # noqa: F811
    result = run(*args, model=None)
    assert result.exit_code == 2
    assert phrase in result.stderr
    assert "Invalid value" not in result.stderr
