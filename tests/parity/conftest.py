"""The model folder that whoever runs the suite names, such as a real checkpoint."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def given_folder() -> Path:
    """NPSIGLIP_PARITY_MODEL, a model folder in Hugging Face's format; without it, its tests are skipped."""
    folder = os.environ.get("NPSIGLIP_PARITY_MODEL")
    if not folder:
        pytest.skip("set NPSIGLIP_PARITY_MODEL to a model folder to compare a real checkpoint")
    return Path(folder)
