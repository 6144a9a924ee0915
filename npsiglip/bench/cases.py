"""What is timed: one pass through a tower with a batch of fixed random inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError

SEED = 20230327


@dataclass(frozen=True)
class Case:
    """A tower ("image" or "text") and how many inputs it gets at once; written image:8."""

    tower: str
    batch: int

    def __str__(self) -> str:
        return f"{self.tower}:{self.batch}"


def default_cases(config: SigLIPConfig) -> list[Case]:
    """One image and one text, as far as the model has a tower for it."""
    return [Case(tower, 1) for tower in ("image", "text") if getattr(config, tower)]


def parse_case(text: str, config: SigLIPConfig) -> Case:
    """Read "image:8" or "text:1".

    Raises:
        InputError: another spelling, or a tower that the model does not have.
    """
    match = re.fullmatch(r"(image|text):([1-9][0-9]{0,5})", text)
    if not match:
        raise InputError(f"case {text!r} must be a tower and a batch of at least 1, such as image:8 or text:1")
    if getattr(config, match[1]) is None:
        raise InputError(f"case {text!r}: this model is a single tower and has no {match[1]} tower")
    return Case(match[1], int(match[2]))


def random_inputs(case: Case, config: SigLIPConfig) -> NDArray[Any]:
    """Pixels, float32 [N, 3, S, S] in [-1, 1), or ids, int64 [N, L] of the whole vocabulary; the same every time."""
    rng = np.random.default_rng(SEED)
    if case.tower == "image":
        assert config.image
        size = config.image.image_size
        return 2 * rng.random((case.batch, 3, size, size), np.float32) - 1
    assert config.text
    return rng.integers(0, config.text.vocab_size, (case.batch, config.text.seq_len))
