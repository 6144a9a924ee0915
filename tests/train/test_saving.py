"""Checkpoints: everything comes back, a failed write changes nothing, other settings are told."""

import resource

import numpy as np
import pytest

from npsiglip.errors import CheckpointError, InputError
from npsiglip.train import saving
from npsiglip.train.flat import Flat
from npsiglip.train.saving import State
from tests.helpers.arrays import normal
from tests.helpers.train_standin import config

SHAPES = {"a.w": (3, 5), "b": (), "c": (20_000,)}


def filled(seed):
    made = Flat(SHAPES)
    made.vector[:] = normal(seed, made.vector.size)
    return made


def save(folder, step=3):
    state = State(step, {"train.batch": 4, "optimizer.rate": 0.1}, "hash", [0.1, 1 / 3], {"total": 1.5})
    vectors = [filled(10 * step + i) for i in range(3)]
    saving.save(folder, state, *vectors)
    return state, vectors


def check(folder, state, vectors):
    assert saving.load_state(folder) == state
    loaded = [Flat(SHAPES) for _ in range(3)]
    saving.load_tensors(folder, *loaded)
    for ours, truth in zip(loaded, vectors, strict=True):
        np.testing.assert_array_equal(ours.vector, truth.vector)


def test_everything_comes_back(tmp_path):
    assert saving.load_state(tmp_path) is None
    save(tmp_path, 2)
    check(tmp_path, *save(tmp_path))


@pytest.fixture
def small_files():
    """No file of this process may grow beyond 50,000 bytes: what a full disk does, in other words."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def begin():
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))

    yield begin
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_without_room_keeps_the_last_checkpoint(tmp_path, small_files):
    before = save(tmp_path)
    small_files()
    with pytest.raises(CheckpointError, match=r"step 4 cannot be written .*; the checkpoint before it is kept"):
        save(tmp_path, 4)
    check(tmp_path, *before)
    assert [path.name for path in tmp_path.iterdir()] == [saving.FILE]


def test_no_room_for_the_first_checkpoint(tmp_path, small_files):
    small_files()
    with pytest.raises(CheckpointError, match="there is none before it"):
        save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_removed(tmp_path):
    before = save(tmp_path)
    (tmp_path / ".npsiglip-abc").mkdir()
    (tmp_path / ".npsiglip-abc" / saving.FILE).write_bytes(b"half")
    saving.clean(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [saving.FILE]
    check(tmp_path, *before)


def test_other_settings_are_told(tmp_path):
    state, _ = save(tmp_path)
    saving.check_settings(state, {"train.batch": 4, "optimizer.rate": 0.1}, tmp_path)
    with pytest.raises(InputError) as error:
        saving.check_settings(state, {"train.batch": 8, "optimizer.rate": 0.1, "train.lock": "image"}, tmp_path)
    lines = [line for line in str(error.value).splitlines() if line.startswith("- ")]
    assert lines == [
        "- train.batch: 4 in the checkpoint, 8 now",
        "- train.lock: 'not set' in the checkpoint, 'image' now",
    ]


def test_settings_of_sources_that_were_not_there_yet_had_their_defaults(tmp_path):
    source = {"kind": "classes", "path": ["x"], "augment": {"crop": 0.5}}
    now = config(data={"sources": [source]}).deciding()
    old = {key: value for key, value in now.items() if not key.endswith((".shake", ".outline", ".ink"))}
    assert len(old) == len(now) - 3
    assert saving.differences(old, now) == []
    other = config(data={"sources": [source | {"augment": {"crop": 0.5, "shake": 0.5}}]}).deciding()
    assert saving.differences(old, other) == ["data.sources.0.augment.shake: 'not set' in the checkpoint, 0.5 now"]


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_damaged_checkpoints(tmp_path, content):
    (tmp_path / saving.FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match="checkpoint"):
        saving.load_state(tmp_path)


def test_a_checkpoint_of_another_model(tmp_path):
    save(tmp_path)
    with pytest.raises(CheckpointError, match=r"params/b is \[\], not \[2\]"):
        saving.load_tensors(tmp_path, Flat(SHAPES | {"b": (2,)}))
    with pytest.raises(CheckpointError, match="cannot be read as a checkpoint of this model"):
        saving.load_tensors(tmp_path, Flat({"z": (2,)}))
