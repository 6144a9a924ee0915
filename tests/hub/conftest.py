"""A Hub on the loopback address, with a tiny model."""

import pytest
from huggingface_hub import constants

from tests.helpers import hub_server
from tests.helpers.golden_data import TINY
from tests.helpers.hub_server import CHUNK, FILES, NOT_READ, PLACES, REPO


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub with a tiny model, and an empty cache."""
    files = {name: (TINY / name).read_bytes() for name in FILES} | NOT_READ | {"tokenizer.json": b"not read"}
    folder = tmp_path / "published"
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    for name in (*PLACES, "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    monkeypatch.chdir(tmp_path)
    with hub_server.serve({REPO: hub_server.repository(folder)}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
