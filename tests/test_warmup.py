"""`npsiglip warmup`: after it, nothing is compiled, on one thread or on several; also where nothing can be written.

Covers cli/warmup.py as well.
"""

import os
import subprocess
import sys

import pytest

from npsiglip import InputError
from npsiglip.kernels import cache
from npsiglip.warmup import warm_up
from tests.helpers.golden_data import ROOT, TINY

CLASSIFY = ["classify", "docs/images/example.png", "-l", "a", "--model", str(TINY)]


def npsiglip(*args, folder):
    return subprocess.run(
        [sys.executable, "-m", "npsiglip", *map(str, args)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(folder), "NUMBA_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.slow
def test_after_it_nothing_is_compiled(tmp_path):
    result = npsiglip("warmup", "--model", TINY, "--dtype", "float32", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    told, last = result.stderr.splitlines()
    assert told.startswith("Compiling kernels")
    (folder,) = (tmp_path / "npsiglip").iterdir()
    files = list(folder.iterdir())
    size = sum(path.stat().st_size for path in files) / 1e6
    assert last.startswith(f"{folder}: {len(files)} kernels, {size:.1f} MB, {len(files)} of them compiled now")
    for path in files:
        path.chmod(0o444)
    for threads in (1, 2):
        result = npsiglip(*CLASSIFY, "--threads", threads, folder=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
    result = npsiglip(
        "embed", "docs/images/example.png", "a text", "-o", tmp_path / "x.npy", "--model", TINY, folder=tmp_path
    )
    assert "Compiling" not in result.stderr
    assert result.returncode == 0, result.stderr
    assert set(folder.iterdir()) == set(files)
    again = npsiglip("warmup", "--model", TINY, "--dtype", "float32", folder=tmp_path)
    assert again.stderr.startswith(f"{folder}: {len(files)} kernels, {size:.1f} MB, 0 of them compiled now")


@pytest.mark.slow
def test_dtypes_of_the_model_and_training(monkeypatch):
    """What is in this suite's own cache, or is put there: every kernel is one that other tests compile, too."""
    said = []
    warm = warm_up(TINY, train=True, say=said.append)
    models, search, training = (
        ["float32", "bfloat16", "int8"],
        ["search in float32 and float16"],
        ["float32", "bfloat16"],
    )
    assert [text.partition(":")[0] for text in said] == models + search + training
    assert warm.folder == cache.FOLDER
    assert warm.files >= 20
    assert warm_up(TINY, train=True).compiled == 0


def test_a_cache_that_cannot_be_written_is_an_error(monkeypatch):
    monkeypatch.setattr(cache, "failed", lambda: True)
    with pytest.raises(InputError, match="cannot be written"):
        warm_up(TINY, ["float32"])
    monkeypatch.undo()
    with pytest.raises(InputError, match="dtype must be one of"):
        warm_up(TINY, ["float64"])
