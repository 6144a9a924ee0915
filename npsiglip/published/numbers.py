"""What Hugging Face published of the released checkpoints: logits, probabilities, token ids, and of which inputs.

Sources, all in transformers' repository: `src/transformers/models/siglip/convert_siglip_to_hf.py`, which compares its
conversions with what big_vision itself gave for the same pixels; `src/transformers/models/siglip2/
convert_siglip2_to_hf.py`; `tests/models/siglip/test_modeling_siglip.py`,
`tests/models/siglip/test_tokenization_siglip.py`, `tests/models/siglip2/test_modeling_siglip2.py`. Tolerances are
theirs.

Leaves out: accuracies on data sets, which big_vision's and SigLIP 2's pages report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Inputs = Literal["authors' pixels", "cats", "circles", ""]
Rows = tuple[tuple[float, ...], ...]

_CONVERSION = "src/transformers/models/siglip/convert_siglip_to_hf.py"
_MODEL = "tests/models/siglip/test_modeling_siglip.py"
_TOKENIZER = "tests/models/siglip/test_tokenization_siglip.py"
_NAFLEX = "tests/models/siglip2/test_modeling_siglip2.py"
_NAFLEX_CONVERSION = "src/transformers/models/siglip2/convert_siglip2_to_hf.py"


@dataclass(frozen=True)
class Case:
    """One check that a source makes: |obtained - expected| <= atol + rtol |expected|, for every number.

    `images` says which inputs `npsiglip.published.inputs` has to bring; `expected` has a row for each image, or for
    each text of token ids, without padding.
    """

    model: str
    what: Literal["logits", "probabilities", "token ids"]
    images: Inputs
    texts: tuple[str, ...]
    expected: Rows
    atol: float
    rtol: float
    source: str


def _conversion(model: str, *expected: tuple[float, float]) -> Case:
    """torch.allclose(..., atol=1e-4), with its own rtol of 1e-5."""
    texts = ("an apple", "a picture of an apple")
    return Case(model, "logits", "authors' pixels", texts, expected, 1e-4, 1e-5, _CONVERSION)


def _cats(what: Literal["logits", "probabilities"], *expected: float) -> Case:
    texts = ("a photo of 2 cats", "a photo of 2 dogs")
    return Case("siglip-base-patch16-224", what, "cats", texts, (expected,), 1e-3, 1e-3, _MODEL)


def _circles(model: str, texts: Mapping[str, tuple[float, ...]], source: str) -> Case:
    """torch.testing.assert_close(..., atol=1e-3, rtol=1e-3)."""
    return Case(model, "logits", "circles", tuple(texts), tuple(zip(*texts.values(), strict=True)), 1e-3, 1e-3, source)


# fmt: off
_LAPTOP = (
    262, 266, 1357, 267, 262, 266, 4429, 275, 260, 3940, 6360, 277, 262, 266, 3064, 267, 3549, 388, 16538, 296, 298,
    2617, 263, 4869, 14998, 264, 260, 870, 393, 260, 1710, 7958, 4324, 262, 761, 5879, 5345, 263, 260, 1518, 388, 264,
    268, 260, 1970, 267, 260, 741,
)
# fmt: on
_TOKENS = {
    "the real mountain view": (260, 638, 3293, 870),
    "Zürich": (262, 761, 5879, 5345),
    "San Francisco": (262, 264, 452, 20563, 15949),
    "a picture of a laptop with the lockscreen on, a cup of cappucino, salt and pepper grinders. The view through the "
    "window reveals lake Zürich and the Alps in the background of the city.": _LAPTOP,
    "A long paragraph for summarization.": (262, 266, 476, 8532, 270, 4460, 3949, 1682),
    "Summary of the text.": (6254, 267, 260, 1443),
}

# Of each text, for the three images.
_CIRCLES_SO400M = {
    "circle": (0.9422, 0.5540, -2.4405),
    "ellipsoid": (-7.3522, -9.4931, -6.3499),
    "blue circle on red background": (5.7852, 6.7288, 7.7893),
    "blue circle with green border on red background": (9.9881, 10.8136, 9.2121),
    "green circle on red background": (5.3660, 5.7746, 8.4130),
    "a dog": (-12.7218, -14.2631, -13.6442),
    "a blue dog with a green border on a red background": (0.6384, 0.4278, -0.9022),
}
_CIRCLES = {
    "circle": (1.0195, -0.0280, -1.4468),
    "ellipsoid": (-4.5395, -6.2269, -1.5667),
    "blue circle on red background": (4.1757, 5.0358, 3.5159),
    "blue circle with green border on red background": (9.4264, 10.1879, 6.3353),
    "green circle on red background": (2.4409, 3.1058, 4.5491),
    "a dog": (-12.3230, -13.7355, -13.4632),
    "a blue dog with a green border on a red background": (1.1520, 1.1687, -1.9647),
}

CASES = (
    Case("siglip-base-patch16-224", "token ids", "", tuple(_TOKENS), tuple(_TOKENS.values()), 0.0, 0.0, _TOKENIZER),
    _cats("logits", -0.7567, -10.3354),
    _cats("probabilities", 3.1937e-01, 3.2463e-05),
    _conversion("siglip-base-patch16-224", (-2.9621, -2.1672), (-0.2713, 0.2910)),
    _conversion("siglip-base-patch16-256", (-3.1146, -1.9894), (-0.7312, 0.6387)),
    _conversion("siglip-base-patch16-384", (-2.8098, -2.1891), (-0.4242, 0.4102)),
    _conversion("siglip-base-patch16-512", (-2.7899, -2.2668), (-0.4295, -0.0735)),
    _conversion("siglip-large-patch16-256", (-1.5827, -0.5801), (-0.9153, 0.1363)),
    _conversion("siglip-large-patch16-384", (-2.1523, -0.2899), (-0.2959, 0.7884)),
    _conversion("siglip-so400m-patch14-384", (-1.2441, -0.6649), (-0.7060, 0.7374)),
    _conversion("siglip-base-patch16-256-multilingual", (-0.9064, 0.1073), (-0.0299, 0.5304)),
    _conversion("siglip-so400m-patch14-224", (-1.0864916, 1.1704235), (-0.71784306, 1.4354687)),
    _conversion("siglip-so400m-patch16-256-i18n", (-1.9432535, -0.05433846), (0.6222029, 2.2883186)),
    _circles("siglip2-base-patch16-naflex", _CIRCLES, _NAFLEX),
    _circles("siglip2-so400m-patch16-naflex", _CIRCLES_SO400M, _NAFLEX_CONVERSION),
)


def cases_of(model: str) -> list[Case]:
    """What was published of the released checkpoint of this name."""
    return [case for case in CASES if case.model == model]


def models() -> list[str]:
    """The checkpoints of which numbers were published, in the order of the table."""
    return list(dict.fromkeys(case.model for case in CASES))
