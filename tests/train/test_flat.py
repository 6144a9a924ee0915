"""Parameters in one vector."""

import numpy as np

from npsiglip.train.flat import Flat


def test_flat_vectors():
    made = Flat({"a": (2, 3), "b": (), "c": (4,)})
    assert made.vector.shape == (11,)
    assert made.vector.dtype == np.float32
    made.vector[:] = np.arange(11)
    np.testing.assert_array_equal(made.views["a"], [[0, 1, 2], [3, 4, 5]])
    made.views["b"][...] = 17
    assert made.vector[6] == 17
    assert made.spans == {"a": (0, 6), "b": (6, 7), "c": (7, 11)}
    assert made.shapes == {"a": (2, 3), "b": (), "c": (4,)}
