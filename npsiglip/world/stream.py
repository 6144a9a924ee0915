"""The stream: pictures with captions, by their number; batches in which no caption fits another picture."""

from __future__ import annotations

import hashlib
import operator
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npsiglip.errors import InputError
from npsiglip.world.captions import Wording, colourless, english
from npsiglip.world.claims import Claims, shown
from npsiglip.world.drawing import draw
from npsiglip.world.fonts import check_fonts
from npsiglip.world.languages import foreign
from npsiglip.world.masks import tables
from npsiglip.world.sampling import Settings, sample_scene, shuffled, weighted
from npsiglip.world.scene import Scene
from npsiglip.world.vocabulary import CLASSES, COLOURS, HELD_OUT, KINDS, SEEN

SPLITS: Final = ("train", "test")
UNSEEN: Final = ("combinations", "styles", "wordings")
MIX: Final[Mapping[str, float]] = {"single": 0.5, "pair": 0.22, "count": 0.16, "glyph": 0.12}
SMALLEST: Final = 32  # sides of pictures; smaller, and shapes cannot be recognised
LARGEST: Final = 512  # larger, and the tables that pictures are cut from would fill hundreds of megabytes
STRIDE: Final = 1 << 20  # indices between the batches of two steps
PATIENCE: Final = 2000  # scenes tried for each place of a batch
ALONE: Final = 0.45  # most of the classes that a batch gives to plain captions
CROWDED: Final = 1500  # size of batches in which all captions but plain ones say all that they can
_BATCHES: Final = 1 << 127  # from here on, indices are those of batches
_PLAN: Final = (1 << 32) - 1  # not the index of a picture, but of what decides on the whole batch
_PALETTE: Final = _PLAN - 1


class Sample(NamedTuple):
    """A picture, what is said of it, and what is in it."""

    image: Image.Image
    caption: str
    scene: Scene


class _Described(NamedTuple):
    """All of a sample but its pixels."""

    caption: str
    claims: Claims
    scene: Scene
    rng: Random  # to draw with


class _Accepted:
    """Samples none of whose captions is true of another's picture, found by the classes that they have in common."""

    def __init__(self) -> None:
        self._claims: defaultdict[int, list[Claims]] = defaultdict(list)  # by the first object that is claimed
        self._shown: defaultdict[int, list[Claims]] = defaultdict(list)  # by every object that is shown

    def has_caption_of(self, picture: Claims) -> bool:
        """Whether a caption is true of this picture."""
        return any(claims.true_of(picture) for key, _ in picture.things for claims in self._claims[key])

    def has_picture_of(self, claims: Claims) -> bool:
        """Whether a caption that claims this is true of a picture."""
        return any(map(claims.true_of, self._shown[claims.things[0][0]]))

    def add(self, claims: Claims, picture: Claims) -> None:
        self._claims[claims.things[0][0]].append(claims)
        for key, _ in picture.things:
            self._shown[key].append(picture)


def _check(mix: Mapping[str, float], shares: Mapping[str, float], image_size: int) -> None:
    if unknown := sorted(set(mix) - set(KINDS)):
        raise InputError(f"`mix` has {unknown}; expected weights for some of {', '.join(KINDS)}")
    if not all(0 <= weight < float("inf") for weight in mix.values()) or sum(mix.values()) <= 0:
        raise InputError(f"the weights of `mix` must be 0 or more, and not all 0; got {dict(mix)}")
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"`{name}` must lie between 0 and 1, got {share}")
    if not SMALLEST <= image_size <= LARGEST:
        raise InputError(f"`image_size` must be from {SMALLEST} to {LARGEST} pixels, got {image_size}")


