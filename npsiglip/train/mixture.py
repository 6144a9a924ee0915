"""Batches of several sources: how many pictures each gives to a step, which ones, what is said, how they are shown.

All of it follows from the settings and the number of the step. The share of a source is held over any stretch of steps
to within one picture: by step s it has given floor(s * batch * share) of them, and the largest gives what is left.

With `data.embedded` a source has a pool: its pictures 0 to N - 1, which come again and again. What is said of picture
number n is said anew each time. The world, whose captions belong to their pictures, has a pool in each phase, of whole
steps, so that no caption of a batch is true of another picture. `npsiglip.train.pool` embeds pools once; a batch here
draws the same pictures anew, which is what that must be equal to.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

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

CHUNK = 256  # pictures of a pool that are drawn at once
Known = int | str
"""What the captions of a picture in a pool are made of: its index in its source; of the world, its caption."""
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
        pool: how many pictures there are, as they are shown; 0: without end.
        skipped: name -> reason, of pictures that could not be decoded; emptied by who reports them.
    """

    def __init__(self, settings: SourceSettings, where: str, image_size: int, seed: int, cache: _Cache) -> None:
        self.name = settings.name or settings.kind
        self._settings, self._size, self._seed, self._cache = settings, image_size, seed, cache
        self._pairs, self._wording = open_pairs(settings, where), Wording(settings)
        indices = [i for i in of_class(self._pairs, settings) if self._wording.caption(self._pairs.words(i), Random(0))]
        if not indices:
            raise InputError(f"{where}: nothing is left by `languages` and `of_class`: no picture has a caption")
        classes = [self._pairs.class_of(i) for i in indices]
        if settings.neighbours and None in classes:
            alone = self._pairs.where(indices[classes.index(None)])
            raise InputError(f"{where}.neighbours brings classes together, and {alone} has none: set `class_by`?")
        self._order = Order(seed, self.name, indices, classes, settings.window, settings.neighbours)
        self.count = len(indices)
        self.pool = 0
        self._bad: set[int] = set()
        self.skipped: dict[str, str] = {}

    def _rng(self, n: int) -> Random:
        return Random(f"npsiglip pairs, {self._seed}, {self.name}, {n}")

    def make_pool(self, least: int, most: int) -> None:
        """Show pictures again after `least`, or a few more, whose classes then have come as often as each other.

        Args:
            least: so many different pictures.
            most: that will be shown at all.
        """
        self.pool = min(self._order.whole(least), most)

    def number(self, n: int) -> int:
        """Which picture is shown as number n: that of the pool, if there is one."""
        return n % self.pool if self.pool else n

    def caption(self, n: int) -> str:
        """What is said of number n, had every picture been decoded."""
        return self.said(n, self._order(self.number(n)))

    def said(self, n: int, index: int) -> str:
        """What is said as number n of the picture `index`."""
        return self._wording.caption(self._pairs.words(index), self._rng(n)) or ""

    def _read(self, index: int, rng: Random) -> Image:
        if self._pairs.varies:
            return self._pairs.read(index, rng)
        found = self._cache.get((self.name, index))
        if found is None:
            found = reduced(self._pairs.read(index, rng), self._size)
            self._cache.add((self.name, index), found)
        picture: Image = found
        return picture

    def picture(self, number: int) -> tuple[NDArray[np.uint8], int, str]:
        """A picture [S, S, 3], its index, and what is said of it. One that cannot be decoded is passed over.

        Raises:
            TrainingError: a hundred pictures in a row cannot be decoded.
        """
        for attempt in range(TRIES):
            index = self._order(number + attempt)
            if index in self._bad:
                continue
            rng, words = self._rng(number), self._pairs.words(index)
            caption = self._wording.caption(words, rng) or ""
            try:
                picture = self._read(index, rng)
            except Exception as error:  # damaged files raise almost anything
                self._bad.add(index)
                self.skipped[self._pairs.where(index)] = str(error) or type(error).__name__
                continue
            # in a pool, other things will be said of it
            has_sides = self._wording.may_name_a_side(words) if self.pool else names_a_side(caption)
            return shown(picture, self._size, rng, self._settings.augment, not has_sides), index, caption
        raise TrainingError(
            f"source {self.name!r}: {TRIES} pictures in a row cannot be decoded, the last {self._pairs.where(index)}: "
            "is the path right, and are the files whole?"
        )

    def sample(self, n: int) -> tuple[NDArray[np.uint8], str]:
        """Number n: the picture [S, S, 3] and its caption."""
        picture, index, caption = self.picture(self.number(n))
        return picture, self.said(n, index) if self.pool else caption


