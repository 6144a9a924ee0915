"""What is timed: names of cases, and their random inputs."""

import numpy as np
import pytest

from npsiglip.bench.cases import Case, default_cases, parse_case, random_inputs
from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError


def test_cases(tiny_config):
    assert [str(case) for case in default_cases(tiny_config)] == ["image:1", "text:1"]
    assert parse_case("image:8", tiny_config) == Case("image", 8)
    pixels, ids = (random_inputs(parse_case(case, tiny_config), tiny_config) for case in ("image:3", "text:5"))
    assert (pixels.shape, pixels.dtype) == ((3, 3, 38, 38), np.float32)
    assert -1 <= pixels.min() < -0.9 < 0.9 < pixels.max() <= 1
    assert (ids.shape, ids.dtype) == ((5, 24), np.int64)
    assert 0 <= ids.min() < 100 < 900 < ids.max() < 1009
    np.testing.assert_array_equal(random_inputs(Case("image", 3), tiny_config), pixels)


@pytest.mark.parametrize("case", ["image", "image:0", "image:-1", "image:1.5", "audio:1", "image:1 ", ""])
def test_cases_that_are_refused(case, tiny_config):
    with pytest.raises(InputError, match="such as image:8"):
        parse_case(case, tiny_config)


def test_case_of_a_tower_that_is_not_there(tiny_config):
    alone = SigLIPConfig(tiny_config.image, None)
    assert default_cases(alone) == [Case("image", 1)]
    with pytest.raises(InputError, match="no text tower"):
        parse_case("text:1", alone)
