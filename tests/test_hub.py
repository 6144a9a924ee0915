"""Names of models: the built-in one, and paths."""

from pathlib import Path

import pytest

import npsiglip
from npsiglip.checkpoint import Checkpoint
from npsiglip.errors import CheckpointError
from npsiglip.hub import model_folder

PACKAGE = Path(npsiglip.__file__).parent


def test_names_and_paths():
    assert model_folder("builtin") == PACKAGE / "data" / "builtin"
    assert model_folder("./builtin") == Path("builtin")
    assert model_folder(Path("builtin")) == Path("builtin")
    assert model_folder("some/folder") == Path("some/folder")


def test_checkpoints_open_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Checkpoint.open("builtin").folder == PACKAGE / "data" / "builtin"
    with pytest.raises(CheckpointError, match="builtin does not exist"):
        Checkpoint.open("./builtin")