class _WorldPool(NamedTuple):
    """The pool of the world in a phase: pairs of whole steps, of which each takes as many as it needs."""

    start: int
    """The first step."""
    steps: int
    each: int
    """Pairs of a step, at most."""

    @property
    def size(self) -> int:
        """Of all steps."""
        return self.steps * self.each


class Mixture:
    """Batches of all sources of a configuration; `npsiglip.train.data.Source`.

    Attributes:
        pool_chunks: the rows of all pools, in their order, as parts that are drawn at once: a source and the numbers
            of its pictures; or a phase of the world, counted from -1 down, and a step.

    Raises:
        InputError: a source that cannot be used; a batch too small for so many.
    """

    def __init__(self, config: Config) -> None:
        self._config, data = config, config.data
        size, cache = config.model.image.image_size, _Cache(CACHE_BYTES)
        self._listed = data.sources or (SourceSettings("world"),)
        self._world = WorldSource(config)
        self._sources: list[Drawn | None] = [  # None is the world
            None if source.kind == "world" else Drawn(source, f"data.sources[{i}]", size, data.seed, cache)
            for i, source in enumerate(self._listed)
        ]
        self._shares = [self._phase_shares(phase) for phase in range(len(data.phases))]
        self._starts = [0, *config.phase_ends()[:-1]]
        for phase, shares in enumerate(self._shares):
            if max(shares) * config.train.batch < len(shares) - 1:
                raise InputError(
                    f"data.phases[{phase}]: a batch of {config.train.batch} is too small for {len(shares)} sources in "
                    "such shares: leave some out, or give a larger batch"
                )
        self._world_pools: list[_WorldPool] = []
        self.pool_chunks: list[tuple[int, range]] = []
        if data.embedded:
            self._make_pools(data.embedded)

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self._config}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["config"])  # type: ignore[misc]  # each process opens the files for itself

    def _phase_shares(self, phase: int) -> list[float]:
        given = self._config.data.phases[phase].shares
        weights = [given.get(source.name or source.kind, source.weight) for source in self._listed]
        return [weight / sum(weights) for weight in weights]

    def _given_in(self, phase: int, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many pictures each source has given after so many steps of a phase: [N] -> [N, sources]."""
        shares, pairs = np.array(self._shares[phase]), steps * self._config.train.batch
        counts: NDArray[np.int64] = (pairs[:, None] * shares).astype(np.int64)
        largest = int(np.argmax(shares))
        counts[:, largest] = 0
        counts[:, largest] = pairs - counts.sum(axis=1)
        return counts

    def given(self, step: int) -> list[int]:
        """How many pictures each source has given before this step."""
        total = np.zeros(len(self._sources), np.int64)
        for phase, (start, end) in enumerate(zip(self._starts, self._config.phase_ends(), strict=True)):
            if step <= start:
                break
            total += self._given_in(phase, np.array([min(step, end) - start]))[0]
        return [int(count) for count in total]

    def batch(self, step: int) -> tuple[NDArray[np.uint8], list[str]]:
        """Pictures uint8 [B, S, S, 3] and their captions, source by source."""
        pictures, captions = [], []
        for source, first, end in self._parts(step):
            if source is None:
                drawn, said = self._world_pairs(step, end - first)
                pictures.append(drawn)
                captions += said
                continue
            for n in range(first, end):
                picture, caption = source.sample(n)
                pictures.append(picture[None])
                captions.append(caption)
        return np.concatenate(pictures), self._mislabelled(captions, step)

    def _parts(self, step: int) -> Iterator[tuple[Drawn | None, int, int]]:
        """The sources that give to a step, with their numbers: the first, and the one behind the last."""
        for source, first, end in zip(self._sources, self.given(step), self.given(step + 1), strict=True):
            if end > first:
                yield source, first, end

    def _mislabelled(self, captions: list[str], step: int) -> list[str]:
        data = self._config.data
        return mislabelled(captions, data.label_noise, data.seed, step)

    def _phase(self, step: int) -> int:
        return next(i for i, end in enumerate(self._config.phase_ends()) if step < end)

    def _world_pairs(self, step: int, count: int) -> tuple[NDArray[np.uint8], list[str]]:
        if not self._world_pools:
            return self._world.drawn(step, count)
        pool = self._world_pools[self._phase(step)]
        pictures, captions = self._world.drawn(pool.start + (step - pool.start) % pool.steps, pool.each)
        return pictures[:count], captions[:count]

    # -- pools --------------------------------------------------------------------------------------------------------

    def _make_pools(self, least: int) -> None:
        for source, total in zip(self._sources, self.given(self._config.train.steps), strict=True):
            if source is not None:
                source.make_pool(least, total)
        worlds = [i for i, source in enumerate(self._sources) if source is None]
        for phase, (start, end) in enumerate(zip(self._starts, self._config.phase_ends(), strict=True)):
            counts = self._given_in(phase, np.arange(end - start + 1))[:, worlds]
            each = int(np.diff(counts, axis=0).max(initial=0))
            self._world_pools.append(_WorldPool(start, min(-(-least // each), end - start) if each else 0, each))
        # the rows of all pools: source by source; the world's, phase by phase, behind them
        sizes = [source.pool if source else 0 for source in self._sources] + [pool.size for pool in self._world_pools]
        self._first_rows = np.cumsum([0, *sizes])
        self.pool_chunks = list(self._chunks())

    @property
    def pool_rows(self) -> int:
        """How many pictures all pools have."""
        return int(self._first_rows[-1])

    def _chunks(self) -> Iterator[tuple[int, range]]:
        for i, source in enumerate(self._sources):
            size = source.pool if source else 0
            yield from ((i, range(first, min(first + CHUNK, size))) for first in range(0, size, CHUNK))
        for phase, pool in enumerate(self._world_pools):
            yield from ((-1 - phase, range(step, step + 1)) for step in range(pool.start, pool.start + pool.steps))

    def draw_pool(self, place: int, numbers: range) -> tuple[NDArray[np.uint8], list[Known]]:
        """The pictures uint8 [N, S, S, 3] of one of `pool_chunks`, and what is known of them."""
        if place < 0:
            pictures, captions = self._world.drawn(numbers[0], self._world_pools[-1 - place].each)
            return pictures, list(captions)
        source = self._sources[place]
        assert source is not None
        drawn = [source.picture(number) for number in numbers]
        return np.stack([picture for picture, _, _ in drawn]), [index for _, index, _ in drawn]

    def pool_batch(self, step: int, known: Sequence[Known]) -> tuple[NDArray[np.intp], list[str]]:
        """What `batch` gives, with rows [B] of the pools instead of pictures.

        Args:
            step: of the training.
            known: of all rows, by `draw_pool`.
        """
        rows: list[int] = []
        captions: list[str] = []
        for source, first, end in self._parts(step):
            if source is None:
                phase = self._phase(step)
                pool, row = self._world_pools[phase], int(self._first_rows[len(self._sources) + phase])
                row += (step - pool.start) % pool.steps * pool.each
                rows += range(row, row + end - first)
                captions += (str(known[i]) for i in rows[first - end :])
                continue
            row = int(self._first_rows[self._sources.index(source)])
            for n in range(first, end):
                rows.append(row + source.number(n))
                captions.append(source.said(n, int(known[rows[-1]])))
        return np.array(rows, np.intp), self._mislabelled(captions, step)

    # -- what there is ------------------------------------------------------------------------------------------------

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
            + (f", as {source.pool:,} that are embedded once" if source.pool else "")
            for source, pairs in zip(self._sources, total, strict=True)
            if source is not None
        ]
