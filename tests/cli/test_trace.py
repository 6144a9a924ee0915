"""`npsiglip trace` and `npsiglip verify CANDIDATE`: files, exit codes, messages. Covers cli/verify.py as well."""

import json
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from npsiglip.cli import app
from tests.helpers.golden_data import ROOT, TINY

PICTURE = str(ROOT / "docs" / "images" / "example.png")
LABELS = ["-l", "a", "-l", "b c"]


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture
def golden(tmp_path):
    path = tmp_path / "golden.safetensors"
    result = run("trace", PICTURE, *LABELS, "-o", path, "--model", TINY)
    assert (result.exit_code, result.stdout) == (0, ""), result.output
    assert f"{path}: 92 tensors in float64" in result.stderr
    return path


@pytest.fixture
def candidate(tmp_path):
    path = tmp_path / "candidate.safetensors"
    result = run("trace", PICTURE, *LABELS, "-o", path, "--model", TINY, "--dtype", "float32")
    assert result.exit_code == 0, result.output
    return path


def changed(path, name, change):
    tensors = load_file(path)
    tensors[name] = change(tensors[name])
    save_file(tensors, path)


def test_a_trace_conforms(golden, candidate):
    for how in (("--golden", golden), (PICTURE, *LABELS, "--model", TINY)):
        result = run("verify", candidate, *how)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith("Conforms: 90 of 90 taps")
        assert all(len(line) <= 80 for line in result.stdout.split("\n\n")[1].splitlines())


def test_json_says_what_scripts_rely_on(golden, candidate, tmp_path):
    changed(candidate, "text.blocks.01.mlp.gelu", lambda x: np.maximum(x, 0))
    result = run("verify", candidate, "--golden", golden, "--json", "--junit", tmp_path / "junit.xml")
    assert result.exit_code == 1, result.output
    found = json.loads(result.stdout)
    assert found["verdict"] == "diverges"
    assert found["first"]["tap"] == "text.blocks.01.mlp.gelu"
    assert found["coverage"] == {"compared": 90, "missing": [], "unknown": []}
    assert found["repeat"] == f"npsiglip verify {candidate} --golden {golden}"
    assert 'failures="2"' in (tmp_path / "junit.xml").read_text()  # and fc2, which had another input


def test_gradients_are_written_and_compared(tmp_path):
    golden, found = tmp_path / "golden.safetensors", tmp_path / "found.safetensors"
    inputs = (PICTURE, PICTURE, *LABELS, "--model", TINY, "--gradients")
    assert run("trace", *inputs, "-o", golden).exit_code == 0
    assert run("trace", *inputs, "-o", found, "--dtype", "float32", "--taps", "grad.*", "--taps", "loss").exit_code == 0
    stored = load_file(golden)
    assert stored["loss"].shape == () and stored["grad.t_prime"].dtype == np.float64
    result = run("verify", found, "--golden", golden)
    assert (result.exit_code, result.stdout[:9]) == (0, "Conforms:"), result.output
    for name in load_file(found):
        if name.startswith("grad.image.blocks.00.ln1"):
            changed(found, name, lambda x: 2 * x)
    result = run("verify", found, "--golden", golden)
    assert result.exit_code == 1
    assert "walking back from the loss, at grad.image.blocks.00.ln1" in " ".join(result.stdout.split())
    result = run("trace", PICTURE, *LABELS, "--model", TINY, "--gradients", "-o", golden)
    assert result.exit_code == 1
    assert "got 1 images, 2 labels" in result.stderr


def test_a_command_that_leaves_the_candidate(golden, candidate, tmp_path):
    copy = f"import shutil; shutil.copy({str(candidate)!r}, {str(tmp_path / 'made.safetensors')!r})"
    result = run("verify", tmp_path / "made.safetensors", "--golden", golden, "--run", f'{sys.executable} -c "{copy}"')
    assert result.exit_code == 0, result.output
    for command, message in (
        (f'{sys.executable} -c "raise SystemExit(3)"', "ended with exit code 3"),
        (f'{sys.executable} -c "import time; time.sleep(60)"', "took more than 1 s: give more with --timeout"),
        ("no-such-program", "cannot be run"),
    ):
        result = run("verify", candidate, "--golden", golden, "--run", command, "--timeout", 1)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


def test_what_cannot_be_told_exits_with_2(golden, candidate, tmp_path):
    for args, message in (
        ((tmp_path / "nothing", "--golden", golden), "does not exist; expected a .safetensors"),
        ((candidate, "--golden", tmp_path / "nothing"), "does not exist; expected a .safetensors"),
        ((candidate, "--golden", golden, "--model", "builtin"), "is a trace of other weights than builtin's"),
        ((candidate, "--golden", golden, "--names", "torch"), "names must be auto or one of"),
        (
            (candidate, "--golden", golden, "--html", tmp_path / "no" / "x.html"),
            "expected a file in a folder that exists",
        ),
    ):
        result = run("verify", *args)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert message in result.stderr
    partial = tmp_path / "partial.safetensors"
    assert run("trace", PICTURE, "-o", partial, "--taps", "zimg", "--model", TINY).exit_code == 0
    assert list(load_file(partial)) == ["zimg"]
    result = run("verify", candidate, "--golden", partial)
    assert result.exit_code == 2
    assert "has neither image.pixels nor text.ids" in result.stderr


@pytest.mark.parametrize(
    "args, message",
    [
        (("verify",), "give the trace of a port"),
        (("verify", "x.npz"), "say what the trace is of"),
        (("verify", "x.npz", "a.png", "--golden", "g.npz"), "not both"),
        (("trace",), "give images, labels"),
    ],
)
def test_what_is_missing_is_said(args, message):
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr


def test_a_trace_that_cannot_be_made(tmp_path):
    for args, message in (
        ((PICTURE, "-o", tmp_path / "t.bin"), "must end in .safetensors or .npz"),
        ((PICTURE, "-o", tmp_path / "t.npz", "--dtype", "int4"), "dtype must be one of float64, float32"),
        ((PICTURE, "-o", tmp_path / "t.npz", "--taps", "x*"), "no tap is called x*"),
        (("nothing.png", "-o", tmp_path / "t.npz"), "nothing.png"),
    ):
        result = run("trace", *args, "--model", TINY)
        assert result.exit_code == 1, result.output
        assert message in result.stderr
        assert list(tmp_path.iterdir()) == []
