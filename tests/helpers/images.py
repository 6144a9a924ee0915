"""A small image processor, the golden pixels, and the words of a refusal."""

import numpy as np
import pytest
from hypothesis import strategies as st

from npsiglip.errors import InputError
from npsiglip.images.processor import ImageProcessor
from tests.helpers.golden_data import ROOT

GOLDEN = dict(np.load(ROOT / "golden" / "pixels.npz"))
NAMES = [str(name) for name in GOLDEN["names"]]
SMALL = ImageProcessor(10, 7)


sides = st.integers(1, 40)


def refusal(call, *arguments):
    """With which words a call is refused."""
    with pytest.raises(InputError) as info:
        call(*arguments)
    return str(info.value)
