"""The truth: SigLIP in float64 NumPy, written to be read. Nothing else of this project is imported here."""

from npsiglip.reference.loss import sigmoid_loss
from npsiglip.reference.model import image_tower, siglip, text_tower

__all__ = ["image_tower", "siglip", "sigmoid_loss", "text_tower"]
