"""The checkpoints that were released, by name: SigLIP, SigLIP 2 and SigLIP 2 NaFlex.

Source: section 3 and table 1 of arXiv:2303.15343, arXiv:2502.14786, and big_vision's `models/vit.py` for widths and
depths. So400m is the shape-optimised ViT of arXiv:2305.13035, with heads of 72; g-opt is an image tower alone, whose
texts are So400m's. Numbers of parameters are those that were published, not counted here: a test counts.

Leaves out: what others derived from these.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError

OWNER = "google"
SPELT_ALIKE, OTHER_OWNER = 0.5, 0.95  # of 1: how much of a name must be that of a released one to ask for it

SHAPES: dict[str, dict[str, Any]] = {
    "B": {"width": 768, "depth": 12, "num_heads": 12, "mlp_dim": 3072},
    "L": {"width": 1024, "depth": 24, "num_heads": 16, "mlp_dim": 4096},
    "So400m": {"width": 1152, "depth": 27, "num_heads": 16, "mlp_dim": 4304},
    "g-opt": {"width": 1536, "depth": 40, "num_heads": 16, "mlp_dim": 6144},
}


@dataclass(frozen=True)
class Variant:
    """A released checkpoint: the shapes of its towers, `params` numbers in all."""

    name: str
    image: str
    text: str
    patch_size: int
    image_size: int
    seq_len: int
    vocab_size: int
    params: int

    @property
    def repo(self) -> str:
        """Its name where it is published."""
        return f"{OWNER}/{self.name}"

    @property
    def family(self) -> str:
        """Which of the two: siglip or siglip2."""
        return self.name.partition("-")[0]

    @property
    def naflex(self) -> bool:
        """Whether images keep their aspect ratio."""
        return self.name.endswith("naflex")

    @property
    def config(self) -> SigLIPConfig:
        """The shapes."""
        image, text = SHAPES[self.image], SHAPES[self.text]
        return SigLIPConfig(
            ImageConfig(**image, image_size=self.image_size, patch_size=self.patch_size, naflex=self.naflex),
            TextConfig(**text, seq_len=self.seq_len, vocab_size=self.vocab_size, projection_dim=image["width"]),
        )


# fmt: off
_TABLE = (
    # name, image tower, text tower, patch, image size, text positions, vocabulary, parameters
    ("siglip-base-patch16-224", "B", "B", 16, 224, 64, 32_000, 203_155_970),
    ("siglip-base-patch16-256", "B", "B", 16, 256, 64, 32_000, 203_202_050),
    ("siglip-base-patch16-384", "B", "B", 16, 384, 64, 32_000, 203_447_810),
    ("siglip-base-patch16-512", "B", "B", 16, 512, 64, 32_000, 203_791_874),
    ("siglip-base-patch16-256-multilingual", "B", "B", 16, 256, 64, 250_000, 370_626_050),
    ("siglip-large-patch16-256", "L", "L", 16, 256, 64, 32_000, 652_150_786),
    ("siglip-large-patch16-384", "L", "L", 16, 384, 64, 32_000, 652_478_466),
    ("siglip-so400m-patch14-224", "So400m", "So400m", 14, 224, 16, 32_000, 877_360_306),
    ("siglip-so400m-patch14-384", "So400m", "So400m", 14, 384, 64, 32_000, 877_960_498),
    ("siglip-so400m-patch16-256-i18n", "So400m", "So400m", 16, 256, 64, 250_000, 1_128_758_962),
    ("siglip2-base-patch32-256", "B", "B", 32, 256, 64, 256_000, 376_856_066),
    ("siglip2-base-patch16-224", "B", "B", 16, 224, 64, 256_000, 375_187_970),
    ("siglip2-base-patch16-256", "B", "B", 16, 256, 64, 256_000, 375_234_050),
    ("siglip2-base-patch16-384", "B", "B", 16, 384, 64, 256_000, 375_479_810),
    ("siglip2-base-patch16-512", "B", "B", 16, 512, 64, 256_000, 375_823_874),
    ("siglip2-large-patch16-256", "L", "L", 16, 256, 64, 256_000, 881_526_786),
    ("siglip2-large-patch16-384", "L", "L", 16, 384, 64, 256_000, 881_854_466),
    ("siglip2-large-patch16-512", "L", "L", 16, 512, 64, 256_000, 882_313_218),
    ("siglip2-so400m-patch14-224", "So400m", "So400m", 14, 224, 64, 256_000, 1_135_463_602),
    ("siglip2-so400m-patch14-384", "So400m", "So400m", 14, 384, 64, 256_000, 1_136_008_498),
    ("siglip2-so400m-patch16-256", "So400m", "So400m", 16, 256, 64, 256_000, 1_135_670_962),
    ("siglip2-so400m-patch16-384", "So400m", "So400m", 16, 384, 64, 256_000, 1_136_039_602),
    ("siglip2-so400m-patch16-512", "So400m", "So400m", 16, 512, 64, 256_000, 1_136_555_698),
    ("siglip2-giant-opt-patch16-256", "g-opt", "So400m", 16, 256, 64, 256_000, 1_871_393_906),
    ("siglip2-giant-opt-patch16-384", "g-opt", "So400m", 16, 384, 64, 256_000, 1_871_885_426),
    ("siglip2-base-patch16-naflex", "B", "B", 16, 256, 64, 256_000, 375_234_050),
    ("siglip2-so400m-patch16-naflex", "So400m", "So400m", 16, 256, 64, 256_000, 1_135_670_962),
)
# fmt: on

VARIANTS: dict[str, Variant] = {row[0]: Variant(*row) for row in _TABLE}


def nearest(name: str, cutoff: float = SPELT_ALIKE) -> str:
    """A question for a message: which released checkpoints are spelt like `name`; empty if none is."""
    near = get_close_matches(name.rpartition("/")[2].lower(), VARIANTS, n=3, cutoff=cutoff)
    return f"did you mean {', '.join(near)}? " if near else ""


def find_variant(name: str) -> Variant:
    """The released checkpoint of this name, with or without "google/", in any case.

    Raises:
        CheckpointError: there is none; the error names those that are spelt most like it.
    """
    known = VARIANTS.get(name.strip().lower().removeprefix(f"{OWNER}/"))
    if known is None:
        raise CheckpointError(f"unknown checkpoint {name!r}: {nearest(name)}`npsiglip models` lists all of them")
    return known


def variant(name: str) -> SigLIPConfig:
    """The configuration of a released checkpoint, e.g. `variant("siglip-base-patch16-224")`."""
    return find_variant(name).config
