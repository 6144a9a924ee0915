"""Fixtures of the command line: no terminal, a model that is compiled, pictures, a model in 8 bits."""

import numpy as np
import pytest
from PIL import Image

import npsiglip
from npsiglip.cli import console
from tests.helpers.command import run
from tests.helpers.golden_data import TINY


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "NPSIGLIP_MODEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "40")  # nothing may depend on it
    console.out.cache_clear()
    console.err.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def model():
    """The tiny model, its kernels compiled: no test but that of the message meets the message about it."""
    model = npsiglip.SigLIP.from_pretrained(TINY)
    model.classify(np.zeros((5, 5, 3), np.uint8), ["a"])
    return model


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Three image files, named relative to the working directory."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(2)
    names = ["one.png", "two.png", "three.png"]
    for i, name in enumerate(names):
        Image.fromarray(rng.integers(0, 256, (30 + i, 50, 3), np.uint8)).save(name)
    return names


@pytest.fixture(scope="session")
def quantized(tmp_path_factory):
    """The tiny model in 8 bits, as the command writes it."""
    folder = tmp_path_factory.mktemp("quantized") / "tiny"
    result = run("quantize", TINY, "-o", folder, model=None)
    assert (result.exit_code, result.stdout) == (0, "")
    return folder
