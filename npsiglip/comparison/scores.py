"""What models say of the same labels, each in its own kind of numbers; and how far they agree.

    sigmoid    SigLIP and SigLIP 2: a probability for each label of its own; they do not add up to one
    softmax    CLIP: shares of one, among the labels that are given; one more label changes all
    cosine     a model without a temperature: similarities, and nothing that says how probable

Numbers of different kinds stand in different columns, and none is made into another. Cosines, too, can be compared
within one model alone: what models share is the order. Dimensions: K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.outputs import sigmoid, softmax

SIGMOID, SOFTMAX, COSINE = "sigmoid", "softmax", "cosine"
KINDS = (SIGMOID, SOFTMAX, COSINE)
MEANING = {
    SIGMOID: "a probability for each label of its own: they do not add up to one",
    SOFTMAX: "shares of one among these labels: one more label changes all",
    COSINE: "similarities alone: nothing says how probable a label is",
}
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Scores:
    """Of one model for one list of labels.

    Raises:
        InputError: an unknown kind; numbers that do not fit the labels, or are missing, or are not finite.
    """

    model: str
    kind: str
    labels: tuple[str, ...]
    cosine: Floats
    """[K]."""
    logit: Floats | None = None
    """[K], what a sigmoid or a softmax is taken of; None for kind "cosine"."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"{self.model}: scores are of kind {', '.join(KINDS)}; got {self.kind!r}")
        if (self.logit is None) != (self.kind == COSINE):
            raise InputError(
                f"{self.model}: scores of kind {self.kind!r} {'have no' if self.logit is not None else 'need'} logits"
            )
        for name, values in (("cosine", self.cosine), ("logit", self.logit)):
            if values is not None and (values.shape != (len(self.labels),) or not np.isfinite(values).all()):
                raise InputError(
                    f"{self.model}: {name} must be [{len(self.labels)}], a finite number for each label; "
                    f"got {list(values.shape)}"
                )

    @property
    def sigmoid(self) -> Floats | None:
        """[K], of models that were trained with one; None of others."""
        return sigmoid(self.logit) if self.kind == SIGMOID and self.logit is not None else None

    @property
    def softmax(self) -> Floats | None:
        """[K], which label it is if it is exactly one of them; None for kind "cosine"."""
        return None if self.logit is None else softmax(np.asarray(self.logit, np.float32))

    @property
    def order(self) -> NDArray[np.intp]:
        """The labels' places, the best first; equal ones in the order given."""
        return np.argsort(-(self.cosine if self.logit is None else self.logit), kind="stable")

    @property
    def rank(self) -> NDArray[np.intp]:
        """[K], from 1."""
        found = np.empty(len(self.labels), np.intp)
        found[self.order] = np.arange(1, len(self.labels) + 1)
        return found

    def columns(self) -> dict[str, Floats | NDArray[np.intp]]:
        """What this model says, column by column: those that it has."""
        found = {
            "cosine": self.cosine,
            "logit": self.logit,
            "sigmoid": self.sigmoid,
            "softmax": self.softmax,
            "rank": self.rank,
        }
        return {name: values for name, values in found.items() if values is not None}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: labels in the order given."""
        columns = {name: values.tolist() for name, values in self.columns().items()}
        rows = [
            {"label": label, **{name: values[i] for name, values in columns.items()}}
            for i, label in enumerate(self.labels)
        ]
        return {"model": self.model, "kind": self.kind, "meaning": MEANING[self.kind], "scores": rows}


class Agreement(NamedTuple):
    """Of two lists of scores for the same labels."""

    first: str
    second: str
    same_best: bool
    correlation: float | None
    """Spearman's, of the ranks; None for a single label."""


def correlation(a: NDArray[np.intp], b: NDArray[np.intp]) -> float | None:
    """Spearman's rank correlation 1 - 6 sum d^2 / (K (K^2 - 1)), of ranks [K] without ties; None for one label."""
    k = len(a)
    return None if k < 2 else float(1 - 6 * np.sum((a - b).astype(np.float64) ** 2) / (k * (k * k - 1)))


def agreements(scores: Sequence[tuple[str, Scores]]) -> list[Agreement]:
    """Of each two of them, by their names.

    Raises:
        InputError: lists of different lengths.
    """
    found = []
    for (first, a), (second, b) in combinations(scores, 2):
        if len(a.labels) != len(b.labels):
            raise InputError(
                f"{first} has {len(a.labels)} labels and {second} {len(b.labels)}: they cannot be compared"
            )
        found.append(Agreement(first, second, bool(a.order[0] == b.order[0]), correlation(a.rank, b.rank)))
    return found
