"""Zero-shot classification: labels become texts, probabilities become a ranking.

The template and the result's schema are those of Hugging Face's zero-shot-image-classification pipeline. SigLIP's
probabilities are sigmoids, one question for each pair: they do not sum to one, and may all be small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError

DEFAULT_TEMPLATE = "This is a photo of {}."


class Score(TypedDict):
    """One label and the probability that it belongs to the image."""

    label: str
    score: float


def fill_template(labels: Sequence[str], template: str = DEFAULT_TEMPLATE) -> list[str]:
    """The text of each label, `{}` in the template replaced by it.

    Raises:
        InputError: no labels, a label that is not a str or blank, or a template without exactly one `{}`.
    """
    if isinstance(labels, str):
        raise InputError(f"`labels` must be a list of str, got the str {labels!r}: try [{labels!r}]")
    if not isinstance(labels, Sequence):
        raise InputError(f"`labels` must be a list of str, got {type(labels).__name__}: try `list(labels)`")
    if not labels:
        raise InputError("`labels` is empty; expected at least one label, such as 'a cat'")
    for i, label in enumerate(labels):
        if not isinstance(label, str) or not label.strip():
            raise InputError(f"labels[{i}] is {label!r}; expected a str with at least one letter")
    if not isinstance(template, str) or template.count("{}") != 1:
        raise InputError(f"the template must have exactly one {{}} for the label, got {template!r}")
    return [template.replace("{}", label) for label in labels]


def rank(labels: Sequence[str], probs: NDArray[np.floating]) -> list[Score]:
    """Labels with their probabilities [K], the largest first; equal ones in the order given."""
    order = np.argsort(-probs, kind="stable")
    return [{"label": labels[i], "score": float(probs[i])} for i in order]
