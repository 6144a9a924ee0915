"""What goes wrong around `npsiglip index` and `npsiglip search`, from end to end: one message, nothing lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npsiglip import Index
from npsiglip.collection.store import Store
from tests.helpers.collections import content, draw, draw_folder
from tests.helpers.command import assert_refused, environment, invoke, lines_of_json
from tests.helpers.golden_data import TINY


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def index(*args):
    return invoke("index", *args, "--model", TINY)


ODD = [b"new\nline.png", b"caf\xe9.png", b"-k.png", b" .png", b"a + b.png", b"tab\t'\".png", "図.png".encode()]


def test_names_that_nobody_expects(place, model):
    """Each is found, and comes out as it is on disk, or in one line."""
    for i, name in enumerate(ODD):
        draw(Path("photos") / f"{i}.png", i).rename(Path("photos") / os.fsdecode(name))
    Path("photos", os.fsdecode(b"bad\n\xff.png")).write_bytes(b"bad")
    result = index("photos", "-i", "idx")
    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 2
    expected = {os.fsencode(place) + b"/photos/" + name for name in ODD}
    search = ["search", "a cat", "-i", "idx"]
    shown = invoke(*search)
    assert len(shown.stdout.splitlines()) == len(ODD)
    assert "new\\nline.png" in shown.stdout
    assert set(invoke(*search, "-0").stdout_bytes.split(b"\0")) == expected | {b""}
    assert set(invoke(*search, "--paths").stdout_bytes.split(b"\n")) > expected - {
        os.fsencode(place) + b"/photos/" + ODD[0]
    }
    (line,) = lines_of_json(invoke(*search, "--json").stdout)
    assert {each["item"].encode("utf-8", "surrogateescape") for each in line["results"]} == expected
    for sheet in ("x.png", "x.html"):
        assert invoke(*search, "--sheet", sheet).exit_code == 0
    for name in expected:
        (similar,) = lines_of_json(invoke("similar", os.fsdecode(name), "-i", "idx", "--json", "-k", 20).stdout)
        assert len(similar["results"]) == len(ODD) - 1
    failures = invoke("index", "info", "--failures", "-i", "idx").stdout
    assert len(failures.splitlines()) == 1
    assert "bad\\n" in failures
    assert invoke("dedupe", "-i", "idx", "--json").exit_code == 0
    assert invoke("index", "export", "x.npy", "-i", "idx").exit_code == 0
    assert set(map(os.fsencode, json.loads(Path("x.json").read_text(encoding="utf-8")))) == expected
    again = index("photos", "-i", "idx")
    assert "7 images in idx: 0 new, 7 as before; skipped 1" in again.stderr


FULL = """
import resource, signal, sys
from npsiglip.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
sys.argv[1:2] = []
main()
"""


@pytest.mark.parametrize("limit", [600, 32_800])
def test_a_full_disk(place, limit):
    """A limit on the size of files stands for the disk: when the index is made, and at a later commit."""
    draw_folder(Path("photos"), 80)
    command = ["index", "photos", "--model", TINY, "--shard-rows", "10"]
    assert invoke(*command, "-i", "whole").exit_code == 0
    process = subprocess.run(
        [sys.executable, "-c", FULL, str(limit), *map(str, command), "-i", "idx"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (process.returncode, process.stdout) == (1, "")
    assert "cannot be written (" in process.stderr
    assert "run the same command again, which goes on from there" in process.stderr
    assert "Traceback" not in process.stderr
    if limit > 600:
        with Store.open("idx") as store:
            assert 0 < len(store) < 80
    assert invoke(*command, "-i", "idx").exit_code == 0
    assert content(Path("idx")) == content(Path("whole"))


def test_a_disk_that_cannot_be_written(place, monkeypatch):
    """Searched as ever; what would write says so."""
    draw_folder(Path("photos"), 4)
    index("photos", "-i", "idx")
    Path("queries.txt").write_text("a cat\na dog\n", encoding="utf-8")
    before = content(Path("idx"))
    real_open, real_mkdir = Path.open, os.mkdir

    def opens(self, mode="r", *args, **options):
        if set(mode) & set("wa+x"):
            raise OSError(30, "Read-only file system")
        return real_open(self, mode, *args, **options)

    def mkdir(path, *args, **options):
        if ".npsiglip-" in str(path):
            raise OSError(30, "Read-only file system", str(path))
        return real_mkdir(path, *args, **options)

    monkeypatch.setattr(Path, "open", opens)
    monkeypatch.setattr(os, "mkdir", mkdir)
    assert len(invoke("search", "a cat", "-i", "idx").stdout.splitlines()) == 4
    assert invoke("index", "check", "-i", "idx").exit_code == 0
    draw(Path("photos/new.png"), 9)
    assert_refused(index("photos", "-i", "idx"), "cannot be written (Read-only file system); nothing was changed")
    calibrate = invoke("calibrate", "--estimate", "queries.txt", "-i", "idx")
    assert_refused(calibrate, "calibration.json cannot be written (Read-only file system)")
    assert_refused(invoke("index", "export", "x.npy", "-i", "idx"), "x.npy cannot be written (Read-only file system)")
    sheet = invoke("search", "a", "-i", "idx", "--sheet", "x.png")
    assert (sheet.exit_code, len(sheet.stdout.splitlines())) == (1, 4)  # what was found is shown
    assert "x.png cannot be written (Read-only file system)" in sheet.stderr
    monkeypatch.undo()
    assert content(place / "idx") == before


def test_two_processes(place):
    """The second is told which one writes; a search need not wait."""
    draw_folder(Path("photos"), 4)
    index("photos", "-i", "idx")
    with Store.open("idx", write=True):
        refused = index("photos", "-i", "idx")
        assert_refused(refused, f"is being written by process {os.getpid()} on", "use --shard i/n")
        assert len(invoke("search", "a cat", "-i", "idx").stdout.splitlines()) == 4
    assert index("photos", "-i", "idx").exit_code == 0


@pytest.mark.parametrize("damage", ["cut short", "another file"])
def test_a_damaged_database(place, damage):
    """Each command says so in a line, and where to look."""
    draw_folder(Path("photos"), 30)
    index("photos", "-i", "idx")
    path = Path("idx/index.sqlite")
    path.write_bytes(path.read_bytes()[:9000] if damage == "cut short" else b"x" * 9000)
    for command in (["search", "a cat"], ["similar", "photos/even/000.png"], ["index", "info"], ["dedupe"]):
        assert_refused(invoke(*command, "-i", "idx"), "`npsiglip index check -i idx` says what is lost")
    assert_refused(index("photos", "-i", "idx"), "`npsiglip index check -i idx` says what is lost")
    check = invoke("index", "check", "-i", "idx")
    assert (check.exit_code, check.stdout.count("\n")) == (1, 1)
    assert "copy the index from a backup" in check.stdout


def test_more_than_there_are(place, model):
    draw_folder(Path("photos"), 4)
    index("photos", "-i", "idx")
    for k in (4, 5, 10**12):
        assert len(invoke("search", "a cat", "-i", "idx", "-k", k).stdout.splitlines()) == 4
        assert len(invoke("similar", "photos/even/000.png", "-i", "idx", "-k", k).stdout.splitlines()) == 3
    for k in (0, -1):
        assert invoke("search", "a cat", "-i", "idx", "-k", k).exit_code == 2
    with Index.open("idx", model) as opened:
        assert len(opened.search("a cat", 10**12)[0]) == 4
        np.testing.assert_array_equal(opened.vectors, model.encode_image(opened.keys))
