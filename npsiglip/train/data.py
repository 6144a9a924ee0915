"""Batches of pictures and captions, drawn ahead by processes of their own while the trainer computes.

Batch i is a pure function of the settings and of i, whoever draws it: worker k of W draws the steps k, k + W ... of
those that are wanted, and sends them through a pipe. A thread at the other end takes them, at most `ahead` of them, so
that a worker that is ahead waits. A worker whose trainer is gone cannot write to its pipe any more, and ends. What
workers do is a `Job`: `Drawing`, for batches; `npsiglip.train.pool` has another.

Pixels travel as bytes, a quarter of their size, and become float32 here as `npsiglip.images.processor` makes them, bit
for bit.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from npsiglip.images.processor import ImageProcessor
from npsiglip.texts.siglip import Tokenizer
from npsiglip.train import TrainingError
from npsiglip.train.config import Config

POLL_SECONDS = 0.1
PROCESS_BYTES = 120_000_000  # of a process that draws
CACHE_BYTES = 192_000_000  # of pictures of sources that it keeps decoded


class Source(Protocol):
    """What draws: can be pickled, and says the same for the same step in every process."""

    def batch(self, step: int) -> tuple[NDArray[np.uint8], list[str]]:
        """Pictures uint8 [B, S, S, 3] and their captions."""

    def captions(self, count: int) -> Iterator[str]:
        """Captions for a tokenizer, as they come in training."""

    def take_skipped(self) -> dict[str, str]:
        """Name -> reason, of pictures that could not be used since the last call."""


class Draws(Protocol):
    """The part of a `Source` that a training draws from; in the place of pictures it may have what stands for them."""

    def batch(self, step: int) -> tuple[NDArray[Any], list[str]]:
        """Pictures, or what stands for them, [B, ...], and their captions."""

    def take_skipped(self) -> dict[str, str]:
        """As of a `Source`."""


class Batch(NamedTuple):
    """What a step is made with."""

    step: int
    images: NDArray[np.float32]
    """Pixels [B, 3, S, S]; or [B, D], what a locked image tower makes of them."""
    ids: NDArray[np.int32]
    """[B, L]."""


class Job(Protocol):
    """What processes do ahead of the trainer: can be pickled, and gives the same for the same number in each."""

    def __call__(self, number: int, /) -> tuple[NDArray[Any], Any]:
        """What is made for this number, and what belongs to it."""

    def take_skipped(self) -> dict[str, str]:
        """As of a `Source`."""


class Drawing:
    """The job of a training: the pictures and ids of each step.

    Args:
        source: what draws.
        tokenizer_file: a spiece.model.
        seq_len: L.
    """

    def __init__(self, source: Draws, tokenizer_file: Path, seq_len: int) -> None:
        self._source, self._file, self._length = source, tokenizer_file, seq_len
        self.take_skipped = source.take_skipped

    @functools.cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self._file, self._length)

    def __call__(self, step: int) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """The pictures, and the ids [B, L]."""
        pictures, captions = self._source.batch(step)
        return pictures, self._tokenizer(captions).astype(np.int32)


class Drawn(NamedTuple):
    """What a process sends."""

    number: int
    images: NDArray[Any]
    rest: Any
    """What belongs to them: ids."""
    cpu_seconds: float
    skipped: dict[str, str]


class _Failed(NamedTuple):
    """What a process sends when it cannot draw."""

    report: str


def _give_way() -> None:
    """The lowest priority for this process: it draws while the trainer waits, for pictures too, and never beside it.

    All threads of a kernel wait for the last one. One that shares its core with a process of equal right is the last
    for milliseconds, again and again, which costs three times what drawing takes.
    """
    with contextlib.suppress(AttributeError, OSError):  # not where there is no such thing, or it is forbidden
        os.nice(19)


def draw(job: Job, numbers: Sequence[int], pipe: Connection) -> None:
    """Send one `Drawn` for each of the numbers; the work of a process."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)  # a Ctrl-C reaches the trainer, which ends what it has begun
    _give_way()
    try:
        for number in numbers:
            start = time.process_time()
            images, rest = job(number)
            pipe.send(Drawn(number, images, rest, time.process_time() - start, job.take_skipped()))
    except (BrokenPipeError, ConnectionResetError):
        pass  # the trainer is gone
    except BaseException:
        pipe.send(_Failed(traceback.format_exc()))
    finally:
        pipe.close()


def pixel_table() -> NDArray[np.float32]:
    """float32 [256]: what a byte of a picture becomes, by the processor of the finished model."""
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    table: NDArray[np.float32] = ImageProcessor(16, 16)(every)[0, 0].reshape(256)
    return table


