"""What a model gives back: images against texts, and the insides of a tower in Hugging Face's layout.

Source: the names, order and counts of Hugging Face's `SiglipOutput` and `BaseModelOutputWithPooling`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from npsiglip.describe import describe_fields
from npsiglip.params import block_name

Array = NDArray[np.float32]

POOLED = {"image": "image.pooled", "text": "text.head"}


@dataclass(frozen=True, repr=False)
class SigLIPOutput:
    """Images against texts; the fields have the names that Hugging Face's `SiglipOutput` gives them."""

    logits_per_image: Array
    """[N, K]: t zimg ztxt^T + bias."""
    image_embeds: Array
    """[N, D], unit norm."""
    text_embeds: Array
    """[K, D], unit norm."""

    __repr__ = describe_fields

    @property
    def logits_per_text(self) -> Array:
        """[K, N], the transpose of `logits_per_image`."""
        return self.logits_per_image.T

    @property
    def probs(self) -> Array:
        """[N, K]: sigmoid of the logits, the probability of each pair on its own; rows do not sum to one."""
        return sigmoid(self.logits_per_image)

    def calibrated(self, calibration: Calibrated | None) -> Array:
        """[N, K]: probabilities by a calibration of the cosines zimg ztxt^T, in float64; None: `probs`."""
        if calibration is None:
            return self.probs
        zimg, ztxt = (z.astype(np.float64) for z in (self.image_embeds, self.text_embeds))
        return calibration.probabilities(np.einsum("nd,kd->nk", zimg, ztxt))  # of the same bits in any batch


class Calibrated(Protocol):
    """Probabilities of cosines other than a model's own, such as a `npsiglip.collection.calibrate.Calibration`."""

    def probabilities(self, cosines: Any) -> Array:
        """Of cosines [...]."""


def sigmoid(logits: NDArray[np.floating]) -> Array:
    """1 / (1 + exp(-x)), computed in float64 and without overflow."""
    e = np.exp(-np.abs(logits.astype(np.float64)))
    return (np.where(logits >= 0, 1.0, e) / (1.0 + e)).astype(np.float32)


def softmax(logits: Array) -> Array:
    """exp(x) / sum exp(x) over the last axis, computed in float64."""
    e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probs: Array = (e / e.sum(axis=-1, keepdims=True)).astype(np.float32)
    return probs


@dataclass(frozen=True, repr=False)
class TowerOutput:
    """One tower's insides, float32; the fields have the names of Hugging Face's `BaseModelOutputWithPooling`."""

    last_hidden_state: Array
    """[N, L, D]: after the final LayerNorm."""
    pooler_output: Array | None
    """[N, D]: the embedding before it is normalised; None for an image tower without head."""
    hidden_states: tuple[Array, ...] | None
    """depth + 1 arrays [N, L, D]: what enters the first block, then what leaves each. The last is before the final
    LayerNorm, and so not `last_hidden_state`."""
    attentions: tuple[Array, ...] | None
    """depth arrays [N, H, L, L]: what each query of a block attends to; rows sum to one."""

    __repr__ = describe_fields


def tower_taps(tower: str, depth: int, hidden_states: bool, attentions: bool) -> list[str]:
    """The names of the taps of a trace that a `TowerOutput` is made of."""
    blocks = [block_name(tower, i) for i in range(depth)]
    names = [f"{tower}.final_ln", POOLED[tower]]
    names += [f"{tower}.embed", *(f"{block}.+mlp" for block in blocks)] if hidden_states else []
    return names + ([f"{block}.attn.probs" for block in blocks] if attentions else [])


def put_together(number: int, parts: Sequence[tuple[NDArray[np.intp], Mapping[str, Array]]]) -> dict[str, Array]:
    """The taps of all inputs, from those of batches and their places; shorter inputs leave zeros."""
    together: dict[str, Array] = {}
    for name in parts[0][1]:
        shapes = [taps[name].shape[1:] for _, taps in parts]
        together[name] = np.zeros((number, *np.max(shapes, axis=0)), np.float32)
        for places, taps in parts:
            for place, values in zip(places, taps[name], strict=True):
                together[name][place][tuple(map(slice, values.shape))] = values
    return together


def tower_output(taps: Mapping[str, Array], tower: str, depth: int) -> TowerOutput:
    """From those taps; what is not among them is None."""
    blocks = [block_name(tower, i) for i in range(depth)]
    hidden = attentions = None
    if f"{tower}.embed" in taps:
        hidden = (taps[f"{tower}.embed"], *(taps[f"{block}.+mlp"] for block in blocks))
    if f"{blocks[0]}.attn.probs" in taps:
        attentions = tuple(taps[f"{block}.attn.probs"] for block in blocks)
    return TowerOutput(taps[f"{tower}.final_ln"], taps.get(POOLED[tower]), hidden, attentions)
