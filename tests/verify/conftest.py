"""The tiny model, and the truth of its random pixels and padded texts."""

import numpy as np
import pytest

from npsiglip import SigLIP
from npsiglip.verify import Golden
from npsiglip.verify.operations import IDS, PIXELS
from tests.helpers.golden_data import TINY
from tests.helpers.planted import truth_of


@pytest.fixture(scope="session")
def model():
    return SigLIP.from_pretrained(TINY)


@pytest.fixture(scope="session")
def golden(model):
    truth, _ = truth_of(TINY)
    return Golden(model, truth.inputs[PIXELS].astype(np.float32), truth.inputs[IDS])