class Pixels:
    """Pictures uint8 [B, S, S, 3] to pixels float32 [B, 3, S, S], as `npsiglip.ImageProcessor` makes them."""

    def __init__(self) -> None:
        self._table = pixel_table()

    def __call__(self, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The pixels, C-contiguous."""
        pixels: NDArray[np.float32] = np.take(self._table, pictures.transpose(0, 3, 1, 2), mode="clip")
        return pixels


class _Worker:
    """One process that draws, and the thread that takes what it sends."""

    def __init__(self, job: Job, numbers: Sequence[int], ahead: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe(duplex=False)
        self.process = context.Process(target=draw, args=(job, numbers, other), daemon=True, name="npsiglip-draw")
        with _interrupts_ignored():
            self.process.start()
        other.close()
        self._queue: queue.Queue[Drawn | _Failed | None] = queue.Queue(ahead)
        self._closed = False
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        item: Drawn | _Failed | None = None
        while not self._closed:
            try:
                item = self._pipe.recv()
            except (EOFError, OSError):
                item = None
            while not self._closed:
                try:
                    self._queue.put(item, timeout=POLL_SECONDS)
                    break
                except queue.Full:
                    continue
            if item is None:
                return

    def get(self, stop: Callable[[], bool]) -> Drawn | None:
        """The next batch; None if `stop` says so before it comes.

        Raises:
            TrainingError: the process ended, or could not draw.
        """
        while True:
            try:
                item = self._queue.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if stop():
                    return None
                continue
            if isinstance(item, Drawn):
                return item
            if isinstance(item, _Failed):
                raise TrainingError(f"a process that draws pictures failed:\n{item.report}")
            self.process.join(1.0)
            raise TrainingError(
                f"a process that draws pictures ended, exit code {self.process.exitcode}: expected it to live as long "
                "as the training; was it killed, perhaps for want of memory? Resume to go on from the last checkpoint"
            )

    def close(self) -> None:
        """End the process; what it has drawn is lost."""
        self._closed = True
        self.process.kill()
        self.process.join()
        self._thread.join()
        self._pipe.close()


class _interrupts_ignored:
    """While a process starts: it inherits that Ctrl-C is not for it, before it can say so itself."""

    def __enter__(self) -> None:
        main = threading.current_thread() is threading.main_thread()
        self._before = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)


class Ahead:
    """What a job makes for some numbers, one after the other, by processes that go ahead; a context manager.

    Args:
        job: what they do.
        numbers: for which, in this order.
        workers: how many processes.
        ahead: how many numbers each of them goes ahead.

    Attributes:
        waited: seconds for which there was nothing to give.
        cpu_seconds: of processor time that the job took.
        skipped: name -> reason, of pictures that could not be used.
    """

    def __init__(self, job: Job, numbers: Sequence[int], workers: int = 1, ahead: int = 3) -> None:
        self._numbers = iter(numbers)
        self.waited = self.cpu_seconds = 0.0
        self.skipped: dict[str, str] = {}
        self._workers: list[_Worker] = []
        try:
            for k in range(min(workers, len(numbers))):
                self._workers.append(_Worker(job, numbers[k::workers], ahead))
        except BaseException:
            self.close()
            raise
        self._given = 0

    def take(self, stop: Callable[[], bool] = lambda: False) -> Drawn | None:
        """What was made for the next number; None if `stop` says so before it is there.

        Raises:
            TrainingError: a process ended or failed.
        """
        start = time.perf_counter()
        drawn = self._workers[self._given % len(self._workers)].get(stop)
        self.waited += time.perf_counter() - start
        if drawn is None:
            return None
        self._given += 1
        assert drawn.number == next(self._numbers)
        self.cpu_seconds += drawn.cpu_seconds
        self.skipped |= drawn.skipped
        return drawn

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


class Batches(Ahead):
    """The batches of the steps `first` to `last` - 1, one after the other.

    Args:
        source: what draws.
        tokenizer_file: a spiece.model.
        seq_len: L.
        steps: of the batches.
        workers: processes that draw.
        ahead: batches that each of them draws ahead.
        images: what makes images for a step of what was drawn; None: `Pixels`.

    Attributes:
        converted: seconds that images took, of pixels to become float32.
    """

    def __init__(
        self,
        source: Draws,
        tokenizer_file: Path,
        seq_len: int,
        steps: range,
        workers: int = 1,
        ahead: int = 3,
        images: Callable[[NDArray[Any]], NDArray[np.float32]] | None = None,
    ) -> None:
        self._images = images or Pixels()
        self.converted = 0.0
        super().__init__(Drawing(source, tokenizer_file, seq_len), steps, workers, ahead)

    @staticmethod
    def memory(config: Config) -> int:
        """The bytes of the batches that are under way at once, and of the processes that draw them."""
        pictures = config.train.batch * config.model.image.image_size**2 * 3
        waiting = config.run.workers * (config.run.ahead + 3) * pictures  # with one drawn, one sent and one received
        process = PROCESS_BYTES + (CACHE_BYTES if config.data.sources else 0)
        return waiting + config.run.workers * process + 2 * 4 * pictures

    def get(self, stop: Callable[[], bool] = lambda: False) -> Batch | None:
        """The next batch; None if `stop` says so before it is there.

        Raises:
            TrainingError: a process that draws ended or failed.
        """
        drawn = self.take(stop)
        if drawn is None:
            return None
        start = time.perf_counter()
        images = self._images(drawn.images)
        self.converted += time.perf_counter() - start
        return Batch(drawn.number, images, drawn.rest)
