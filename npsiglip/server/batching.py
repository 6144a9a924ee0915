"""One thread that owns the kernels, and a bounded queue before it.

Rows wait here: a picture's pixels, a text's ids. The worker takes the first, and with it all that wait for the same
tower of the same model, as many as go through it at once and take no longer than a tenth of a second: all of a batch
wait for its end. An idle worker waits a moment for company. A row has the same bits whatever it travels with. Who gives
up waiting (a timeout, a client that is gone) takes its rows out of the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from npsiglip.server.dialects import Refused

log = logging.getLogger("npsiglip.server")

BATCH_SECONDS = 0.1
LEAST = 2  # rows of a batch, however long they take: fewer would give away throughput


@dataclass(frozen=True)
class Lane:
    """Rows that may travel together: of one tower of one model."""

    key: Hashable
    most: int
    run: Callable[[list[Any]], Sequence[Any]]
    """Rows to results, one each."""
    kind: str = "call"


@dataclass
class _Job:
    lane: Lane
    row: Any
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


def _settle(done: Sequence[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, result in done:
        if future.done():
            continue
        if isinstance(result, BaseException):
            future.set_exception(result)
        else:
            future.set_result(result)


class Worker:
    """The thread, its queue, and how many places of it are taken.

    Args:
        window: seconds that it waits for company when it is idle.
        places: how many rows may be admitted at once.
        on_batch: told kind, rows and seconds of each batch.
    """

    def __init__(self, window: float, places: int, on_batch: Callable[[str, int, float], None]) -> None:
        self.window, self.places, self._on_batch = window, places, on_batch
        self.taken = 0
        self._jobs: deque[_Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._seconds = 0.05  # of a row, about: for Retry-After
        self._row_seconds: dict[Hashable, float] = {}  # of a lane's rows, about
        self._thread = threading.Thread(target=self._work, name="npsiglip kernels", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def admitted(self, rows: int) -> Iterator[None]:
        """Take places for so many rows, from their decoding to their result. Called on the event loop alone.

        Raises:
            Refused: 429, there are too few.
        """
        if self._closing:
            raise Refused(429, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"})
        if self.taken and self.taken + rows > self.places:  # a request that is larger than the queue goes alone
            seconds = max(1, min(60, round(self.taken * self._seconds)))
            raise Refused(
                429,
                f"the queue is full ({self.taken} of {self.places} places are taken); try again in {seconds} s",
                code="queue_full",
                headers={"Retry-After": str(seconds)},
            )
        self.taken += rows
        try:
            yield
        finally:
            self.taken -= rows

    @property
    def waiting(self) -> int:
        """Rows that wait for the worker."""
        return len(self._jobs)

    async def rows(self, lane: Lane, rows: Sequence[Any]) -> list[Any]:
        """The results of rows, in their order.

        Raises:
            Refused: 429, the worker is being closed.
            Exception: what `lane.run` raised for a batch with one of them.
        """
        loop = asyncio.get_running_loop()
        jobs = [_Job(lane, row, loop.create_future(), loop) for row in rows]
        with self._wake:
            if self._closing:
                raise Refused(429, "the server is shutting down", code="shutting_down", headers={"Retry-After": "5"})
            self._jobs.extend(jobs)
            self._wake.notify()
        try:
            return list(await asyncio.gather(*(job.future for job in jobs)))
        except BaseException:
            for job in jobs:
                job.future.cancel()
            raise

    async def call(self, function: Callable[[], Any]) -> Any:
        """What a function returns, which the worker runs alone."""
        return (await self.rows(Lane(object(), 1, lambda rows: [function()]), [None]))[0]

    def close(self) -> None:
        """Finish what waits, then end the thread."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()

    def _take(self) -> list[_Job]:
        """The next batch; empty at the end."""
        with self._wake:
            while not self._jobs and not self._closing:
                self._wake.wait()
            if not self._jobs:
                return []
            lane, until = self._jobs[0].lane, time.monotonic() + self.window
            most = self._most(lane)
            while most > 1 and not self._closing and sum(j.lane.key == lane.key for j in self._jobs) < most:
                left = until - time.monotonic()
                if left <= 0 or not self._wake.wait(left):
                    break
            batch: list[_Job] = []
            others: list[_Job] = []
            for job in self._jobs:
                if job.future.cancelled():
                    continue
                (batch if job.lane.key == lane.key and len(batch) < most else others).append(job)
            self._jobs = deque(others)
            return batch or self._take_again()

    def _most(self, lane: Lane) -> int:
        """Rows of a batch: so many as take BATCH_SECONDS, by what the lane's rows took before."""
        each = self._row_seconds.get(lane.key)
        return min(lane.most, max(LEAST, int(BATCH_SECONDS / each))) if each else lane.most

    def _take_again(self) -> list[_Job]:
        return [] if self._closing and not self._jobs else [_NOTHING]

    def _work(self) -> None:
        while batch := self._take():
            if batch[0] is _NOTHING:
                continue
            lane, start = batch[0].lane, time.perf_counter()
            results: Sequence[Any]
            try:
                results = lane.run([job.row for job in batch])
            except Exception as error:
                results = self._one_by_one(batch, error)
            seconds = time.perf_counter() - start
            each = seconds / len(batch)
            self._seconds += 0.1 * (each - self._seconds)
            if lane.most > 1:
                before = self._row_seconds.get(lane.key)  # the first batch may have compiled: it does not count
                self._row_seconds[lane.key] = (
                    0.0 if before is None else before + 0.1 * (each - before) if before else each
                )
            self._on_batch(lane.kind, len(batch), seconds)
            done = [(job.future, result) for job, result in zip(batch, results, strict=True)]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                batch[0].loop.call_soon_threadsafe(_settle, done)

    def _one_by_one(self, batch: list[_Job], error: Exception) -> list[Any]:
        """What became of each row of a batch that failed: the others are not to blame."""
        if len(batch) == 1:
            return [error]
        results: list[Any] = []
        for job in batch:
            try:
                results += job.lane.run([job.row])
            except Exception as own:
                results.append(own)
        return results


_NOTHING = _Job(Lane(None, 1, lambda rows: []), None, None, None)  # type: ignore[arg-type]
