"""Models against published numbers, one model at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.model import SigLIP
from npsiglip.published.inputs import bring
from npsiglip.published.numbers import Case, cases_of, models
from npsiglip.variants import OWNER, find_variant


@dataclass(frozen=True)
class Result:
    """A case, and what this model gives."""

    case: Case
    expected: NDArray[np.float64]
    """The case's, with the padding of token ids."""
    obtained: NDArray[np.float64]

    @property
    def apart(self) -> float:
        """The largest difference."""
        return float(np.abs(self.obtained - self.expected).max())

    @property
    def equal(self) -> bool:
        """Whether every number is as close as the source asks for; NaN never is."""
        bound = self.case.atol + self.case.rtol * np.abs(self.expected)
        return bool((np.abs(self.obtained - self.expected) <= bound).all())


def chosen(names: list[str]) -> list[str]:
    """The released checkpoints of these names, or all of which numbers were published.

    Raises:
        CheckpointError: no such checkpoint.
        InputError: one of which nothing was published.
    """
    found = [find_variant(name).name for name in names] or models()
    for name in found:
        if name not in models():
            raise InputError(f"no numbers were published of {name}; there are some of {', '.join(models())}")
    return found


def _obtained(model: SigLIP, case: Case, files: Path | None) -> Any:
    if case.what == "token ids":
        if model.tokenizer is None:
            raise InputError(f"{case.model} has no tokenizer here: its token ids cannot be compared")
        return model.tokenizer(case.texts)
    size = model.config.image.image_size if model.config.image else 0
    output = model(bring(case.images, size, files), list(case.texts))
    return output.logits_per_image if case.what == "logits" else output.probs


def _expected(case: Case, width: int) -> NDArray[np.float64]:
    """The case's numbers; rows of ids are padded to `width` with SigLIP's end of text, 1, as the source has them."""
    rows = case.expected
    if case.what == "token ids":
        rows = tuple((*row, *[1] * (width - len(row))) for row in rows)
    if len({len(row) for row in rows}) != 1:
        raise InputError(f"{case.model} reads {width} tokens here, fewer than the published texts have")
    return np.array(rows, np.float64)


def check(name: str, files: Path | None = None) -> Iterator[Result]:
    """Load a released checkpoint in float32 and compare it with all that was published of it.

    Args:
        name: its name, as in `npsiglip.variants.VARIANTS`.
        files: a folder that holds the pictures; None: they are fetched.

    Raises:
        CheckpointError: the checkpoint cannot be had.
        InputError: a picture cannot be had.
    """
    model = SigLIP.from_pretrained(f"{OWNER}/{name}")
    for case in cases_of(name):
        obtained = np.asarray(_obtained(model, case, files), np.float64)
        yield Result(case, _expected(case, obtained.shape[1]), obtained)
