"""Files of the world: tar and folder hold the stream, and are whole or as they were."""

import errno
import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from npsiglip.errors import InputError
from npsiglip.world import (
    World,
)
from npsiglip.world.shards import write_samples
from npsiglip.world.vocabulary import HELD_OUT_STYLES
from tests.helpers.command import invoke
from tests.helpers.worlds import SINGLE


def run(*arguments):
    return invoke("world", *arguments)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_tar_and_folder_hold_the_stream(tmp_path):
    world = World(7, 48)
    write_samples(world, 3, tmp_path / "w.tar")
    write_samples(world, 3, tmp_path / "w")
    with tarfile.open(tmp_path / "w.tar") as archive:
        names = archive.getnames()
        files = {name: archive.extractfile(name).read() for name in names}
    assert names == [f"{i:06}.{suffix}" for i in range(3) for suffix in ("png", "txt", "json")]
    assert contents(tmp_path / "w") == files
    for i in range(3):
        image, caption, scene = world.sample(i)
        stored = Image.open(io.BytesIO(files[f"{i:06}.png"]))
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(image))
        assert files[f"{i:06}.txt"].decode() == caption
        facts = json.loads(files[f"{i:06}.json"])
        assert (facts["index"], facts["seed"], facts["split"], facts["kind"]) == (i, 7, "train", scene.kind)
        assert [thing["shape"] for thing in facts["things"]] == [thing.shape for thing in scene.things]
    write_samples(world, 3, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == (tmp_path / "w.tar").read_bytes()


def test_command_writes_and_says_so(tmp_path):
    result = run("--out", tmp_path / "w.tar", "--count", 2, "--size", 32, "--split", "test", "--unseen", "styles")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "2 pictures with captions in" in result.stderr
    with tarfile.open(tmp_path / "w.tar") as archive:
        facts = json.loads(archive.extractfile("000001.json").read())
    assert facts["split"] == "test"
    assert facts["things"][0]["style"] in HELD_OUT_STYLES


@pytest.mark.parametrize("name", ["w.tar", "w"])
def test_nothing_is_replaced_without_force(tmp_path, name):
    out = tmp_path / name
    assert run("--out", out, "--count", 2).exit_code == 0
    before = out.read_bytes() if out.is_file() else contents(out)
    result = run("--out", out, "--count", 1, "--seed", 5)
    assert result.exit_code == 1
    assert "--force" in result.stderr
    assert before == (out.read_bytes() if out.is_file() else contents(out))
    assert run("--out", out, "--count", 1, "--seed", 5, "--force").exit_code == 0
    if out.is_dir():
        assert sorted(contents(out)) == ["000000.json", "000000.png", "000000.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]


def test_folder_with_other_files_is_never_replaced(tmp_path):
    out = tmp_path / "photos"
    out.mkdir()
    assert run("--out", out, "--count", 1).exit_code == 0  # an empty folder is as good as none
    (out / "holiday.jpg").write_bytes(b"precious")
    result = run("--out", out, "--count", 1, "--force")
    assert result.exit_code == 1
    assert "holiday.jpg" in result.stderr
    assert (out / "holiday.jpg").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "w.tar", "--count", 0], "must be 1 or more, got 0"),
        (["--out", "w.tar", "--count", -4], "must be 1 or more, got -4"),
        (["--out", "none/w.tar"], "cannot be written"),
        (["--out", "none/w"], "cannot be written"),
        (["--out", "folder.tar"], "is a folder"),
        (["--out", "file"], "is a file"),
        (["--out", "w", "--size", 8], "must be from 32 to 512"),
        (["--out", "w", "--unseen", "styles"], 'split="test"'),
    ],
)
def test_what_cannot_be_written(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "file").write_text("text")
    result = run(*arguments)
    assert result.exit_code == 1
    assert message in result.stderr.replace("\n", " ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder.tar"]


@pytest.mark.parametrize("name", ["w.tar", "w"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_full_disk_or_interrupt_loses_nothing(tmp_path, monkeypatch, name, error):
    out = tmp_path / name
    write_samples(World(1, 32), 2, out)
    before = out.read_bytes() if out.is_file() else contents(out)

    def fail(world, index):
        if index == 1:
            raise error
        return {"png": b"half"}

    monkeypatch.setattr("npsiglip.world.shards.sample_files", fail)
    result = run("--out", out, "--count", 3, "--force")
    assert result.exit_code == (1 if isinstance(error, OSError) else 130)
    if isinstance(error, OSError):
        assert "No space left on device" in result.stderr
    assert before == (out.read_bytes() if out.is_file() else contents(out))
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    out = tmp_path / "w"
    write_samples(World(1, 32), 1, out)
    before, rename = contents(out), type(out).rename

    def fail(self, target):
        if self.name == "new":
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(type(out), "rename", fail)
    with pytest.raises(InputError, match="Input/output error"):
        write_samples(World(2, 32), 1, out, force=True)
    assert contents(out) == before


def test_progress_is_told(tmp_path):
    told = []
    write_samples(World(1, 32, mix=SINGLE), 3, tmp_path / "w", say=lambda done, count: told.append((done, count)))
    assert told == [(1, 3), (2, 3), (3, 3)]
