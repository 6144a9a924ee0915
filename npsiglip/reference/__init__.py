"""The truth: SigLIP in float64 NumPy, written to be read. Nothing else of this project is imported here."""

from npsiglip.reference.backward import siglip_loss_and_gradients
from npsiglip.reference.loss import chunked_sigmoid_loss, sigmoid_loss, softmax_loss
from npsiglip.reference.model import (
    classify,
    grid_positions,
    image_tokens,
    image_tower,
    logits,
    naflex_positions,
    naflex_tower,
    siglip,
    text_tower,
)
from npsiglip.reference.positions import interpolate_antialias, interpolate_bicubic
from npsiglip.reference.resize import resize
from npsiglip.reference.ring import RingResult, gathered_softmax_loss, ring_sigmoid_loss

__all__ = [
    "RingResult",
    "chunked_sigmoid_loss",
    "classify",
    "gathered_softmax_loss",
    "grid_positions",
    "image_tokens",
    "image_tower",
    "interpolate_antialias",
    "interpolate_bicubic",
    "logits",
    "naflex_positions",
    "naflex_tower",
    "resize",
    "ring_sigmoid_loss",
    "siglip",
    "siglip_loss_and_gradients",
    "sigmoid_loss",
    "softmax_loss",
    "text_tower",
]