class World:
    """An endless stream of pictures with captions. Everything is a pure function of settings and an index.

    Args:
        seed: any whole number; which stream.
        image_size: side of the pictures in pixels, 32 to 512. The same index shows the same scene at every size.
        split: "train", or "test": another stream of the same seed.
        mix: weight of each kind of scene: single, pair, count, glyph.
        difficulty: from 0 (large and medium objects, plain surfaces and backgrounds, no noise, hardly turned) to 1.
        plain: share of the captions of single objects that name colour and shape alone.
        languages: share of the captions that are German, French, Spanish or Italian.
        distinct: whether `batch` keeps apart samples of which one's caption is true of the other's picture.
        colourless: share of the captions of single objects that name the shape alone, "a star". Colours are learned
            first, and then there is little to gain from shapes until they are known: such captions are for the start
            of training. They are true of many pictures, so only with distinct=False.
        batch_colours: how many colours there are in a batch, of 8. With few, colour tells less, and more is gained from
            shapes.
        unseen: of "combinations", "styles", "wordings": have only those that training never meets. Only in "test".

    Raises:
        InputError: a setting that cannot be.
    """

    def __init__(
        self,
        seed: int = 0,
        image_size: int = 64,
        split: str = "train",
        mix: Mapping[str, float] | None = None,
        *,
        difficulty: float = 1.0,
        plain: float = 0.4,
        languages: float = 0.11,
        distinct: bool = True,
        colourless: float = 0.0,
        batch_colours: int = len(COLOURS),
        unseen: Collection[str] = (),
    ) -> None:
        if split not in SPLITS:
            raise InputError(f"`split` must be one of {', '.join(SPLITS)}; got {split!r}")
        mix = dict(MIX if mix is None else mix)
        shares = {"difficulty": difficulty, "plain": plain, "languages": languages, "colourless": colourless}
        _check(mix, shares, image_size)
        if colourless and distinct:
            raise InputError("`colourless` captions are true of many pictures: expected distinct=False with them")
        if not 1 <= batch_colours <= len(COLOURS):
            raise InputError(f"`batch_colours` must be from 1 to {len(COLOURS)}, got {batch_colours}")
        if unknown := sorted(set(unseen) - set(UNSEEN)):
            raise InputError(f"`unseen` has {unknown}; expected some of {', '.join(UNSEEN)}")
        if unseen and split == "train":
            raise InputError('`unseen` is what training never meets: expected split="test" with it')
        self.seed, self.image_size, self.split, self.distinct = seed, image_size, split, distinct
        self.plain, self.languages, self.unseen = plain, languages, frozenset(unseen)
        self.colourless, self.batch_colours = colourless, batch_colours
        classes: Sequence[tuple[str, str]] = SEEN
        if "combinations" in self.unseen:
            classes = tuple(pair for pair in CLASSES if pair in HELD_OUT)
        if mix.get("glyph"):
            check_fonts()
        self.mix, self.difficulty = mix, difficulty
        self._settings = Settings(difficulty, classes, "styles" in self.unseen)
        name = f"npsiglip world, {split}, {seed}"
        self._key = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=12).digest(), "little") << 128

    def _caption(self, rng: Random, scene: Scene, plain: float, full: bool = False) -> tuple[str, Claims]:
        unseen = "wordings" in self.unseen
        if self.colourless and scene.kind == "single" and rng.random() < self.colourless:
            return colourless(rng, scene)
        if rng.random() < self.languages and not unseen:
            return foreign(rng, scene, 0.0 if full else plain)
        return english(rng, scene, Wording(plain, unseen, full))

    def _describe(self, index: int, settings: Settings | None = None) -> _Described:
        index = operator.index(index)  # NumPy's are too short for what follows
        if not 0 <= index < _BATCHES:
            raise InputError(f"`index` must be a whole number from 0 to 2^127 - 1, got {index}")
        rng = Random(self._key | index)
        scene = sample_scene(rng, settings or self._settings, weighted(rng, self.mix))
        return _Described(*self._caption(rng, scene, self.plain), scene, rng)

    def _draw(self, described: _Described) -> NDArray[np.uint8]:
        return draw(described.scene, tables(self.image_size), described.rng)

    def caption(self, index: int) -> str:
        """The caption alone, in a tenth of the time."""
        return self._describe(index).caption

    def sample(self, index: int) -> Sample:
        """The picture of this number, 0 or more, with its caption.

        Raises:
            InputError: an index below 0, or of more than 127 bits.
        """
        described = self._describe(index)
        return Sample(Image.fromarray(self._draw(described)), described.caption, described.scene)

    def _fitting(self, rng: Random, kind: str, settings: Settings, full: float, accepted: _Accepted) -> _Described:
        """A sample that can stand beside those accepted, which it joins: said in more words if need be, or another."""
        plain = float(len(settings.classes) == 1)
        for attempt in range(1, PATIENCE):
            scene = sample_scene(rng, settings, kind)
            picture = shown(scene)
            if attempt % 100 == 0:
                kind = weighted(rng, self.mix)  # perhaps of this kind there is no more room
            if accepted.has_caption_of(picture):
                continue
            for more in (rng.random() < full and not plain, False, True):
                caption, claims = self._caption(rng, scene, plain, more)
                if not accepted.has_picture_of(claims):
                    accepted.add(claims, picture)
                    return _Described(caption, claims, scene, rng)
        raise InputError(
            "no further picture was found of which no caption of the batch is true; expected a smaller batch, more "
            "kinds in `mix`, or distinct=False"
        )

    def _palette(self, step: int) -> Settings:
        """The settings of a batch: with its colours alone."""
        if self.batch_colours == len(COLOURS):
            return self._settings
        colours = shuffled(Random(self._key | _BATCHES | step << 32 | _PALETTE), COLOURS)[: self.batch_colours]
        return replace(self._settings, classes=tuple(pair for pair in self._settings.classes if pair[0] in colours))

    def _distinct(self, step: int, size: int) -> list[_Described]:
        """Kinds as the mix says. Every plain caption is given a class that no other picture shows."""
        first, settings, accepted = _BATCHES | step << 32, self._palette(step), _Accepted()
        rng = Random(self._key | first | _PLAN)
        kinds = [weighted(rng, self.mix) for _ in range(size)]
        classes = shuffled(rng, settings.classes)
        wanted = [i for i, kind in enumerate(kinds) if kind == "single" and rng.random() < self.plain]
        alone = dict(zip(wanted, classes[: int(ALONE * len(classes))], strict=False))
        others = replace(settings, classes=classes[len(alone) :])
        chosen = []
        for i, kind in enumerate(kinds):
            own = replace(settings, classes=(alone[i],)) if i in alone else others
            chosen.append(self._fitting(Random(self._key | first | i), kind, own, size / CROWDED, accepted))
        return chosen

    def _chosen(self, step: int, size: int) -> list[_Described]:
        if self.distinct:
            return self._distinct(step, size)
        settings = self._palette(step)
        return [self._describe(step * STRIDE + i, settings) for i in range(size)]

    def batch(self, step: int, size: int) -> tuple[NDArray[np.uint8], list[str]]:
        """Pictures [size, S, S, 3] and their captions.

        Unless `distinct` is false, no caption is true of another picture. Plain captions then need a class to
        themselves: at most 25 in a batch, in training, and the larger the batch, the more the others say. If it is
        false, these are the samples from step * 2^20 on, but for `batch_colours`.

        Raises:
            InputError: a size below 1, a step below 0; too large to be filled so.
        """
        step, size = operator.index(step), operator.index(size)
        if not 1 <= size <= STRIDE or not 0 <= step < 1 << 90:
            raise InputError(f"a batch needs a step from 0 on and a size from 1 to {STRIDE}; got {step} and {size}")
        chosen = self._chosen(step, size)
        pixels = np.empty((size, self.image_size, self.image_size, 3), np.uint8)
        for i, described in enumerate(chosen):
            pixels[i] = self._draw(described)
        return pixels, [described.caption for described in chosen]
