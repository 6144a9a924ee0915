"""A candidate's tensor in our axes: batches that are missing, axes in another order, heads or patches apart.

Every arrangement that gives our shape is considered; where several do, the one that comes nearest to the truth is
taken, and the report says which.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.verify.replay import distance, norm

Array = NDArray[Any]
MOST_AXES = 5


def _reshapes(x: Array, shape: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    if x.shape == shape:
        yield "", x
    elif x.size == prod(shape):
        merged = [side for side in x.shape if side != 1]
        same = merged == [side for side in shape if side != 1]
        yield (
            ("axes of length 1 added or removed" if same else f"{list(x.shape)} read as {list(shape)}"),
            x.reshape(shape),
        )


def arrangements(x: Array, shape: tuple[int, ...]) -> Iterator[tuple[str, Array]]:
    """Every way to read x as a tensor of a shape: in words, and the tensor. The plainest comes first."""
    yield from _reshapes(x, shape)
    if x.size != prod(shape) or not 2 <= x.ndim <= MOST_AXES:
        return
    for order in permutations(range(x.ndim)):
        if order == tuple(range(x.ndim)):
            continue
        turned = x.transpose(order)
        if _groups(turned.shape, shape):
            yield f"axes of {list(x.shape)} in the order {list(order)}", turned.reshape(shape)


def _groups(sides: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    """Whether neighbouring sides multiply to those of `shape`, or the other way round: nothing is torn apart."""
    if len(sides) < len(shape):
        sides, shape = shape, sides
    at = 0
    for side in shape:
        product = 1
        while at < len(sides) and (product < side or sides[at] == 1):
            product *= sides[at]
            at += 1
        if product != side:
            return False
    return at == len(sides)


def in_our_axes(x: Array, golden: Array) -> tuple[str, Array] | None:
    """The arrangement of x that comes nearest to the truth, and how it was read; None if none has its shape."""
    found = list(arrangements(np.asarray(x), golden.shape))
    if not found:
        return None
    if len(found) == 1 or not found[0][0]:
        return found[0]
    unit = norm(golden)
    return min(found, key=lambda pair: distance(np.asarray(pair[1], np.float64), golden, unit))
