"""Batches of several sources: how many pictures each gives to a step, which ones, what is said, how they are shown.

All of it follows from the settings and the number of the step. The share of a source is held over any stretch of steps
to within one picture: by step s it has given floor(s * batch * share) of them, and the largest gives what is left.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.pairs.opening import of_class, open_pairs
from npsiglip.pairs.settings import SourceSettings
from npsiglip.pairs.wording import Wording, names_a_side
from npsiglip.train import TrainingError
from npsiglip.train.augment import reduced, shown
from npsiglip.train.config import Config
from npsiglip.train.data import CACHE_BYTES
from npsiglip.train.order import Order
from npsiglip.train.worlds import WorldSource, mislabelled

if TYPE_CHECKING:
    from PIL.Image import Image

TRIES = 100  # pictures in a row that cannot be decoded, before it is the source that is broken


class _Cache:
    """Decoded pictures, as many as fit."""

    def __init__(self, size: int) -> None:
        self._room, self._recent = size, OrderedDict[tuple[str, int], Any]()

    def get(self, key: tuple[str, int]) -> Any:
        if key in self._recent:
            self._recent.move_to_end(key)
        return self._recent.get(key)

    def add(self, key: tuple[str, int], picture: Any) -> None:
        self._recent[key] = picture
        self._room -= _size(picture)
        while self._room < 0:
            self._room += _size(self._recent.popitem(last=False)[1])


def _size(picture: Any) -> int:
    return int(picture.width * picture.height * 4)


class Drawn:
    """One source of pairs, picture by picture.

    Args:
        settings: of the source.
        where: they stand, for messages.
        image_size: S.
        seed: of the data.
        cache: of decoded pictures, shared by all sources.

    Attributes:
        skipped: name -> reason, of pictures that could not be decoded; emptied by who reports them.
    """

    def __init__(self, settings: SourceSettings, where: str, image_size: int, seed: int, cache: _Cache) -> None:
        self.name = settings.name or settings.kind
        self._settings, self._size, self._seed, self._cache = settings, image_size, seed, cache
        self._pairs, self._wording = open_pairs(settings, where), Wording(settings)
        indices = [i for i in of_class(self._pairs, settings) if self._wording.caption(self._pairs.words(i), Random(0))]
        if not indices:
            raise InputError(f"{where}: nothing is left by `languages` and `of_class`: no picture has a caption")
        self._order = Order(seed, self.name, indices, [self._pairs.class_of(i) for i in indices], settings.window)
        self.count = len(indices)
        self._bad: set[int] = set()
        self.skipped: dict[str, str] = {}

    def _rng(self, n: int) -> Random:
        return Random(f"npsiglip pairs, {self._seed}, {self.name}, {n}")

    def caption(self, n: int) -> str:
        """What is said of number n."""
        return self._wording.caption(self._pairs.words(self._order(n)), self._rng(n)) or ""

    def _read(self, index: int, rng: Random) -> Image:
        if self._pairs.varies:
            return self._pairs.read(index, rng)
        found = self._cache.get((self.name, index))
        if found is None:
            found = reduced(self._pairs.read(index, rng), self._size)
            self._cache.add((self.name, index), found)
        picture: Image = found
        return picture

    def sample(self, n: int) -> tuple[NDArray[np.uint8], str]:
        """Number n: the picture [S, S, 3] and its caption. One that cannot be decoded is passed over.

        Raises:
            TrainingError: a hundred pictures in a row cannot be decoded.
        """
        for attempt in range(TRIES):
            index = self._order(n + attempt)
            if index in self._bad:
                continue
            rng = self._rng(n)
            caption = self._wording.caption(self._pairs.words(index), rng) or ""
            try:
                picture = self._read(index, rng)
            except Exception as error:  # damaged files raise almost anything
                self._bad.add(index)
                self.skipped[self._pairs.where(index)] = str(error) or type(error).__name__
                continue
            return shown(picture, self._size, rng, self._settings.augment, not names_a_side(caption)), caption
        raise TrainingError(
            f"source {self.name!r}: {TRIES} pictures in a row cannot be decoded, the last {self._pairs.where(index)}: "
            "is the path right, and are the files whole?"
        )


class Mixture:
    """Batches of all sources of a configuration; `npsiglip.train.data.Source`.

    Raises:
        InputError: a source that cannot be used; a batch too small for so many.
    """

    def __init__(self, config: Config) -> None:
        self._config, data = config, config.data
        size, cache = config.model.image.image_size, _Cache(CACHE_BYTES)
        self._world = WorldSource(config)
        self._sources: list[Drawn | None] = [  # None is the world
            None if source.kind == "world" else Drawn(source, f"data.sources[{i}]", size, data.seed, cache)
            for i, source in enumerate(data.sources)
        ]
        self._shares = [self._phase_shares(phase) for phase in range(len(data.phases))]
        self._starts = [0, *config.phase_ends()[:-1]]
        for phase, shares in enumerate(self._shares):
            if max(shares) * config.train.batch < len(shares) - 1:
                raise InputError(
                    f"data.phases[{phase}]: a batch of {config.train.batch} is too small for {len(shares)} sources in "
                    "such shares: leave some out, or give a larger batch"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self._config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["config"])  # type: ignore[misc]  # each process opens the files for itself

    def _phase_shares(self, phase: int) -> list[float]:
        data = self._config.data
        given = data.phases[phase].shares
        weights = [given.get(source.name or source.kind, source.weight) for source in data.sources]
        return [weight / sum(weights) for weight in weights]

    def given(self, step: int) -> list[int]:
        """How many pictures each source has given before this step."""
        batch, total = self._config.train.batch, np.zeros(len(self._sources), np.int64)
        for shares, start, end in zip(self._shares, self._starts, self._config.phase_ends(), strict=True):
            steps = min(step, end) - start
            if steps <= 0:
                break
            counts = np.array([int(steps * batch * share) for share in shares])
            largest = int(np.argmax(shares))
            counts[largest] = 0
            counts[largest] = steps * batch - counts.sum()
            total += counts
        return [int(count) for count in total]

    def batch(self, step: int) -> tuple[NDArray[np.uint8], list[str]]:
        """Pictures uint8 [B, S, S, 3] and their captions, source by source."""
        pictures, captions = [], []
        for source, first, end in zip(self._sources, self.given(step), self.given(step + 1), strict=True):
            if end == first:
                continue
            if source is None:
                drawn, said = self._world.drawn(step, end - first)
                pictures.append(drawn)
                captions += said
                continue
            for n in range(first, end):
                picture, caption = source.sample(n)
                pictures.append(picture[None])
                captions.append(caption)
        data = self._config.data
        return np.concatenate(pictures), mislabelled(captions, data.label_noise, data.seed, step)

    def take_skipped(self) -> dict[str, str]:
        """Name -> reason, of pictures that could not be decoded since the last call."""
        found: dict[str, str] = {}
        for source in self._sources:
            if source is not None:
                found |= source.skipped
                source.skipped = {}
        return found

    def captions(self, count: int) -> Iterator[str]:
        """Captions for a tokenizer: of each source its share over all phases, in the order in which they come."""
        steps = self._config.train.steps
        total = self.given(steps)
        for source, pairs in zip(self._sources, total, strict=True):
            number = -(-count * pairs // sum(total))
            yield from self._world.captions(number) if source is None else map(source.caption, range(number))

    def describe(self) -> Sequence[str]:
        """A line for each source: how many pictures it has, and how often each comes."""
        total = self.given(self._config.train.steps)
        return [
            f"{source.name}: {source.count:,} pictures, each {pairs / source.count:,.1f} times"
            for source, pairs in zip(self._sources, total, strict=True)
            if source is not None
        ]
