"""Conformance packs: what a port in any language is held to, in a folder that needs no Python to read.

A pack holds pictures, texts, weights, golden results, how far a correct float32 port may be off, and where all of it
came from. Levels build on each other, and each is given golden input, so that one mistake does not hide the next:

    0  texts to token ids, exact
    1  pictures to pixels
    2  single operations: those of block 0 of each tower, and all outside of blocks; each on its golden input
    3  towers: every tap, from golden pixels and ids
    4  embeddings, logits and probabilities, from golden pixels and ids
    5  rankings of texts by picture and of pictures by text, from golden logits

    packs_export   makes them      packs_formats, packs_c   their files
    packs_score    a candidate     packs_run                the command that leaves one
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import InputError
from npsiglip.images.processor import ImageProcessor
from npsiglip.model import SigLIP
from npsiglip.processors import folder_processor
from npsiglip.texts.load import find_tokenizer
from npsiglip.verify.files import read_traces
from npsiglip.verify.golden import DECODED, RESIZED, Golden, hash_of
from npsiglip.verify.operations import IDS, PIXELS, Op

Array = NDArray[Any]

PACK, FORMAT = "pack.json", "npsiglip pack 1"
TENSORS = {"safetensors": "tensors.safetensors", "npz": "tensors.npz", "onnx-pb": "", "c": ""}  # or all of the folder
KINDS = tuple(TENSORS)
MODEL_FILES = "model"  # the folder of the tokenizer and of the image processor's settings
WEIGHTS = "weights/"  # before the names of parameters
BY_PICTURE, BY_TEXT = "ranking.texts", "ranking.images"
TITLES = (
    "texts to ids",
    "pictures to pixels",
    "single operations",
    "towers",
    "embeddings, logits, probabilities",
    "rankings",
)
EXACT, LARGEST, RELATIVE, ORDER = "exact", "largest difference", "relative L2", "order"
ENDS = ("zimg", "ztxt", "logits", "probs")


class Check(NamedTuple):
    """What a candidate is held to at a tap of a level.

    Attributes:
        level, tap: where.
        operation: the kind of operation that gives the tap.
        inputs: the taps that are read: golden, whatever the candidate itself computed before.
        weights: the parameters that are read, under the names of docs/glossary.md.
        measure: "exact"; "largest difference", absolute; "relative L2", |x - golden| / |golden|; or "order": golden
            logits in the candidate's order may rise by no more than the limit.
        floor: of that, what rounding makes of a correct port in float32.
        limit: more than this is a fault.
    """

    level: int
    tap: str
    operation: str
    inputs: tuple[str, ...]
    weights: tuple[str, ...]
    measure: str
    floor: float
    limit: float

    @property
    def name(self) -> str:
        """What a candidate calls it."""
        return f"level2.{self.tap}" if self.level == 2 else self.tap


def has_head(op: Op) -> bool:
    """Whether an operation is outside of the blocks, or in the first of them."""
    return ".blocks." not in op.tap or ".blocks.00." in op.tap


def level_of(tap: str) -> int:
    """The level at which a tap is checked that is computed from golden pixels and ids."""
    if tap in (IDS, PIXELS):
        return 0 if tap == IDS else 1
    if tap in (BY_PICTURE, BY_TEXT):
        return 5
    return 4 if tap in ENDS else 3


class Pack:
    """A pack that was read.

    Args:
        folder: what `npsiglip golden export` wrote.

    Attributes:
        about: the content of pack.json.
        tensors: names -> arrays.
        checks: in the order of the levels, and of the forward pass.
        config: of the model.
        name, texts: of the model, and the texts.

    Raises:
        InputError: it is no pack, or is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.about: dict[str, Any] = json.loads((self.folder / PACK).read_text(encoding="utf-8"))
            if self.about["format"] != FORMAT:
                raise InputError(f"{folder} says {self.about['format']!r}; expected {FORMAT!r}: export it again")
            kind, hashes = self.about["kind"], self.about["provenance"]["tensors"]
            self.name, self.texts = str(self.about["model"]), list(self.about["texts"])
            self.checks = [
                Check(**entry | {"inputs": tuple(entry["inputs"]), "weights": tuple(entry["weights"])})
                for level in self.about["levels"]
                for entry in level["checks"]
            ]
            image, text = (self.about["config"][tower] for tower in ("image", "text"))
            self.config = SigLIPConfig(ImageConfig(**image) if image else None, TextConfig(**text) if text else None)
            place = TENSORS[kind]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{folder} is no whole pack ({error}): expected what `npsiglip golden export` writes, with {PACK}"
            ) from None
        read = read_traces(self.folder / place if place else self.folder)
        self.tensors: dict[str, Array] = {}
        self._golden: dict[tuple[bool, bool], Golden] = {}
        for name, wanted in hashes.items():
            value = read.get(name)
            if value is None or hash_of(np.asarray(value)) != wanted:
                what = "is missing" if value is None else "is not what was exported"
                raise InputError(f"{folder}: {name} {what}: export the pack again")
            self.tensors[name] = value

    @property
    def params(self) -> dict[str, Array]:
        """Parameter -> array, float32."""
        return {name.removeprefix(WEIGHTS): x for name, x in self.tensors.items() if name.startswith(WEIGHTS)}

    @cached_property
    def _model(self) -> SigLIP:
        source = self.folder / MODEL_FILES
        processor = folder_processor(source, self.config) if self.config.image else None
        tokenizer = find_tokenizer(source, self.config.text) if self.config.text else None
        return SigLIP(self.config, self.params, processor, tokenizer)

    @property
    def golden(self) -> Golden:
        """The truth from the pack's own weights, pixels and ids, with pictures and texts."""
        return self.golden_of(True, True)

    def golden_of(self, images: bool, texts: bool) -> Golden:
        """The truth of pictures, texts or both, as far as the pack has them."""
        if (images, texts) in self._golden:
            return self._golden[images, texts]
        pixels, ids = self.tensors.get(PIXELS) if images else None, self.tensors.get(IDS) if texts else None
        golden = Golden(self._model, pixels, ids, self.name)
        golden.pictures = [x for name, x in self.tensors.items() if name.startswith(DECODED)]
        golden.before = {name: x for name, x in self.tensors.items() if name.startswith((DECODED, RESIZED))}
        golden.texts = self.texts
        self._golden[images, texts] = golden
        return golden

    def at(self, level: int) -> list[Check]:
        """The checks of a level."""
        return [check for check in self.checks if check.level == level]


def named_weights(op: Op, params: Mapping[str, Array]) -> tuple[str, ...]:
    """The parameters that an operation reads."""
    own = {
        "image_embed": ("image.pos_embed",),
        "text_embed": ("text.token_embed", "text.pos_embed"),
        "probe_query": ("image.map_head.probe", f"{op.name}.w", f"{op.name}.b"),
        "logits": ("t_prime", "bias"),
        "layer_norm": (f"{op.name}.scale", f"{op.name}.b"),
        "linear": (f"{op.name}.w", f"{op.name}.b"),
        "patch_embed": (f"{op.name}.w", f"{op.name}.b"),
    }.get(op.kind, ())
    return tuple(name for name in own if name in params)


def resizes(processor: Any) -> bool:
    """Whether pictures go through a processor whose steps are known."""
    return isinstance(processor, ImageProcessor)
