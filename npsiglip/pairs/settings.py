"""[[data.sources]]: where the pairs of a training come from, how their captions are worded, their pictures changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from npsiglip.errors import InputError
from npsiglip.pairs.fields import Natural, Positive, Range

Part = Annotated[float, Range(0, 1)]
Weight = Annotated[float, Range(0)]
Kind = Literal["world", "captions", "classes", "webdataset", "emoji", "drawings"]
Background = Literal["white", "light", "plain", "gradient", "noise", "pattern"]

NEEDS: Mapping[str, tuple[str, ...]] = {
    "world": (),
    "captions": ("path",),
    "classes": ("path",),
    "webdataset": ("path",),
    "emoji": ("path", "names"),
    "drawings": ("path",),
}


@dataclass(frozen=True)
class AugmentSettings:
    """[data.sources.augment]: how a picture is changed each time it is shown. Nothing is changed by default."""

    crop: Annotated[float, Range(0.05, 1)] = 1.0
    """The least part of the area that is kept; of a cut-out, the least part of the side that it fills."""
    aspect: Annotated[float, Range(1, 3)] = 1.0
    """How much wider or higher than it is a picture may become."""
    rotate: Annotated[float, Range(0, 180)] = 0.0
    """Degrees, to either side."""
    flip: bool = False
    """Left to right, for half of the pictures whose caption names no side."""
    colour: Part = 0.0
    """How far brightness, contrast and saturation may go, and the hue, of a sixth of the circle."""
    grey: Part = 0.0
    """The share that loses its colours."""
    blur: Part = 0.0
    """The share that is blurred."""
    outline: Part = 0.0
    """The share that becomes a line drawing: dark edges on white."""
    ink: Part = 0.0
    """The share, of what is no outline, that keeps its colours and has its edges drawn over them, dark."""
    shake: Part = 0.0
    """How far the strokes of drawings may be bent, moved and left out."""
    background: tuple[Background, ...] = ("white",)
    """What cut-outs stand on, each as likely."""


@dataclass(frozen=True)
class SourceSettings:
    """[[data.sources]]: one of them."""

    kind: Kind
    name: str = ""
    """Empty: its kind."""
    weight: Weight = 1.0
    """Its share of each batch, before those of all sources are made to add up to one."""
    path: tuple[str, ...] = ()
    """Files and folders, with * and **, ~ and $VARIABLES."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """Language -> the column or key that holds whole captions, one or a list."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Language -> columns or keys that hold names, which are put into templates."""
    picture: str = "picture"
    """The column or key with the name of the picture's file."""
    class_by: str = ""
    """The column or key that says which pictures show the same: then classes come in turn, and pictures within them."""
    of_class: tuple[Natural, Natural] | None = None
    """Which pictures of each class, from the first number to before the second, in the order of the source."""
    names: str = ""
    """Of emoji: the folder of emojibase-data. Else JSON with synonyms and translations, {name: {language: [names]}}."""
    languages: Mapping[str, Positive] = field(default_factory=dict)
    """Language -> how often; none: all that there are, alike."""
    templates: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Language -> sentences with {}, for names."""
    plain: Part = 0.5
    """The share of names that stand alone, without a template."""
    tags: Part = 0.0
    """The share of captions that add or are a tag, where there are tags."""
    window: Natural = 0
    """Of how many neighbours the order is drawn, so that large files are read nearly in order; 0: of all."""
    neighbours: Natural = 0
    """So many classes that follow each other in the source come together, as hard negatives: neighbours resemble each
    other, as emoji in the order of Unicode do. 0: classes come in any order."""
    augment: AugmentSettings = AugmentSettings()


def check_source(source: SourceSettings, where: str) -> None:
    """What concerns more than one setting of a source.

    Raises:
        InputError: a setting that its kind needs and lacks, or a template without place for a name.
    """
    for key in NEEDS[source.kind]:
        if not getattr(source, key):
            raise InputError(f"{where} of kind {source.kind!r} needs `{key}`")
    for language, templates in source.templates.items():
        for template in templates:
            if template.count("{}") != 1:
                raise InputError(f"{where}.templates.{language}: {template!r} needs {{}} once, where the name goes")
    if source.of_class and source.of_class[0] >= source.of_class[1]:
        raise InputError(f"{where}.of_class {list(source.of_class)} leaves nothing: expected [first, after the last]")
    if source.kind == "webdataset" and not (source.captions or source.labels):
        raise InputError(f'{where} needs `captions` or `labels`: which keys of a sample\'s JSON are they, or "txt"?')
