"""All parameters in one vector, so that an optimiser's step is one pass over memory, and views with their names."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np
from numpy.typing import NDArray

from npsiglip.params import Shape


class Flat:
    """Named float32 arrays that lie one behind the other, in the order of `shapes`.

    Attributes:
        vector: float32 [total], zeros at first.
        views: name -> view of the vector, of its shape.
        spans: name -> first and behind-last place in the vector.
    """

    def __init__(self, shapes: Mapping[str, Shape]) -> None:
        self.spans: dict[str, tuple[int, int]] = {}
        end = 0
        for name, shape in shapes.items():
            self.spans[name] = end, end + prod(shape)
            end += prod(shape)
        self.vector: NDArray[np.float32] = np.zeros(end, np.float32)
        self.views = {name: self.vector[slice(*self.spans[name])].reshape(shape) for name, shape in shapes.items()}

    @property
    def shapes(self) -> dict[str, Shape]:
        """Name -> shape."""
        return {name: view.shape for name, view in self.views.items()}
