"""Batches of pictures and captions, drawn ahead by processes of their own while the trainer computes.

Batch i is a pure function of the settings and of i, whoever draws it: worker k of W draws the steps k, k + W ... of
those that are wanted, and sends them through a pipe. A thread at the other end takes them, at most `ahead` of them, so
that a worker that is ahead waits. A worker whose trainer is gone cannot write to its pipe any more, and ends.

Pixels travel as bytes, a quarter of their size, and become float32 here as `npsiglip.images.processor` makes them, bit
for bit.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Protocol

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


class Batch(NamedTuple):
    """What a step is made with."""

    step: int
    pixels: NDArray[np.float32]
    """[B, 3, S, S]."""
    ids: NDArray[np.int32]
    """[B, L]."""


class _Drawn(NamedTuple):
    """What a worker sends."""

    step: int
    pictures: NDArray[np.uint8]
    ids: NDArray[np.int32]
    cpu_seconds: float
    skipped: dict[str, str]


class _Failed(NamedTuple):
    """What a worker sends when it cannot draw."""

    report: str


def _give_way() -> None:
    """The lowest priority for this process: it draws while the trainer waits, for pictures too, and never beside it.

    All threads of a kernel wait for the last one. One that shares its core with a process of equal right is the last
    for milliseconds, again and again, which costs three times what drawing takes.
    """
    with contextlib.suppress(AttributeError, OSError):  # not where there is no such thing, or it is forbidden
        os.nice(19)


def draw(source: Source, tokenizer_file: Path, seq_len: int, steps: range, pipe: Connection) -> None:
    """Send one `_Drawn` for each of the steps; the work of a worker."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C reaches the trainer, which ends what it has begun
    _give_way()
    try:
        tokenizer = Tokenizer(tokenizer_file, seq_len)
        for step in steps:
            start = time.process_time()
            pictures, captions = source.batch(step)
            ids = tokenizer(captions).astype(np.int32)
            pipe.send(_Drawn(step, pictures, ids, time.process_time() - start, source.take_skipped()))
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

    def __init__(self, source: Source, tokenizer_file: Path, seq_len: int, steps: range, ahead: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe(duplex=False)
        arguments = (source, tokenizer_file, seq_len, steps, other)
        self.process = context.Process(target=draw, args=arguments, daemon=True, name="npsiglip-draw")
        with _interrupts_ignored():
            self.process.start()
        other.close()
        self._queue: queue.Queue[_Drawn | _Failed | None] = queue.Queue(ahead)
        self._closed = False
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def _receive(self) -> None:
        item: _Drawn | _Failed | None = None
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

    def get(self, stop: Callable[[], bool]) -> _Drawn | None:
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
            if isinstance(item, _Drawn):
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


class Batches:
    """The batches of the steps `first` to `last` - 1, one after the other; a context manager.

    Attributes:
        waited: seconds for which `get` had nothing to give.
        converted: seconds that pixels took to become float32.
        cpu_seconds: of processor time that drawing and tokenising took.
        skipped: name -> reason, of pictures that could not be used.
    """

    def __init__(
        self,
        source: Source,
        tokenizer_file: Path,
        seq_len: int,
        steps: range,
        workers: int = 1,
        ahead: int = 3,
    ) -> None:
        self._steps = iter(steps)
        self._pixels = Pixels()
        self.waited = self.converted = self.cpu_seconds = 0.0
        self.skipped: dict[str, str] = {}
        self._workers: list[_Worker] = []
        try:
            for k in range(min(workers, len(steps))):
                self._workers.append(_Worker(source, tokenizer_file, seq_len, steps[k::workers], ahead))
        except BaseException:
            self.close()
            raise
        self._given = 0

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
        start = time.perf_counter()
        drawn = self._workers[self._given % len(self._workers)].get(stop)
        self.waited += time.perf_counter() - start
        if drawn is None:
            return None
        self._given += 1
        assert drawn.step == next(self._steps)
        self.cpu_seconds += drawn.cpu_seconds
        self.skipped |= drawn.skipped
        start = time.perf_counter()
        pixels = self._pixels(drawn.pictures)
        self.converted += time.perf_counter() - start
        return Batch(drawn.step, pixels, drawn.ids)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.close()

    def __enter__(self) -> Batches:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
