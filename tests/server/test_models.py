"""Models of a server: ids without paths, loaded once and on demand, unloaded when idle.

Covers server/engine.py as well.
"""

import asyncio
import base64
import dataclasses
import threading

import numpy as np
import pytest
from starlette.testclient import TestClient

from npsiglip.errors import CheckpointError, InputError
from npsiglip.server.app import Prepared, create_app
from npsiglip.server.engine import Picture, Text
from npsiglip.server.models import parse_names
from npsiglip.server.settings import Settings
from tests.helpers.golden_data import TINY
from tests.server.conftest import PICTURES


def test_ids_have_no_paths(tmp_path):
    (tmp_path / "mine").mkdir()
    folder = str(tmp_path / "mine")
    assert parse_names(["builtin", folder, f"x={folder}", "google/siglip-base-patch16-224"]) == {
        "builtin": "builtin", "mine": folder, "x": folder,
        "google/siglip-base-patch16-224": "google/siglip-base-patch16-224",
    }  # fmt: skip
    with pytest.raises(InputError, match="--model OTHER="):
        parse_names(["builtin", "builtin"])


def test_what_cannot_be_served_is_told_before_the_start(tmp_path, index):
    threads = threading.active_count()
    with pytest.raises(CheckpointError):
        Prepared(Settings(models=(str(tmp_path),)))
    with pytest.raises(InputError, match="no index"):
        Prepared(Settings(index=tmp_path))
    with pytest.raises(InputError, match="the model is another"):
        Prepared(Settings(models=(str(TINY),), index=index))
    assert threading.active_count() == threads


def test_an_application_is_made_where_a_loop_runs():
    """As uvicorn does it, given `npsiglip.server.app:create_app` as a factory."""

    async def main():
        return create_app(Settings())

    asyncio.run(main()).state.prepared.close()


@pytest.fixture
def prepared():
    found = Prepared(Settings(models=("builtin", f"tiny={TINY}"), max_loaded=1))
    yield found
    found.close()


def test_models_are_loaded_once_when_they_are_asked_for_and_make_room(prepared):
    models, loads = prepared.models, []
    builtin, tiny = models.find("builtin"), models.find("tiny")
    assert (builtin.model is not None, tiny.model) == (True, None)
    real = tiny.load
    tiny.load = lambda: loads.append(1) or real()

    async def main():
        await asyncio.gather(*(prepared.engine.texts(tiny, [Text(f"a {i}", "input")]) for i in range(5)))

    asyncio.run(main())
    assert loads == [1]
    assert builtin.model is None  # max_loaded=1
    assert models.unload_idle(60) == []
    assert models.unload_idle(0) == ["tiny"]
    tiny.users = 1
    asyncio.run(models.loaded(tiny))
    assert models.unload_idle(0) == []  # in use


def test_a_model_waits_for_one_that_is_in_use_to_make_room(prepared):
    """max_loaded is a limit of memory: it holds among busy models, too."""
    models = prepared.models
    builtin, tiny = models.find("builtin"), models.find("tiny")
    there = []

    async def wanted():
        async with models.use(tiny):
            there.append((builtin.model is None, tiny.model is not None))

    async def main():
        async with models.use(builtin):
            task = asyncio.ensure_future(wanted())
            await asyncio.sleep(0.2)
            there.append(tiny.model)
        await asyncio.wait_for(task, 20)

    asyncio.run(main())
    assert there == [None, (True, True)]
    builtin.pinned = True  # an index's model stays, and others are loaded beside it
    asyncio.run(models.loaded(builtin))
    models.unload_idle(0)
    assert asyncio.run(asyncio.wait_for(models.loaded(tiny), 20)) is tiny.model
    assert None not in (builtin.model, tiny.model)


def test_a_model_comes_back_with_the_same_bits(prepared):
    first = asyncio.run(prepared.engine.texts(prepared.models.find(None), [Text("a ring", "input")]))
    prepared.models.unload_idle(0)
    prepared.engine.cache.put(("builtin", "text", "a ring"), None, 0)  # as if it had been forgotten
    again = asyncio.run(prepared.engine.texts(prepared.models.find(None), [Text("a ring", "input")]))
    np.testing.assert_array_equal(first, again)


def test_same_bits_whatever_travels_beside(model):
    """Thirty requests at once, of texts and pictures, some of them bad: each has what the library gives it alone."""
    settings = Settings(allowed_hosts=("testserver",), cache=0, window=0.02)
    texts = [f"a green circle and {i} rings" for i in range(15)]
    sources = [base64.b64encode(path.read_bytes()).decode() for path in PICTURES]
    with TestClient(create_app(settings)) as client:
        engine = client.app.state.engine
        served = engine.models.find(None)

        async def main():
            several = [engine.texts(served, [Text(text, "input")]) for text in texts]
            several += [engine.images(served, [Picture(source, "input")]) for source in sources]
            several += [engine.images(served, [Picture("AAAA", "input")]) for _ in range(3)]
            return await asyncio.gather(*several, return_exceptions=True)

        found = asyncio.run(main())
        sizes = [
            sample for metric in client.app.state.prepared.metrics.batches.collect() for sample in metric.samples
            if sample.name.endswith("_sum")
        ]  # fmt: skip
        counts = [
            sample for metric in client.app.state.prepared.metrics.batches.collect() for sample in metric.samples
            if sample.name.endswith("_count")
        ]  # fmt: skip
    assert any(size.value > count.value for size, count in zip(sizes, counts, strict=True))  # they did travel together
    for text, row in zip(texts, found, strict=False):
        np.testing.assert_array_equal(row, model.encode_text(text))
    for path, row in zip(PICTURES, found[len(texts) :], strict=False):
        np.testing.assert_array_equal(row, model.encode_image(path))
    assert [type(each).__name__ for each in found[-3:]] == ["Refused"] * 3


def test_what_was_computed_is_not_computed_again(prepared):
    engine, served, lanes = prepared.engine, prepared.models.find(None), []
    real = engine.worker.rows

    async def rows(lane, several):
        lanes.append((lane.kind, len(several)))
        return await real(lane, several)

    engine.worker.rows = rows
    asyncio.run(engine.texts(served, [Text(t, "input") for t in ("a", "b", "a")]))
    asyncio.run(engine.texts(served, [Text(t, "input") for t in ("b", "c")]))
    assert lanes == [("text", 2), ("text", 1)]


def test_who_gives_up_waiting_does_not_end_the_loading(prepared):
    models, loads, goes = prepared.models, [], threading.Event()
    tiny = models.find("tiny")
    tiny.model, real = None, tiny.load
    tiny.load = lambda: loads.append(1) or (goes.wait(10) and real())

    async def main():
        first = asyncio.ensure_future(models.loaded(tiny))
        while not loads:  # the worker has begun
            await asyncio.sleep(0.01)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        goes.set()
        assert await models.loaded(tiny) is tiny.model

    asyncio.run(main())
    assert loads == [1]
    assert models.unload_idle(60) == []  # it was not used, and is new


def test_models_that_are_asked_for_at_once_make_room_for_each_other(prepared):
    models = prepared.models
    models.by_id["third"] = third = dataclasses.replace(models.find("tiny"), id="third", model=None, loading=None)
    tiny = models.find("tiny")
    tiny.model, tiny.users = None, 0

    async def main():
        await asyncio.gather(models.loaded(tiny), models.loaded(third))

    asyncio.run(main())
    assert sum(each.model is not None for each in models.by_id.values()) == 1  # max_loaded
