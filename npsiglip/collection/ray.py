"""Many processes and machines, by Ray: an actor class for Ray Data's `map_batches`, and an engine for an index.

    dataset.map_batches(Embedder, fn_constructor_kwargs={"model": "siglip-base-patch16-224"}, concurrency=4)
    build(where, folder, model, engine=partial(cluster, model, workers=4))

The engine keeps one writer, the process that calls it: it lists the items, hands them out, and takes the rows in the
order of the items, so that the index has the bytes that one process makes. What a worker had in work when it ended is
given to another one; a machine that ends need not come back. Files have to be reachable by the same paths on all
machines, and so has the model.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.collection.engine import Engine, here
from npsiglip.collection.identity import weights_of, width_of
from npsiglip.collection.items import NOT_SAID, Item, key_bytes
from npsiglip.collection.manifest import Manifest
from npsiglip.collection.prepare import Prepared, Task
from npsiglip.collection.records import Failure
from npsiglip.collection.where import IMAGE, TEXT, read_key
from npsiglip.errors import InputError, NpsiglipError
from npsiglip.extras import library
from npsiglip.kernels.cpus import available
from npsiglip.model import SigLIP

COLUMNS = ("bytes", "path", "text", "image")
CHUNK = 32  # items that a worker is given at once
AHEAD = 4  # chunks for each worker that are under way
LIVES = 5  # workers that may end with the same chunk
EMBEDDING, ERROR = "embedding", "error"


def _ray() -> Any:
    """Ray, which reports to nobody.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return library("ray", "ray")


def _with_threads(model: SigLIP, threads: int | None) -> SigLIP:
    """The same model, on another number of threads."""
    config, params, processor, tokenizer, _, dtype = model.__reduce__()[1]
    return SigLIP(config, params, processor, tokenizer, threads, dtype)


class Embedder:
    """Embeds batches of Ray Data: an actor class, which loads its model once.

    Args:
        model: its name or folder, on each machine.
        column: of the batches: "path" (files and URLs), "bytes" (the content of files), "image" (pixels, uint8
            [H, W, 3]) or "text"; None: the first of bytes, path, text and image that there is.
        threads: to compute on; None: all that the process may use.
        fast_decode: see `npsiglip.collection.build.build`.
        options: of `SigLIP.from_pretrained`, such as `dtype`.

    Raises:
        CheckpointError: the model cannot be loaded.
        InputError: an option that cannot be.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = "builtin",
        column: str | None = None,
        threads: int | None = None,
        fast_decode: bool = False,
        **options: Any,
    ) -> None:
        self.model = SigLIP.from_pretrained(os.fspath(model), threads=threads, **options)
        self.column = column
        self.fast_decode = fast_decode
        self._engines: dict[str, Engine] = {}
        self._stack = contextlib.ExitStack()

    def _engine(self, kind: str) -> Engine:
        if kind not in self._engines:
            self._engines[kind] = self._stack.enter_context(here(self.model, kind, self.fast_decode))
        return self._engines[kind]

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The batch with two columns more: "embedding", float32 [n, D], and "error", empty where there is none.

        Raises:
            InputError: no such column.
        """
        column = self.column or next((name for name in COLUMNS if name in batch), None)
        if column is None or column not in batch:
            raise InputError(f"a batch has the columns {sorted(batch)}; expected {column or ', '.join(COLUMNS)}")
        values = batch[column]
        kind = TEXT if column == "text" else IMAGE
        if len(values) and isinstance(values[0], np.ndarray):
            pixels = [self.model.encode_image(np.asarray(value))[0] for value in values]
            return {**batch, EMBEDDING: np.stack(pixels), ERROR: np.array([""] * len(pixels), object)}
        engine, rows = self._engine(kind), np.full((len(values), width_of(self.model, kind)), np.nan, np.float32)
        found = list(engine.prepare((_item(value, kind), None) for value in values))
        good = {i: each.input for i, each in enumerate(found) if isinstance(each, Prepared)}
        if good:
            rows[list(good)] = engine.encode(list(good.values()))
        errors = [each.reason if isinstance(each, Failure) else "" for each in found]
        return {**batch, EMBEDDING: rows, ERROR: np.array(errors, object)}


def _item(value: Any, kind: str) -> Item:
    """A value of a column as an item."""
    if isinstance(value, bytes):
        return Item("bytes", len(value), NOT_SAID, partial(bytes, value))
    if kind == TEXT:
        content = key_bytes(str(value))
        return Item(str(value), len(content), NOT_SAID, partial(bytes, content))
    return Item(str(value), NOT_SAID, NOT_SAID, partial(read_key, str(value)))


class Worker:
    """Makes rows for `cluster`: an actor."""

    def __init__(self, model: SigLIP, manifest: Manifest, threads: int) -> None:
        threads = min(threads, available())
        self.model = _with_threads(model, threads)
        if weights_of(self.model, manifest)[0] != manifest.weights:
            raise InputError(f"on {platform.node()} the weights of {manifest.model!r} are others; copy them there")
        fast = bool(manifest.preprocessing.get("fast_decode"))
        self._engine = contextlib.ExitStack().enter_context(here(self.model, manifest.kind, fast, threads))

    def ready(self) -> int:
        """Its process, once the model is loaded."""
        return os.getpid()

    def work(self, tasks: list[Task | Failure]) -> list[Prepared | Failure]:
        """What `Engine.prepare` gives, with the row itself as the input."""
        found = list(self._engine.prepare(tasks))
        good = {i: each for i, each in enumerate(found) if isinstance(each, Prepared) and each.input is not None}
        if good:
            rows = self._engine.encode([each.input for each in good.values()])
            for (i, each), row in zip(good.items(), rows, strict=True):
                found[i] = replace(each, input=row)
        return found


