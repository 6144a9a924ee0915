"""A catalogue of mistakes that ports of SigLIP make, each a small change to the forward pass.

    mistakes_blocks     activations, LayerNorm, attention, linear layers, residuals
    mistakes_ends       patches, positions, pooling, and what is behind the towers
    preprocessing       before the towers, in pixels and token ids

A mistake replaces one operation or some: the left side says at which taps, `*` stands for anything. Functions take what
those of `operations` take, and further taps where the entry says `reads`.

To add one: write the operation as the port has it. tests/verify/test_mistakes.py plants all that are here.
"""

from __future__ import annotations

from npsiglip.verify import mistakes_blocks, mistakes_ends  # noqa: F401  they enter their mistakes, in this order
from npsiglip.verify.catalogue import CATALOGUE, Mistake

__all__ = ["BY_NAME", "CATALOGUE", "Mistake"]

BY_NAME = {mistake.name: mistake for mistake in CATALOGUE}
