"""`npsiglip golden export` and `npsiglip verify --pack`: packs are written, ports scored.

Covers cli/packs.py as well.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from npsiglip.verify.packs import Pack
from tests.helpers.command import invoke
from tests.helpers.packs import computed


@pytest.fixture
def pack(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("golden", "export", "--model", "tiny", "--format", "npz", "-o", "pack")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.startswith("pack: 141 checks (1 at level 0, 1 at level 1, 49 at level 2, ")
    return Path("pack")


def test_a_port_is_scored(pack):
    np.savez("right.npz", **computed(Pack(pack)))
    np.savez("wrong.npz", **computed(Pack(pack), ["erf_gelu"]))
    result = invoke("verify", "--pack", pack, "--candidate", "right.npz")
    assert result.exit_code == 0
    assert result.stdout.startswith("Conforms to the pack at levels 2, 3, 4: 137 of 141 checks.\n")
    assert "again: npsiglip verify --pack pack --candidate right.npz\n" in result.stdout
    result = invoke("verify", "--pack", pack, "--candidate", "wrong.npz", "--json", "--junit", "r.xml")
    found = json.loads(result.stdout)
    assert (result.exit_code, found["verdict"]) == (1, "diverges")
    assert [one["first"]["mistake"] for one in found["levels"] if one["level"] == 2] == ["erf_gelu"]
    assert "erf_gelu" in Path("r.xml").read_text()


def test_what_cannot_be_told(pack):
    np.savez("other.npz", something=np.zeros(3))
    result = invoke("verify", "--pack", pack, "--candidate", "other.npz")
    assert (result.exit_code, result.stdout.startswith("Cannot tell: none of its 1 names")) == (2, True)
    for candidate, said in (
        ("nothing.npz", "does not exist"),
        (f"'{sys.executable}' -c 1/0", "ended with exit code 1"),
    ):
        result = invoke("verify", "--pack", pack, "--candidate", candidate)
        assert (result.exit_code, result.stdout) == (2, "")
        assert said in result.stderr


def test_options_that_do_not_go_together(pack):
    for options in (["--pack", pack], ["--candidate", "x"], ["--pack", pack, "--candidate", "x", "-l", "a cat"]):
        assert invoke("verify", *options).exit_code == 2
    assert invoke("golden", "export", "--model", "tiny", "-o", "a", "--format", "gguf").exit_code == 2
