"""The models that a server has: loaded when they are asked for, unloaded when nobody asks, never twice."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.hub.resolve import model_folder
from npsiglip.images.naflex import PatchBatch
from npsiglip.inputs import inputs_per_pass
from npsiglip.model import SigLIP
from npsiglip.server.batching import Lane, Worker
from npsiglip.server.dialects import Refused

NAFLEX_TOKENS = 256  # of a picture, about
NONE = "default/not-specified"  # what Infinity's clients send if no model was named


def _encode_images(model: SigLIP, rows: list[Any]) -> Sequence[Any]:
    """Embeddings of pictures that are prepared; NaFlex's of one width go together."""
    if isinstance(rows[0], PatchBatch):
        return [model.encode_image(row)[0] for row in rows]
    return list(model.encode_image(np.concatenate(rows)))


def _encode_texts(model: SigLIP, rows: list[Any]) -> Sequence[Any]:
    return list(model.encode_text(np.concatenate(rows)))


@dataclass
class Served:
    """A model that may be loaded."""

    id: str
    """As clients name it: no path."""
    name: str
    """A name or a folder, as it was given."""
    config: SigLIPConfig
    load: Callable[[], SigLIP]
    model: SigLIP | None = None
    used: float = 0.0
    users: int = 0
    loading: asyncio.Task[SigLIP] | None = None
    pinned: bool = False
    """An index needs it."""

    @property
    def width(self) -> int:
        """D of its embeddings."""
        text, image = self.config.text, self.config.image
        if text:
            return text.projection_dim
        assert image is not None
        return image.width

    def image_lane(self, model: SigLIP) -> Lane:
        """Of its image tower."""
        image = self.config.image
        tokens = NAFLEX_TOKENS if image is None or image.naflex else image.seq_len
        return Lane((self.id, "image"), inputs_per_pass(tokens), partial(_encode_images, model), "image")

    def text_lane(self, model: SigLIP) -> Lane:
        """Of its text tower."""
        text = self.config.text
        tokens = text.seq_len if text else 64
        return Lane((self.id, "text"), inputs_per_pass(tokens), partial(_encode_texts, model), "text")


def parse_names(names: Sequence[str]) -> dict[str, str]:
    """Ids and what they stand for, of NAME, FOLDER or ID=NAME; an id has no path of the machine.

    Raises:
        InputError: an id twice.
    """
    found: dict[str, str] = {}
    for given in names:
        own, equals, name = given.partition("=")
        if not equals or Path(given).exists():
            own, name = "", given
        key = own or (Path(name).resolve().name if Path(name).exists() else name)
        if key in found:
            raise InputError(f"two models have the id {key!r}: name one of them, as --model OTHER={name}")
        if not key.strip() or not key.isprintable():
            raise InputError(f"the id of a model is {key!r}; expected a word, as --model ID=NAME")
        found[key] = name
    return found


def open_model(key: str, name: str, dtype: str | None, threads: int | None, told: Mapping[str, Any]) -> Served:
    """A model, its files looked at, its weights not read yet.

    Raises:
        CheckpointError: it cannot be used.
    """
    folder = model_folder(name)
    checkpoint = Checkpoint.open(folder, None, adapter=told.get("adapter"))

    def load() -> SigLIP:
        opened = Checkpoint.open(folder, None, adapter=told.get("adapter"))
        model = SigLIP.from_checkpoint(opened, dtype, threads, sixteen_bit=told.get("sixteen_bit", "clip"))
        # read now, by one thread; and a first pass packs the weights
        if model.processor is not None and model.config.image and (model.config.image.head or model.config.image.mean):
            model.encode_image(np.zeros((64, 64, 3), np.uint8))
        if model.config.text:
            model.encode_text("a") if model.tokenizer else None
        return model

    return Served(key, name, checkpoint.config, load)