@dataclass
class _Chunk:
    """Items that a worker has."""

    tasks: list[Task | Failure]
    result: Any = None
    worker: int = -1
    lives: int = LIVES


class _Pool:
    """Workers, some of which may be about to start, and what they have in work, in order."""

    def __init__(self, workers: int, make: Callable[[], Any]) -> None:
        self.ray, self.make, self.workers = _ray(), make, workers
        self.starting: dict[Any, Any] = {}  # what tells that it is ready -> a worker
        self.actors: dict[int, Any] = {}  # those that are ready, numbered
        self.numbers = itertools.count()
        self.lives = LIVES * workers
        self.chunks: deque[_Chunk] = deque()
        for _ in range(workers):
            self._start()

    def _start(self) -> None:
        actor = self.make()
        self.starting[actor.ready.remote()] = actor

    def _welcome(self) -> None:
        """Take in workers that have become ready; wait for one, if there is none else.

        Raises:
            RayError: a worker cannot start.
        """
        while self.starting:
            done, _ = self.ray.wait(list(self.starting), timeout=None if not self.actors else 0)
            for sign in done:
                actor = self.starting.pop(sign)
                try:
                    self.ray.get(sign)
                    self.actors[next(self.numbers)] = actor
                except self.ray.exceptions.RayActorError as error:
                    self.lives -= 1
                    if "creation task" in str(error) or not self.lives:
                        raise
                    self._start()
            if self.actors:
                return

    def give(self, chunk: _Chunk) -> None:
        """Give items to the worker that has least to do."""
        self._welcome()
        has = dict.fromkeys(self.actors, 0)
        for each in self.chunks:
            has[each.worker] = has.get(each.worker, 0) + 1
        chunk.worker = min(self.actors, key=lambda number: has[number])
        chunk.result = self.actors[chunk.worker].work.remote(chunk.tasks)

    def take(self) -> list[Prepared | Failure]:
        """What became of the first chunk; of a worker that has ended, all chunks are given to others.

        Raises:
            InputError: so many workers end with it.
        """
        first = self.chunks[0]
        while True:
            try:
                found: list[Prepared | Failure] = self.ray.get(first.result)
                break
            except self.ray.exceptions.RayActorError as error:
                first.lives -= 1
                if not first.lives:
                    names = [each.key if isinstance(each, Failure) else each[0].key for each in first.tasks]
                    raise InputError(
                        f"{LIVES} workers have ended with the items from {names[0]!r} to {names[-1]!r}: is there "
                        f"memory enough for each? ({_last_line(error)})"
                    ) from None
                self._replace(first.worker)
        self.chunks.popleft()
        return found

    def _replace(self, worker: int) -> None:
        """Let another worker start in place of one that has ended, and give what it had to others."""
        if self.actors.pop(worker, None) is not None:
            self._start()
        for chunk in self.chunks:
            if chunk.worker == worker:
                self.give(chunk)

    def in_order(self, tasks: Iterable[Task | Failure]) -> Iterator[Prepared | Failure]:
        """What the workers make of items, in the order of the items."""
        rest = iter(tasks)
        try:
            while part := list(itertools.islice(rest, CHUNK)):
                chunk = _Chunk(part)
                self.give(chunk)
                self.chunks.append(chunk)
                while len(self.chunks) >= AHEAD * self.workers:
                    yield from self.take()
            while self.chunks:
                yield from self.take()
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None)
            if isinstance(cause, NpsiglipError):
                raise cause from None
            raise InputError(f"a worker of Ray cannot work: {_last_line(error)}") from None

    def close(self) -> None:
        """End the workers."""
        for actor in [*self.actors.values(), *self.starting.values()]:
            self.ray.kill(actor)


def _last_line(error: Exception) -> str:
    """What a remote error says, without its traceback."""
    return [line for line in str(error).splitlines() if line.strip()][-1].strip()


@contextlib.contextmanager
def cluster(
    model: SigLIP, manifest: Manifest, workers: int | None = None, threads: int | None = None
) -> Iterator[Engine]:
    """An engine of processes of a Ray cluster: of the one that this process is connected to, or that RAY_ADDRESS names,
    or that runs on this machine; else of this machine alone.

    Args:
        model: is loaded again by each worker, from the same path.
        manifest: of the index.
        workers: processes; None: one on each machine.
        threads: of each; None: its part of the machines' CPUs.

    Raises:
        InputError: no Ray; fewer CPUs than workers.
    """
    ray = _ray()
    begun = not ray.is_initialized()
    if begun:
        ray.init(log_to_driver=False, logging_level="error", include_dashboard=False)
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        workers = workers or sum(node["Alive"] for node in ray.nodes())
        if not 1 <= workers <= cpus:
            raise InputError(f"{workers} workers need a CPU each, and the cluster has {cpus}")
        cores = threads or cpus // workers
        actor = ray.remote(Worker).options(num_cpus=min(cores, cpus), max_concurrency=2)
        pool = _Pool(workers, partial(actor.remote, ray.put(model), manifest, cores))
        try:
            yield Engine(pool.in_order, np.stack)
        finally:
            pool.close()
    finally:
        if begun:
            ray.shutdown()
