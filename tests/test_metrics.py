import numpy as np
import pytest

from npsiglip.metrics import max_ulp, relative_l2


def test_relative_l2():
    assert relative_l2([3.0, 0.0], [3.0, 4.0]) == pytest.approx(0.8)
    assert relative_l2(np.zeros(3), np.zeros(3)) == 0.0
    assert relative_l2(np.ones(3), np.zeros(3)) == np.inf
    assert np.isnan(relative_l2([np.nan, 1.0], [1.0, 1.0]))
    assert relative_l2([np.nan], [0.0]) == np.inf
    assert relative_l2([2e-200], [1e-200]) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="shapes differ"):
        relative_l2(np.zeros((2, 1)), np.zeros((1, 2)))


def test_max_ulp():
    one = np.float32(1)
    assert max_ulp([np.nextafter(one, np.float32(2))], [1.0]) == 1.0
    assert max_ulp([one], [1.0 + 2.0**-24]) == 0.5
