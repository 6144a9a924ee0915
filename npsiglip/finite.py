"""Weights that are used and results that users get are finite, or an error says whose is not and why.

A check of the small final result costs nothing, and catches all there is: no kernel turns NaN or infinity into a
number. Traces are not checked: they are there to find out where it began.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError

OVERFLOW = (
    "something on the way left what a float32 holds (3.4e38); expected pixels of about -1 to 1 and the weights of a "
    "trained model: check what they are, and `trace` for where it began"
)
NO_DIRECTION = "before it is scaled to unit norm, it is zero or nearly so; `normalize=False` gives it as it is"


def first_strange(rows: NDArray[np.floating]) -> int | None:
    """The place of the first of the rows [N, ...] that is not finite; None if all are."""
    finite = np.isfinite(rows)
    return None if finite.all() else int(np.argmin(finite.reshape(len(rows), -1).all(axis=1)))


def check_results(
    rows: NDArray[np.floating],
    places: NDArray[np.intp],
    name: Callable[[int], str],
    what: str = "embedding is",
    why: str = OVERFLOW,
) -> None:
    """Refuse results that are not finite.

    Args:
        rows: results of some inputs, [n, ...].
        places: of these inputs among all.
        name: of an input, by its place.
        what: the results are, with their verb.
        why: they may not be finite.

    Raises:
        InputError: naming the first input whose result is not.
    """
    strange = first_strange(rows)
    if strange is not None:
        raise InputError(f"{name(int(places[strange]))}: the {what} not finite (NaN or infinity): {why}")


def check_embeds(**embeds: NDArray[np.float32]) -> None:
    """Refuse embeddings, by the names of the arguments, that are not finite.

    Raises:
        InputError: naming the first row.
    """
    for name, rows in embeds.items():
        strange = first_strange(rows)
        if strange is not None:
            raise InputError(
                f"{name}[{strange}] is not finite (NaN or infinity); expected embeddings as `encode_image` and "
                "`encode_text` give them"
            )


def check_logits(logits: NDArray[np.float32]) -> None:
    """Refuse logits [N, K] of finite embeddings that are not finite.

    Raises:
        InputError: naming the first pair.
    """
    strange = first_strange(logits)
    if strange is not None:
        text = int(np.argmin(np.isfinite(logits[strange])))
        raise InputError(
            f"the logit of image_embeds[{strange}] and text_embeds[{text}] is {logits[strange, text]}, beyond float32; "
            "expected embeddings of unit norm, as `encode_image` and `encode_text` give them, and a temperature of "
            "some 100"
        )


def all_finite(x: NDArray[Any]) -> bool:
    """No NaN and no infinity in float array `x`, of any float type, at the speed of memory.

    Works on the bits: as signed integers, positive floats are ordered like their bits and end in inf, then NaN;
    as unsigned integers, the negative ones do. Unlike a sum it cannot overflow, and needs no temporary array.
    """
    signed, unsigned = x.view(f"i{x.itemsize}"), x.view(f"u{x.itemsize}")
    infinity = np.array([np.inf, -np.inf], x.dtype)
    return bool(signed.max() < infinity.view(signed.dtype)[0] and unsigned.max() < infinity.view(unsigned.dtype)[1])


def describe_non_finite(x: NDArray[Any]) -> str:
    """How many values of x are not finite, and the first of them."""
    bad = ~np.isfinite(x)
    first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), x.shape))
    return f"{int(bad.sum()):,} of {x.size:,} values not finite, the first {float(x[first])} at {list(first)}"
