"""Every digit on demand: results of a model beside those of float64, with the digits that hold.

The same images and texts go through the operations of the reference (`operations`) in double precision, as far as they
go through the model: pixels and token ids are the model's own.
"""

from __future__ import annotations

from math import floor, log10
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.params import Params
from npsiglip.verify.operations import IDS, PIXELS, Context, forward, operations

Array = NDArray[Any]
MOST_DIGITS = 16
ENDS = ("image.pooled", "zimg", "text.head", "ztxt", "logits", "probs")


def digits(value: float, truth: float) -> int:
    """How many significant decimal digits of a number hold: 0 to 16."""
    if value == truth:
        return MOST_DIGITS
    if truth == 0 or not np.isfinite(value):
        return 0
    return int(min(MOST_DIGITS, max(0, floor(-log10(abs(value - truth) / abs(truth))))))


class Checked(NamedTuple):
    """A result [...], what it is in float64, and how far apart they are: |value - truth| / |truth| of each number."""

    value: Array
    truth: Array

    @property
    def deviation(self) -> Array:
        """Relative, of each number."""
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.abs(np.asarray(self.value, np.float64) - self.truth) / np.abs(self.truth)
        return np.where(self.value == self.truth, 0.0, found)

    @property
    def digits(self) -> NDArray[np.int64]:
        """Of each number, the significant decimal digits that hold."""
        flat = [digits(float(v), float(t)) for v, t in zip(np.ravel(self.value), np.ravel(self.truth), strict=True)]
        return np.reshape(flat, np.shape(self.value)).astype(np.int64)


def truth_of(
    config: SigLIPConfig, params: Params, pixels: Array | None = None, ids: Array | None = None
) -> dict[str, Array]:
    """The taps `ENDS` in float64: vectors [N, D] and [K, D] as they are and of unit norm, logits and probs [N, K].

    Args:
        config, params: of the model; its weights are widened one operation at a time.
        pixels: [N, 3, H, W], or None.
        ids: [K, L], or None.

    Raises:
        InputError: a NaFlex model, whose images have no one size; a tower without embedding.
    """
    if pixels is not None and (config.image is None or config.image.naflex):
        raise InputError("float64 results need an image tower whose images have one size; this is NaFlex, or has none")
    if pixels is not None and config.image is not None and not (config.image.head or config.image.mean):
        raise InputError("this image tower has no head and so no embedding to check")
    inputs = {PIXELS: pixels, IDS: ids}
    given = {tap: np.asarray(value) for tap, value in inputs.items() if value is not None}
    ops = operations(config, pixels is not None, ids is not None)
    return {tap: value for tap, value in forward(Context(config, params), ops, given) if tap in ENDS}


def check(model: Any, images: Any = None, texts: Any = None) -> dict[str, Checked]:
    """Results of a model beside those of float64; see `SigLIP.check`."""
    if images is None and texts is None:
        raise InputError("`check` needs images, texts or both")
    pixels = ids = None
    if images is not None:
        if model.config.image is not None and model.config.image.naflex:
            raise InputError("float64 results need images of one size; this model is NaFlex")
        pixels = next(iter(model._image_inputs(images, False, None, at_once=True).batches))[1]
    if texts is not None:
        ids = next(iter(model._text_inputs(texts, None, at_once=True).batches))[1][0]
    truth, found = truth_of(model.config, model._params, pixels, ids), {}
    if pixels is not None:
        found["image.pooled"], found["zimg"] = (model.encode_image(pixels, normalize) for normalize in (False, True))
    if ids is not None:
        found["text.head"], found["ztxt"] = (model.encode_text(ids, normalize) for normalize in (False, True))
    if "logits" in truth:
        output = model.compare(found["zimg"], found["ztxt"])
        found["logits"], found["probs"] = output.logits_per_image, output.probs
    return {tap: Checked(value, truth[tap]) for tap, value in found.items()}
