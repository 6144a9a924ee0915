"""Pictures that a locked image tower embeds once, at the start of a run, for a text tower that learns from them (LiT).

What the tower makes of a picture never changes, so a training that draws and embeds every picture anew spends nearly
all of its time on that. With `data.embedded` each source has a pool of pictures (`npsiglip.train.mixture`): processes
draw it, the tower embeds it, and batches then carry rows of the pool and ids, whose captions are new each time. The
loss and the gradients have the bits that the same pictures would give as pixels.

Nothing of it is stored: a run that goes on embeds its pool again, to the same bits.

Dimensions: R rows of all pools, B pairs of a batch, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from npsiglip.kernels.jit import computing
from npsiglip.train.config import Config
from npsiglip.train.data import Ahead, Pixels
from npsiglip.train.flat import Flat
from npsiglip.train.layers import Array, Scratch
from npsiglip.train.mixture import Known, Mixture
from npsiglip.train.towers import Common, TrainedImageTower, part_size

TELL_SECONDS = 10.0  # from one word on how far it is to the next
KNOWN_BYTES = 80  # of a row, in each process: its index or caption


class LockedImages:
    """The image tower of a training, forward alone: what `Gradients.step` takes of pictures instead of pixels.

    Args:
        config: the settings.
        params: the parameters.
    """

    def __init__(self, config: Config, params: Flat) -> None:
        image = config.siglip.image
        assert image is not None
        self.size = part_size(image.seq_len)  # of the parts that the tower goes by in training, too
        common = Common(params.views, params.views, Scratch(), config.train.dtype)  # no gradients: nothing goes back
        self._tower = TrainedImageTower(image, self.size, common, image.depth, locked=True)
        self._pixels = Pixels()

    def __call__(self, pictures: NDArray[np.uint8]) -> Array:
        """Pictures uint8 [N, S, S, 3], N at most `size`, to what the tower makes of them [N, D]."""
        pixels = np.zeros((self.size, 3, *pictures.shape[1:3]), np.float32)
        pixels[: len(pictures)] = self._pixels(pictures)
        with computing(None):
            return self._tower.forward(pixels)[: len(pictures)].copy()


class PoolDrawing:
    """The job of drawing the pools of a mixture, chunk by chunk."""

    def __init__(self, mixture: Mixture) -> None:
        self._mixture = mixture
        self.take_skipped = mixture.take_skipped

    def __call__(self, number: int) -> tuple[NDArray[np.uint8], list[Known]]:
        """Pictures [N, S, S, 3] of a chunk, and what is known of them."""
        return self._mixture.draw_pool(*self._mixture.pool_chunks[number])


class PoolBatches:
    """Batches with rows of the pools instead of pictures; `npsiglip.train.data.Draws`."""

    def __init__(self, mixture: Mixture, known: list[Known]) -> None:
        self._mixture, self._known = mixture, known
        self.take_skipped = mixture.take_skipped

    def batch(self, step: int) -> tuple[NDArray[np.intp], list[str]]:
        """Rows [B] and captions."""
        return self._mixture.pool_batch(step, self._known)


@dataclass
class Pool:
    """Pictures that are embedded.

    Attributes:
        vectors: float32 [R, D], not normalised.
        batches: what draws.
        skipped: name -> reason, of pictures that could not be decoded.
        cpu_seconds: of processor time that drawing took.
    """

    vectors: Array
    batches: PoolBatches
    skipped: dict[str, str]
    cpu_seconds: float

    def images(self, rows: NDArray[np.intp]) -> Array:
        """Rows [B] -> [B, D]."""
        vectors: Array = self.vectors[rows]
        return vectors

    @staticmethod
    def memory(config: Config) -> int:
        """The bytes of all pools, but for the end of the last round of classes."""
        sources = len([source for source in config.data.sources if source.kind != "world"])
        worlds = len(config.data.phases) if sources < len(config.data.sources) or not sources else 0
        rows = config.data.embedded * (sources + worlds)
        return rows * (4 * config.model.image.width + KNOWN_BYTES * (1 + config.run.workers))


def embed(
    config: Config, mixture: Mixture, params: Flat, stop: Callable[[], bool], tell: Callable[[int, int], None]
) -> Pool | None:
    """Draw and embed all pools; None if `stop` says so before it is done.

    Args:
        config: the settings.
        mixture: the sources.
        params: the parameters.
        stop: whether to give up.
        tell: is given the rows that are done, and all rows, now and then.

    Raises:
        TrainingError: a process that draws ended or failed.
    """
    tower, chunks = LockedImages(config, params), mixture.pool_chunks
    vectors = np.empty((mixture.pool_rows, config.model.image.width), np.float32)
    known: list[Known] = []
    done, told = 0, time.monotonic()
    size = config.model.image.image_size
    waiting = np.empty((0, size, size, 3), np.uint8)
    with Ahead(PoolDrawing(mixture), range(len(chunks)), config.run.workers, config.run.ahead) as drawing:
        while done < len(vectors):
            if len(known) < len(vectors) and len(waiting) < tower.size:
                drawn = drawing.take(stop)
                if drawn is None:
                    return None
                known += drawn.rest
                waiting = np.concatenate([waiting, drawn.images])
                continue
            part, waiting = waiting[: tower.size], waiting[tower.size :]
            vectors[done : done + len(part)] = tower(part)
            done += len(part)
            if stop():
                return None
            if time.monotonic() - told > TELL_SECONDS:
                tell(done, len(vectors))
                told = time.monotonic()
        return Pool(vectors, PoolBatches(mixture, known), drawing.skipped, drawing.cpu_seconds)
