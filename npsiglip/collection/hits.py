"""What a search found."""

from __future__ import annotations

from typing import NamedTuple


class Hit(NamedTuple):
    """An item that was found: its path or text, and the cosine."""

    key: str
    cosine: float
    probability: float | None
    """That it matches; None where the model says none: of pictures with pictures, texts with texts, and of sums."""
