"""A candidate's pixels and token ids against the truth, and against the mistakes that ports make there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.verify.compare import Tap
from npsiglip.verify.diagnose import Match
from npsiglip.verify.golden import DECODED, Golden
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.preprocessing import equal_ids, ids_by_mistake, pixels_by_mistake
from npsiglip.verify.replay import distance, norm
from npsiglip.verify.where import best_fit

Array = NDArray[Any]
ONE_LEVEL = 2 / 255 * 1.01  # one of the 256 levels of a byte: resizing rounds, and other libraries round elsewhere
ROUNDED = {"float32": 1e-6, "bfloat16": 4e-3, "float16": 5e-4, "int8": 1e-6}  # of pixels up to 1, a few last places


def _pixels(golden: Golden, found: Array, dtype: str, settings: Any) -> tuple[Tap, str]:
    truth = golden.inputs[PIXELS].astype(np.float64)
    error = distance(found, truth, norm(truth))
    rounding = ROUNDED[dtype]
    largest = float(np.abs(found - truth).max()) if np.isfinite(found).all() else float("inf")
    diverges, note, matches = largest > rounding, "", []
    if diverges and golden.pictures and settings is not None:
        decoded = [golden.before[f"{DECODED}.{i}"] for i in range(len(golden.pictures))]
        best, name = min(
            (float(np.abs(found - pixels).max()), name)
            for name, pixels in pixels_by_mistake(decoded, golden.pictures, settings, truth.shape[2])
            if pixels.shape == found.shape
        )
        # as near as rounding is to what was planted, or as near as another library's resizing is
        scale = max(1.0, float(np.abs(found).max()))
        if best <= 4 * rounding * scale or (best <= (ONE_LEVEL + rounding) * scale and best < 0.25 * largest):
            matches = [Match(name, PIXELS, best)]
    if diverges and not matches and largest <= ONE_LEVEL + rounding:
        share = float((np.abs(found - truth) > rounding).mean())
        diverges, note = False, f"{share:.2%} of the pixels are off by one level of 256: another library's resizing"
    where = f"up to {largest:.3g}, in values of -1 to 1" if diverges else ""
    fit = best_fit(found, truth) if diverges else None
    tap = Tap(
        PIXELS, "preprocess", error, 0.0, error, rounding, float("nan"), diverges, where, fit, (PIXELS,), tuple(matches)
    )
    return tap, note


def _ids(golden: Golden, found: Array, tokenizer: Any) -> Tap:
    truth = golden.inputs[IDS]
    equal = equal_ids(found, truth)
    where, matches = "", []
    if not equal:
        if found.shape != truth.shape:
            where = f"ids are {list(found.shape)}, expected {list(truth.shape)}"
        else:
            row, column = (int(i) for i in np.argwhere(found != truth)[0])
            where = f"first at text {row}, position {column}: {found[row, column]} instead of {truth[row, column]}"
        if golden.texts and tokenizer is not None:
            wrong = ids_by_mistake(golden.texts, tokenizer)
            matches = [Match(name, IDS, 0.0) for name, ids in wrong if equal_ids(found, ids)]
    error = 0.0 if equal else 1.0
    return Tap(IDS, "tokenize", error, 0.0, error, 0.5, float("nan"), not equal, where, None, (IDS,), tuple(matches))


def compare_inputs(
    golden: Golden, candidate: Mapping[str, Array], dtype: str, settings: Any, tokenizer: Any
) -> tuple[list[Tap], list[str]]:
    """What is found at `image.pixels` and `text.ids`, as far as the candidate shows them, and what is to be noted."""
    taps, notes = [], []
    if PIXELS in candidate and PIXELS in golden.inputs:
        tap, note = _pixels(golden, np.asarray(candidate[PIXELS], np.float64), dtype, settings)
        taps.append(tap)
        notes += [note] if note else []
    if IDS in candidate and IDS in golden.inputs:
        taps.append(_ids(golden, np.asarray(candidate[IDS]), tokenizer))
    return taps, notes
