"""What commands leave behind: results on a stdout that fails, JSON, names of outputs.

Covers folder_names.py as well.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npsiglip.cli import output
from npsiglip.cli.output import finite, to_json
from npsiglip.errors import InputError
from tests.helpers.command import LABEL_OPTIONS, assert_refused, environment, lines_of_json, run, run_process
from tests.helpers.golden_data import TINY

CLASSIFY = ["-m", "npsiglip", "classify", "one.png", "-l", "a", "--model", TINY]

# a stdout that fails


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
def test_a_full_disk_is_one_message_and_code_1(images, args, unbuffered):
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
def test_a_closed_stdout_is_an_error(images, args):
    result = run_process(*args, stdout=None, preexec_fn=closed(1))
    assert result.stderr.startswith("error: the results cannot be written to standard output: it is closed")
    assert result.returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors before exec")
def test_a_closed_stdout_is_told_before_the_model_is_loaded(images):
    args = [arg if arg != TINY else "nowhere" for arg in CLASSIFY]
    result = run_process(*args, stdout=None, preexec_fn=closed(1))
    assert "it is closed" in result.stderr
    assert "nowhere" not in result.stderr


@pytest.mark.skipif(os.name != "posix", reason="closes descriptors before exec")
@pytest.mark.parametrize("descriptor", [0, 1, 2])
def test_a_file_does_not_need_the_streams(images, model, descriptor):
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


def test_json_is_a_line_for_each_image_at_once(images, model, monkeypatch):
    """The lines of earlier passes are out when a later one fails."""
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", model.config.image.seq_len)
    Path("two.png").write_bytes(b"no image")
    result = run("classify", *images, *LABEL_OPTIONS, "--json")
    assert result.exit_code == 1
    assert lines_of_json(result.stdout) == [
        {"image": "one.png", "scores": model.classify("one.png", ["a cat", "two dogs"])[0]}
    ]


def test_what_is_not_finite_is_never_printed(images, monkeypatch):
    monkeypatch.setattr("npsiglip.zero_shot.rank", lambda labels, row: [{"label": "a", "score": float("nan")}])
    assert_refused(run("classify", "one.png", "-l", "a", "--json"), "not finite")
    for value in (float("nan"), [1.0, float("inf")]):
        with pytest.raises(InputError, match="not finite"):
            to_json(value)
    assert finite({"a": [1.5, float("nan"), {"b": float("-inf")}], "c": "NaN", "d": (1, None)}) == {
        "a": [1.5, None, {"b": None}], "c": "NaN", "d": [1, None]
    }  # fmt: skip


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
def test_no_folder_gets_the_name_of_a_file(images, args):
    before = sorted(Path().iterdir())
    assert_refused(run(*args, model=None), "a folder is what would be written; expected the name of a folder")
    assert sorted(Path().iterdir()) == before


def test_a_folder_that_is_there_keeps_its_name(images, tmp_path):
    Path("q.bin").mkdir()
    assert run("quantize", TINY, "-o", "q.bin", model=None).exit_code == 0
    shutil.rmtree("q.bin")


@pytest.mark.parametrize(
    ("args", "phrase"),
    [
        (["verify"], "give the trace of a port, or --published"),
        (["classify", "one.png"], "give labels"),
        (["bench", "--model", "a", "--variant", "b"], "give --model or --variant, not both"),
    ],
)
def test_no_value_is_blamed_where_none_was_given(images, args, phrase):
    result = run(*args, model=None)
    assert result.exit_code == 2
    assert phrase in result.stderr
    assert "Invalid value" not in result.stderr
