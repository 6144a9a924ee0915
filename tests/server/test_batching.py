"""The worker: company, places, those who give up, errors of one row, an orderly end."""

import asyncio
import threading
import time

import pytest

from npsiglip.server.batching import Lane, Worker
from npsiglip.server.dialects import Refused


@pytest.fixture
def worker():
    made = Worker(0.0, 4, lambda kind, rows, seconds: None)
    yield made
    made.close()


def double(rows):
    return [2 * row for row in rows]


def test_rows_that_wait_travel_together_and_come_back_in_order(worker):
    batches, gate = [], threading.Event()

    def run(rows):
        gate.wait(5)
        batches.append(rows)
        return double(rows)

    lane, other = Lane("a", 3, run), Lane("b", 3, run)

    async def main():
        first = asyncio.create_task(worker.rows(lane, [1]))
        await asyncio.sleep(0.05)
        asked = [first, worker.rows(lane, [2, 3]), worker.rows(other, [9]), worker.rows(lane, [4, 5])]
        tasks = [asyncio.ensure_future(each) for each in asked]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(*tasks)

    assert asyncio.run(main()) == [[2], [4, 6], [18], [8, 10]]
    assert batches[0] == [1]  # the worker was idle
    assert [2, 3, 4] in batches and [9] in batches and [5] in batches
    assert all(len(batch) <= 3 for batch in batches)


def test_a_batch_of_slow_rows_is_small(worker):
    batches = []

    def run(rows):
        batches.append(len(rows))
        time.sleep(0.06 * len(rows))
        return double(rows)

    async def main():
        for _ in range(2):  # the first says nothing
            await worker.rows(Lane("a", 9, run), [1])
        return await worker.rows(Lane("a", 9, run), list(range(7)))

    assert asyncio.run(main()) == [0, 2, 4, 6, 8, 10, 12]
    assert batches == [1, 1, 2, 2, 2, 1]


def test_an_idle_worker_waits_for_company():
    batches = []
    worker = Worker(0.5, 9, lambda kind, rows, seconds: batches.append(rows))

    async def main():
        lane = Lane("a", 2, double)
        first = asyncio.create_task(worker.rows(lane, [1]))
        await asyncio.sleep(0.02)
        start = time.monotonic()
        assert await worker.rows(lane, [2]) == [4]
        assert await first == [2]
        assert time.monotonic() - start < 0.4  # the batch is full: nobody waits on

    asyncio.run(main())
    worker.close()
    assert batches == [2]


def test_places_are_given_back_and_more_are_refused(worker):
    with worker.admitted(3):
        with pytest.raises(Refused) as error, worker.admitted(2):
            pass
        assert error.value.status == 429
        assert int(error.value.headers["Retry-After"]) >= 1
        with worker.admitted(1):
            assert worker.taken == 4
    assert worker.taken == 0
    with worker.admitted(10):  # alone, a request may be larger than the queue
        pass


def test_who_gives_up_is_not_computed(worker):
    ran, gate = [], threading.Event()

    async def main():
        first = asyncio.create_task(worker.rows(Lane("a", 1, lambda rows: gate.wait(5) and rows), [0]))
        await asyncio.sleep(0.05)
        second = asyncio.create_task(worker.rows(Lane("b", 1, lambda rows: ran.append(rows) or rows), [1]))
        await asyncio.sleep(0.05)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        assert await first == [0]
        return await worker.rows(Lane("c", 1, double), [3])

    assert asyncio.run(main()) == [6]
    assert ran == []


def test_a_bad_row_is_the_error_of_its_request_alone(worker):
    gate = threading.Event()

    def run(rows):
        gate.wait(5)
        if 2 in rows:
            raise ValueError("two")
        return double(rows)

    async def main():
        lane = Lane("a", 9, run)
        tasks = [asyncio.create_task(worker.rows(lane, [i])) for i in range(4)]
        await asyncio.sleep(0.05)
        gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    found = asyncio.run(main())
    assert [found[i] for i in (0, 1, 3)] == [[0], [2], [6]]
    assert isinstance(found[2], ValueError)


def test_the_end_finishes_what_waits():
    worker = Worker(5.0, 9, lambda kind, rows, seconds: None)

    async def main():
        task = asyncio.create_task(worker.rows(Lane("a", 9, double), [1]))
        await asyncio.sleep(0.05)
        await asyncio.get_running_loop().run_in_executor(None, worker.close)
        with pytest.raises(Refused):
            await worker.rows(Lane("a", 9, double), [1])
        with pytest.raises(Refused), worker.admitted(1):
            pass
        return await task

    start = time.monotonic()
    assert asyncio.run(main()) == [2]
    assert time.monotonic() - start < 4  # it does not wait for company any more
