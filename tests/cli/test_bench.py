"""`npsiglip bench`: its table, its JSON, peers that are not there, what is refused before anything starts.

Covers bench/kernels.py as well.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from npsiglip.checkpoint import Checkpoint
from npsiglip.cli import bench as command
from npsiglip.config import SigLIPConfig
from npsiglip.params import random_params
from npsiglip.save import save_npz
from tests.helpers.golden_data import ROOT, TINY


def run_command(*arguments, **environment):
    result = subprocess.run(
        [sys.executable, "-m", "npsiglip", "bench", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40", **environment},
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    return result


def test_command_table():
    result = run_command("--model", TINY, "--runs", 2, "--threads", 1, "--case", "text:2")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("text:2  npsiglip ")]
    assert row.rstrip().endswith("%")  # of the limit
    assert sum("GB/s" in line for line in result.stdout.splitlines()) == 1
    assert "float32, 1 threads, 2 rounds" in result.stdout
    assert "starting npsiglip ..." in result.stderr
    assert "…" not in result.stdout


def test_command_json():
    result = run_command("--model", TINY, "--runs", 3, "--threads", 1, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [case["case"] for case in report["cases"]] == ["image:1", "text:1"]
    for case in report["cases"]:
        (timing,) = case["timings"]
        assert len(timing["runs"]) == 3
        assert 0 < timing["seconds"]["min"] == min(timing["runs"])
        assert timing["gflops"] == pytest.approx(case["gflop"] / timing["seconds"]["median"])
        assert 0 < timing["of_limit"] < 1
    assert report["model"]["name"] == str(TINY)
    assert report["machine"]["cpu"]
    assert set(report["engines"]["npsiglip"]) == {"npsiglip", "numba", "numpy", "python"}


@pytest.fixture
def python_without(tmp_path):
    """Makes a Python that lacks modules; torch is there, if it is not one of them."""

    def make(*modules):
        python = tmp_path / "python"
        hide = f"import sys, runpy; sys.modules.update(dict.fromkeys({modules!r})); sys.argv[:] = sys.argv[1:]"
        stub = "import types; sys.modules.setdefault('torch', types.ModuleType('torch'))"
        run = "sys.path.insert(0, ''); runpy.run_path(sys.argv[0], run_name='__main__')"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{hide}; {stub}; {run}" "$@"\n')
        python.chmod(0o755)
        return python

    return make


@pytest.mark.parametrize(
    ("peer", "module"),
    [
        ("transformers", "torch"),
        ("transformers", "transformers"),
        ("onnxruntime", "onnxruntime"),
        ("openvino", "openvino"),
    ],
)
def test_command_without_the_peer(python_without, peer, module):
    python = python_without(module)
    result = run_command("--model", TINY, "--threads", 1, "--peer", peer, "--peer-python", python)
    assert result.returncode == 1
    assert result.stdout == ""
    message = " ".join(result.stderr.split())
    assert f"error: {peer} cannot be timed: {python} has no module '{module}'; install it there" in message
    assert "pip install 'npsiglip[bench]'" in message


@pytest.mark.slow
def test_command_with_all_peers_of_which_none_is_there(python_without):
    python = python_without("torch", "onnxruntime", "openvino")
    arguments = ["--model", TINY, "--threads", 1, "--runs", 1, "--case", "text:1", "--dtype", "bfloat16"]
    result = run_command(*arguments, "--peer", "all", "--peer-python", python, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["dtype"] == "bfloat16"
    assert report["left_out"] == {
        "onnxruntime": "it computes in float32 or int8, not in bfloat16",
        **{
            peer: f"{python} has no module '{module}'; install it there (pip install 'npsiglip[bench]')"
            for peer, module in (("transformers", "torch"), ("openvino", "openvino"))
        },
    }
    (timing,) = report["cases"][0]["timings"]
    assert 0 < timing["agreement"] < 0.1
    for name, reason in report["left_out"].items():
        assert result.stderr.count(f"warning: {name} is left out: {reason}") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--peer", "caffe"], 1, "peer 'caffe' is not known"),
        (["--peer", "openvino", "--dtype", "int8"], 1, "openvino cannot be timed: it computes in float32 or bfloat16"),
        (["--dtype", "float8"], 1, "dtype must be one of float32, bfloat16, int8; got 'float8'"),
        (["--case", "image"], 1, "such as image:8"),
        (["--threads", "4096"], 1, "threads must be from 1 to"),
        (["--variant", "siglip-huge"], 1, "unknown checkpoint 'siglip-huge': did you mean siglip-"),
        (["--model", "no/such/folder"], 1, "does not exist"),
        (["--model", str(TINY), "--variant", "siglip-base-patch16-224"], 2, "not both"),
        (["--runs", "0"], 2, "--runs"),
    ],
)
def test_command_refuses_before_it_starts_anything(arguments, code, message):
    result = run_command(*arguments)
    assert result.returncode == code
    assert message in " ".join(result.stderr.split())
    assert "starting" not in result.stderr
    assert "random weights" not in result.stderr
    assert result.stdout == ""


def test_random_folder_is_the_model_and_is_deleted(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = []
    with command._random_folder("tiny", tiny_config, said.append) as folder:
        weights, stored = random_params(tiny_config, command.SEED), Checkpoint.open(folder)
        assert all(np.array_equal(stored[name], weights[name]) for name in stored)
        assert SigLIPConfig.from_folder(folder) == tiny_config
        assert Path(folder).parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert said == ["random weights for tiny"]


@pytest.mark.slow
def test_kernels_are_timed_in_the_shapes_of_a_block(tiny_folder):
    """Products, attention and LayerNorm of both towers, each beside its limit."""
    arguments = ["--model", str(tiny_folder), "--kernels", "--threads", "1", "--runs", "2", "--json"]
    result = run_command(*arguments, "--dtype", "int8", "--case", "image:2")
    report = json.loads(result.stdout)
    found = {kernel["kernel"]: kernel for kernel in report["kernels"]}
    names = ["LayerNorm + quantise", "q, k and v", "attention", "out + residual", "fc1 + GELU", "fc2 + residual"]
    assert list(found) == names
    assert found["q, k and v"]["shape"] == "50 x 36 x 108"
    assert found["q, k and v"]["dtype"] == "int8"
    assert found["attention"]["dtype"] == "float32"  # an odd head width
    for name in names[1:]:
        kernel = found[name]
        assert len(kernel["runs"]) == 2
        assert kernel["rate"] > 0
        assert 0 < kernel["of_limit"]["median"] < 2


def test_kernels_have_no_peers(tiny_folder):
    result = run_command("--model", str(tiny_folder), "--kernels", "--peer", "transformers", "--threads", "1")
    assert result.returncode == 2
    assert "nobody else can be timed" in " ".join(result.stderr.split())


def test_other_engines_cannot_read_an_npz(tiny_folder, tiny_config, tmp_path):
    path = tmp_path / "tiny.npz"
    save_npz(path, tiny_config, Checkpoint.open(tiny_folder))
    result = run_command("--model", str(path), "--peer", "transformers", "--threads", "1")
    assert result.returncode == 1
    assert f"npsiglip convert {path} FOLDER" in " ".join(result.stderr.split())
