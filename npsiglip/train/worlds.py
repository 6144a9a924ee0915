"""The world (`npsiglip.world`) as a source of training pairs, and captions that go to other pictures (label noise)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.train.config import Config, mislabelled_count


def mislabelled(captions: list[str], share: float, seed: int, step: int) -> list[str]:
    """The captions of a batch, of which a share has gone to other pictures.

    The pairs of that share stand in a circle, and each has the caption of the next: none keeps its own, though two may
    have the same words. Who they are follows from seed and step; those of a smaller share are among them.

    Args:
        captions: of the batch, in its order.
        share: of the pairs, 0 to 1.
        seed: of the data.
        step: of the batch.
    """
    count = mislabelled_count(share, len(captions))
    if count < 2:
        return captions
    from npsiglip.world.sampling import shuffled

    circle = shuffled(Random(f"npsiglip label noise, {seed}, {step}"), range(len(captions)))[:count]
    result = list(captions)
    for i, j in pairwise([*circle, circle[0]]):
        result[i] = captions[j]
    return result


@dataclass
class WorldSource:
    """`npsiglip.world` through the phases of a configuration."""

    config: Config
    _worlds: dict[int, Any] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"config": self.config, "_worlds": {}}

    def world(self, phase: int) -> Any:
        """The world of a phase.

        Raises:
            InputError: a setting that the world refuses.
        """
        if phase not in self._worlds:
            from npsiglip.world import World

            data = self.config.data
            size = self.config.model.image.image_size
            try:
                self._worlds[phase] = World(data.seed, size, "train", **data.phases[phase].world)
            except (InputError, TypeError) as error:
                raise InputError(f"data.phases[{phase}]: {error}") from None
        return self._worlds[phase]

    def drawn(self, step: int, count: int) -> tuple[NDArray[np.uint8], list[str]]:
        """So many pictures of the phase that the step lies in, and their captions."""
        phase = next(i for i, end in enumerate(self.config.phase_ends()) if step < end)
        pictures, captions = self.world(phase).batch(step, count)
        return pictures, captions

    def batch(self, step: int) -> tuple[NDArray[np.uint8], list[str]]:
        """A whole batch of them."""
        pictures, captions = self.drawn(step, self.config.train.batch)
        data = self.config.data
        return pictures, mislabelled(captions, data.label_noise, data.seed, step)

    def take_skipped(self) -> dict[str, str]:
        """Nothing: every picture is drawn."""
        return {}

    def captions(self, count: int) -> Iterator[str]:
        """Captions for a tokenizer, in equal shares from all phases."""
        phases = range(len(self.config.data.phases))
        for phase in phases:
            for i in range(-(-count // len(phases))):
                yield self.world(phase).caption(i)
