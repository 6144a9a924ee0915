"""Model folders that are written: whole or as they were, whatever happens.

Covers atomic.py as well.
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
from safetensors import safe_open

from npsiglip.checkpoint import Checkpoint
from npsiglip.errors import CheckpointError, InputError
from npsiglip.params import random_params
from npsiglip.save import save_folder
from tests.helpers.model_folders import BOTH, PARAMS, assert_same, listing, sharded, write


@pytest.mark.parametrize("shard", [None, 4000])
def test_every_file_says_its_format(tmp_path, shard):
    """transformers 4 refuses files that do not."""
    for path in write(tmp_path, max_shard_bytes=shard).glob("*.safetensors"):
        with safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}


def test_files_have_the_usual_permissions(tmp_path):
    write(tmp_path)
    (tmp_path / "plain").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_again_replaces(tmp_path):
    write(tmp_path)
    old = Checkpoint.open(tmp_path)
    new = random_params(BOTH, seed=2)
    save_folder(tmp_path, BOTH, new)
    assert_same(Checkpoint.open(tmp_path), new)
    assert_same(old, PARAMS)  # what is open stays


def test_a_checkpoint_can_be_saved_as_another_type(tmp_path):
    save_folder(tmp_path / "half", BOTH, Checkpoint.open(write(tmp_path / "full")), "float16")
    assert_same(Checkpoint.open(tmp_path / "half"), PARAMS, np.float16)
    save_folder(tmp_path / "half", BOTH, Checkpoint.open(tmp_path / "half"), "float16")  # over itself
    assert_same(Checkpoint.open(tmp_path / "half"), PARAMS, np.float16)


@pytest.mark.parametrize("shard", [None, 2000])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: p.pop("image.map_head.probe"), "- image.map_head.probe"),
        (lambda p: p.update(extra=np.ones(3)), r"\+ extra"),
        (lambda p: p.update(bias=np.ones(2)), r"bias must be \[\] by the configuration, got \[2\]"),
        (lambda p: p.update(t_prime=np.array(np.nan)), r"t_prime as float16 .* first nan at \[\]; the parameters"),
        (lambda p: p.update(bias=np.array(-7e4)), r"first -inf at \[\]; float16 ends at 65504: save as float32"),
    ],
)
def test_a_failed_save_leaves_all_files_as_they_were(tmp_path, change, expected, shard):
    write(tmp_path, max_shard_bytes=shard)
    before, params = listing(tmp_path), dict(PARAMS)
    change(params)
    with pytest.raises(CheckpointError, match=expected):
        save_folder(tmp_path, BOTH, params, "float16", shard)
    assert listing(tmp_path) == before
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_full_disk_leaves_all_files_as_they_were(tmp_path):
    """Simulated by a limit on the size of files, in a process of its own."""
    write(tmp_path)
    before = listing(tmp_path)
    code = (
        "import resource, signal, sys; from npsiglip.save import *; from npsiglip.params import random_params\n"
        "c = Checkpoint.open(sys.argv[1]).config; p = random_params(c, 2)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try: save_folder(sys.argv[1], c, p)\n"
        "except CheckpointError as error: print(error)\n"
    )
    signal_ignored = lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # noqa: E731
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, preexec_fn=signal_ignored
    )
    assert run.stderr == "" and "cannot be written: " in run.stdout
    assert listing(tmp_path) == before and len(list(tmp_path.iterdir())) == 2


def test_no_mix_of_one_file_and_several(tmp_path):
    write(tmp_path / "one")
    sharded(tmp_path / "several")
    for folder, shard, other in [
        (tmp_path / "one", 4000, "model.safetensors"),
        (tmp_path / "several", None, "model.safetensors.index.json"),
    ]:
        before = listing(folder)
        with pytest.raises(CheckpointError, match=rf"already holds weights in another form \({other}\)"):
            write(folder, max_shard_bytes=shard)
        assert listing(folder) == before


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path)


def test_options(tmp_path):
    with pytest.raises(InputError, match="dtype must be one of float32, float16, bfloat16; got 'int8'"):
        write(tmp_path, dtype="int8")
    with pytest.raises(InputError, match="max_shard_bytes must be positive"):
        write(tmp_path, max_shard_bytes=0)
    assert list(tmp_path.iterdir()) == []