def _loaded(served: Served, task: asyncio.Task[SigLIP]) -> None:
    served.loading = None
    with contextlib.suppress(asyncio.CancelledError):
        task.exception()  # perhaps nobody waits for it any more


class Models:
    """By their ids, in the order given; the first is the default.

    Args:
        served: them.
        worker: loads them.
        max_loaded: how many are loaded at once; 0: all.
        on_load: told the id of each that is loaded.
    """

    def __init__(
        self, served: Sequence[Served], worker: Worker, max_loaded: int, on_load: Callable[[str], Any]
    ) -> None:
        self.by_id = {each.id: each for each in served}
        self.default = served[0]
        self._worker, self._max_loaded, self._on_load = worker, max_loaded, on_load
        self._one = asyncio.Lock()
        self._left = asyncio.Event()
        """Somebody has left a model."""

    def find(self, key: str | None) -> Served:
        """A model by its id, or by the name that it was given by; the default for None and `NONE`.

        Raises:
            Refused: 404, no such model.
        """
        if key is None or (key == NONE and key not in self.by_id):
            return self.default
        found = self.by_id.get(key) or next((m for m in self.by_id.values() if m.name == key), None)
        if found is None:
            shown = repr(key) if len(key) <= 80 else f"{key[:60]!r}..."
            raise Refused(
                404,
                f"model: there is no model {shown} here; there are {', '.join(self.by_id)}",
                "model",
                "model_not_found",
            )
        return found

    def use(self, served: Served) -> Use:
        """A context: the model, loaded, which stays as long."""
        return Use(self, served)

    async def loaded(self, served: Served) -> SigLIP:
        """The model; loaded by the worker if it is not there.

        Who gives up waiting does not end the loading: a model that takes longer than a request would never be there.
        """
        if served.model is not None:
            return served.model
        if served.loading is None:
            served.loading = asyncio.ensure_future(self._load(served))
            served.loading.add_done_callback(partial(_loaded, served))
        return await asyncio.shield(served.loading)

    async def _load(self, served: Served) -> SigLIP:
        async with self._one:  # so that the next one counts this one
            await self._make_room(served)
            served.model = model = await self._worker.call(served.load)
        served.used = time.monotonic()
        self._on_load(served.id)
        return model  # type: ignore[no-any-return]

    async def _make_room(self, wanted: Served) -> None:
        """Unload the models that were not used for longest; wait for one that is in use, if it must be."""
        if not self._max_loaded:
            return
        while True:
            self._left.clear()
            there = [m for m in self.by_id.values() if m.model is not None and m is not wanted]
            surplus = len(there) - self._max_loaded + 1
            free = [m for m in there if not m.users and not m.pinned]
            for old in sorted(free, key=lambda m: m.used)[: max(surplus, 0)]:
                old.model = None
            # an index keeps its model whatever the limit, and nobody will leave it
            if surplus <= len(free) or not any(m.users for m in there if not m.pinned):
                gc.collect()
                return
            await self._left.wait()

    def left(self, served: Served) -> None:
        """Somebody does not need a model any more."""
        served.users -= 1
        served.used = time.monotonic()
        self._left.set()

    def unload_idle(self, seconds: float) -> list[str]:
        """Let go of models that nobody has used for so long; their ids."""
        now = time.monotonic()
        old = [
            m
            for m in self.by_id.values()
            if m.model is not None and not m.users and not m.pinned and now - m.used >= seconds
        ]
        for each in old:
            each.model = None
        if old:
            gc.collect()
        return [each.id for each in old]


class Use:
    """A context, see `Models.use`."""

    def __init__(self, models: Models, served: Served) -> None:
        self._models, self._served = models, served

    async def __aenter__(self) -> SigLIP:
        self._served.users += 1
        try:
            return await self._models.loaded(self._served)
        except BaseException:
            self._models.left(self._served)
            raise

    async def __aexit__(self, *error: object) -> None:
        self._models.left(self._served)
