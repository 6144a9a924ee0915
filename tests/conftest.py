"""Fixtures of all tests. tests/parity compares with torch and transformers and is left out where they are not."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from tests.helpers import openclip_golden
from tests.helpers.golden_data import TINY, load_golden

# Before OpenMP is loaded: threads that spin while they wait would take the cores of tests that run beside.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

collect_ignore = [] if find_spec("torch") and find_spec("transformers") else ["parity"]

if find_spec("hypothesis"):
    from hypothesis import Phase, settings

    # the same examples in every run, and no folder of them left behind
    settings.register_profile("npsiglip", derandomize=True, database=None, deadline=None)
    if os.environ.get("NPSIGLIP_FIRST_FAILURE"):  # tests/mutate.py asks whether a test fails, not with how little
        few = (Phase.explicit, Phase.generate)
        settings.register_profile("npsiglip", settings.get_profile("npsiglip"), phases=few, report_multiple_bugs=False)
    settings.load_profile("npsiglip")


LESSER_CPUS = ("AVX-512 of the first generation", "AVX2", "SSE2")  # everything is compiled anew for each
LONG_PAGES = ("test_python_prints_what_the_page_shows[docs/numerics.md]",)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take ten seconds or more, or compile much, run with NPSIGLIP_SLOW=1: `pytest -m slow`."""
    for item in items:
        if any(part in item.nodeid for part in (*LESSER_CPUS, *LONG_PAGES)):
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("slow") and not os.environ.get("NPSIGLIP_SLOW"):
            item.add_marker(pytest.mark.skip(reason="slow: set NPSIGLIP_SLOW=1"))


@pytest.fixture(scope="session")
def tiny_folder() -> Path:
    """The tiny golden model, a folder in Hugging Face's format. Copy it before writing to it."""
    return TINY


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """Every golden array; `golden_data.group` selects from it."""
    return load_golden()


@pytest.fixture(scope="session")
def tiny_config() -> SigLIPConfig:
    """The tiny model's configuration."""
    return SigLIPConfig.from_folder(TINY)


@pytest.fixture(scope="session")
def tiny_params() -> dict[str, np.ndarray]:
    """The tiny model's parameters in float64, for the reference."""
    return {name: np.asarray(value, np.float64) for name, value in Checkpoint.open(TINY).items()}


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in 8 bits. Copy it before writing to it."""
    from npsiglip.convert.quantize import quantize_folder

    folder = tmp_path_factory.mktemp("quantized") / "tiny"
    quantize_folder(TINY, folder)
    return folder


@pytest.fixture
def quantized_copy(quantized: Path, tmp_path: Path) -> Path:
    """The tiny model in 8 bits, to write to."""
    return Path(shutil.copytree(quantized, tmp_path / "copy"))


@pytest.fixture(scope="session")
def openclip_arrays() -> dict[str, dict[str, np.ndarray]]:
    """Of every model of golden/openclip, what it was given and computed."""
    return openclip_golden.arrays()


@pytest.fixture(scope="session")
def openclip_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every model of golden/openclip, whole. Copy one before writing to it."""
    place = tmp_path_factory.mktemp("openclip")
    names = (*openclip_golden.OPEN_CLIP, *openclip_golden.TIMM)
    return {name: openclip_golden.copy_folder(place, name) for name in names}
