"""A procedural world: an endless stream of small pictures with captions, to train a small SigLIP on and to try it.

Everything is a pure function of a seed and an index. docs/world.md says what is in it and what is left out.
"""

from __future__ import annotations

from npsiglip.world.evaluation import class_captions, retrieval_pairs, zero_shot_pictures
from npsiglip.world.scene import Background, Scene, Thing
from npsiglip.world.stream import Sample, World
from npsiglip.world.vocabulary import CLASSES, COLOURS, HELD_OUT, SHAPES

__all__ = [
    "CLASSES",
    "COLOURS",
    "HELD_OUT",
    "SHAPES",
    "Background",
    "Sample",
    "Scene",
    "Thing",
    "World",
    "class_captions",
    "retrieval_pairs",
    "zero_shot_pictures",
]
