"""How much memory packed weights take, as it is foretold and as it is."""

import pytest

from npsiglip import SigLIP
from npsiglip.config import ClassifierConfig, ImageConfig, SigLIPConfig, TextConfig
from npsiglip.element_types import DTYPES
from npsiglip.params import random_params
from npsiglip.towers.footprint import packed_bytes

IMAGE = ImageConfig(width=20, depth=2, num_heads=4, mlp_dim=33, image_size=23, patch_size=5)
TEXT = TextConfig(width=18, depth=1, num_heads=2, mlp_dim=30, seq_len=9, vocab_size=50, projection_dim=20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "config",
    [
        SigLIPConfig(IMAGE, TEXT),
        SigLIPConfig(None, TEXT),
        SigLIPConfig(IMAGE, None, ClassifierConfig(("one", "two", "three"), False)),
    ],
    ids=["both", "text", "classifier"],
)
def test_packed_bytes(config, dtype):
    """To the byte, of widths that fill no panel and no step."""
    model = SigLIP(config, random_params(config, 0), dtype=dtype)
    parts = [part for part in (model._image, model._text, model._classifier) if part]
    linears = [linear for part in parts for linear in part.linears.values()]
    packed = [linear.packed(keep=True) for linear in linears]
    found = sum(array.nbytes for each in packed for array in (each.panels, each.scale, each.total))
    assert packed_bytes(config, dtype) == found
