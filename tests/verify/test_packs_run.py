"""Candidates that are commands: what they are given, and those that crash, hang, or leave nothing of use."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from npsiglip import InputError
from npsiglip.verify.packs import Pack
from npsiglip.verify.packs_export import export, tiny_model
from npsiglip.verify.packs_run import verify_pack
from tests.helpers.packs import computed


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("a pack") / "pack"
    export(tiny_model(), folder, "npz", "tiny")
    return folder


@pytest.fixture
def command(tmp_path):
    """A command that runs some lines of Python, in which PACK and OUT are the folders that it is given."""

    def write(lines):
        script = tmp_path / "port.py"
        script.write_text(f"import sys, time\nfrom pathlib import Path\nPACK, OUT = map(Path, sys.argv[1:])\n{lines}\n")
        return f"'{sys.executable}' '{script}'"

    return write


COPY = """
import numpy as np
tensors = np.load(PACK / "tensors.npz")
assert not list(OUT.iterdir())
np.savez(OUT / "mine.npz", zimg=tensors["zimg"], logits=tensors["logits"] {wrong})
"""


def test_a_command_that_leaves_results(pack, command):
    report = verify_pack(pack, command(COPY.format(wrong="")), repeat="again")
    assert (report.verdict, len(report.scored), report.repeat) == ("conforms", 2, "again")
    report = verify_pack(pack, command(COPY.format(wrong="+ 12")))
    assert (report.verdict, report.first(4).check.tap) == ("diverges", "logits")


def test_a_folder_or_a_file(pack, tmp_path):
    found = computed(Pack(pack))
    (tmp_path / "npy").mkdir()
    np.savez(tmp_path / "t.npz", **found)
    np.save(tmp_path / "npy" / "level2.zimg.npy", found["level2.zimg"])
    (tmp_path / "npy" / "level2").mkdir()
    np.save(tmp_path / "npy" / "level2" / "ztxt.npy", found["level2.ztxt"])
    assert verify_pack(pack, str(tmp_path / "t.npz")).verdict == "conforms"
    report = verify_pack(pack, str(tmp_path / "npy"))
    assert (report.verdict, report.counts(2)[:2], report.unknown) == ("conforms", (2, 0), ())


BAD = {
    "crash": ("print('no weights', file=sys.stderr); sys.exit(3)", "ended with exit code 3: no weights"),
    "killed": ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by signal 9: it said nothing"),
    "silent": ("", "wrote nothing into the folder"),
    "rubbish": ("(OUT / 'x.npz').write_bytes(b'rubbish')", "no whole npz file"),
    "text": ("(OUT / 'x.txt').write_text('zimg: 1, 2, 3')", "holds no trace"),
    "manifest": ("(OUT / 'manifest.json').write_text('[1, 2')", "must be"),
    "no file": ('(OUT / \'manifest.json\').write_text(\'{"zimg": {"file": "x", "shape": [3]}}\')', "cannot be read"),
    "outside": (
        '(OUT / \'manifest.json\').write_text(\'{"zimg": {"file": "/etc/passwd", "shape": [3]}}\')',
        "lies outside",
    ),
    "noise": ("sys.stdout.buffer.write(bytes(range(256)) * 4000); sys.exit(1)", "ended with exit code 1"),
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_command_that_leaves_nothing_of_use(pack, command, what):
    lines, said = BAD[what]
    with pytest.raises(InputError, match=said):
        verify_pack(pack, command(lines))


def test_a_command_that_is_none(pack):
    for candidate in ("./nothing", "results/", "python 'unclosed", "", " "):
        with pytest.raises(InputError, match=r"neither a folder|cannot be read|an empty text"):
            verify_pack(pack, candidate)
    with pytest.raises(InputError, match="does not exist"):
        verify_pack(pack, "nothing.npz")


@pytest.mark.skipif(os.name != "posix", reason="groups of processes")
def test_a_command_that_hangs_is_ended_with_what_it_started(pack, command, tmp_path):
    """Its child keeps the output open, and would go on for a minute."""
    child = "import subprocess; p = subprocess.Popen(['sleep', '60']); "
    hang = command(f"{child}Path({str(tmp_path / 'pid')!r}).write_text(str(p.pid)); time.sleep(60)")
    begun = time.monotonic()
    with pytest.raises(InputError, match="took more than 2 s: give more with --timeout"):
        verify_pack(pack, hang, seconds=2)
    assert time.monotonic() - begun < 20
    number = int((tmp_path / "pid").read_text())
    for _ in range(50):  # until the system has buried it
        try:
            state = Path(f"/proc/{number}/stat").read_text().split()[2]
        except OSError:
            return
        if state == "Z":
            return
        time.sleep(0.1)
    pytest.fail("the child lives on")
