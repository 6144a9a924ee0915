"""Pictures and texts of requests to embeddings, scores and hits: what all routes share.

Pictures are decoded and texts cut into tokens by a few threads, each by itself, so that a bad one is its request's
alone; what was computed lately is found by its content. Dimensions: N pictures, K texts, D width.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError, NpsiglipError
from npsiglip.kernels import cpus
from npsiglip.model import SigLIP
from npsiglip.outputs import SigLIPOutput
from npsiglip.server.batching import Lane, Worker
from npsiglip.server.cache import Cache
from npsiglip.server.dialects import Refused
from npsiglip.server.fetch import fetch
from npsiglip.server.metrics import Metrics
from npsiglip.server.models import Models, Served
from npsiglip.server.pictures import check_picture, from_base64, is_url, without_paths
from npsiglip.server.settings import LONGEST_TEXT, Settings

Array = NDArray[np.float32]


class Picture(NamedTuple):
    """A picture of a request: base64, a data URI or a URL, and the field that has it."""

    source: str
    where: str


class Text(NamedTuple):
    """A text of a request, and the field that has it."""

    text: str
    where: str


class Engine:
    """See above.

    Args:
        settings: the limits.
        models: what embeds.
        worker: owns the kernels.
        metrics: where the cache is counted.
    """

    def __init__(self, settings: Settings, models: Models, worker: Worker, metrics: Metrics) -> None:
        self.settings, self.models, self.worker, self.metrics = settings, models, worker, metrics
        self.cache: Cache[Any] = Cache(int(settings.cache * 1e6))
        self._pool = ThreadPoolExecutor(max(2, cpus.available()), "npsiglip decode")
        self._fetching = ThreadPoolExecutor(8, "npsiglip fetch")
        metrics.watch("cache_bytes", "Bytes of embeddings that are kept.", lambda: self.cache.used)
        metrics.watch("queue_rows", "Pictures and texts that wait for the worker.", lambda: worker.waiting)
        metrics.watch("places_taken", "Pictures and texts that are worked on.", lambda: worker.taken)
        metrics.watch(
            "models_loaded", "Models in memory.", lambda: sum(m.model is not None for m in models.by_id.values())
        )

    async def in_pool(self, function: Callable[..., Any], *args: Any) -> Any:
        """What a function returns, which a thread for decoding runs."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)

    async def _content(self, picture: Picture) -> bytes:
        if is_url(picture.source):
            run = asyncio.get_running_loop().run_in_executor
            return await run(self._fetching, fetch, picture.source, picture.where, self.settings)
        content: bytes = await self.in_pool(from_base64, picture.source, picture.where)
        return content

    def _pixels(self, model: SigLIP, content: bytes, where: str) -> Any:
        check_picture(content, self.settings.max_megapixels, where)
        if model.processor is None:
            raise Refused(400, "this model has no image tower, and takes no pictures", "model")
        try:
            return model.processor([content], first=None)
        except InputError as error:
            raise Refused(400, without_paths(error, where), where) from None

    def _ids(self, model: SigLIP, texts: Sequence[Text]) -> Any:
        if model.config.text is None:
            raise Refused(400, "this model has no text tower, and takes no texts", "model")
        if model.tokenizer is None:
            raise Refused(400, "this model has no tokenizer, and takes no texts", "model")
        for text in texts:
            if len(text.text) > LONGEST_TEXT:
                raise Refused(400, f"{text.where} has more than {LONGEST_TEXT} characters; shorten it", text.where)
        try:
            ids, cut = model.tokenizer.rows([text.text for text in texts])
        except InputError as error:
            raise Refused(400, f"{texts[0].where}: {error}", texts[0].where) from None
        if cut and not self.settings.truncate:
            where = texts[next(iter(cut))].where
            raise Refused(
                400,
                f"{where} is longer than the {model.tokenizer.seq_len} tokens that the model reads; shorten it",
                where,
            )
        return ids

    async def images(self, served: Served, pictures: Sequence[Picture]) -> Array:
        """Embeddings [N, D] of pictures, unit norm.

        Raises:
            Refused: a picture that cannot be used; too many; no place in the queue.
        """
        _check_count(len(pictures), "images", self.settings.max_images)
        with self.worker.admitted(len(pictures)):
            contents = await _all(self._content(picture) for picture in pictures)
            keys = [(served.id, "image", hashlib.sha256(content).digest()) for content in contents]

            async def prepare(model: SigLIP, new: list[int]) -> list[Any]:
                return await _all(self.in_pool(self._pixels, model, contents[i], pictures[i].where) for i in new)

            return await self._rows(served, served.image_lane, keys, prepare)

    async def texts(self, served: Served, texts: Sequence[Text]) -> Array:
        """Embeddings [K, D] of texts, unit norm.

        Raises:
            Refused: a text that cannot be used; too many; no place in the queue.
        """
        _check_count(len(texts), "texts", self.settings.max_texts)
        with self.worker.admitted(len(texts)):
            keys = [(served.id, "text", text.text) for text in texts]

            async def prepare(model: SigLIP, new: list[int]) -> list[Any]:
                ids = await self.in_pool(self._ids, model, [texts[i] for i in new])
                return [row[None] for row in ids]

            return await self._rows(served, served.text_lane, keys, prepare)

    async def _rows(
        self,
        served: Served,
        lane_of: Callable[[SigLIP], Lane],
        keys: Sequence[Any],
        prepare: Callable[[SigLIP, list[int]], Awaitable[list[Any]]],
    ) -> Array:
        """Embeddings [n, D] by their keys; `prepare` makes inputs of the places of those that are not in the cache."""
        found, new = self._known(keys)
        if new:
            async with self.models.use(served) as model:
                await self._compute(lane_of(model), list(new), await prepare(model, list(new.values())), found)
        return np.stack([found[key] for key in keys])

    def _known(self, keys: Sequence[Any]) -> tuple[dict[Any, Array], dict[Any, int]]:
        """What is in the cache, and the first place of each key that is not."""
        found, new = {}, {}
        for i, key in enumerate(keys):
            if key in found or key in new:
                continue
            value = self.cache.get(key)
            if value is None:
                new[key] = i
            else:
                found[key] = value
        self.metrics.cached.labels("yes").inc(len(found))
        self.metrics.cached.labels("no").inc(len(new))
        return found, new

    async def _compute(self, lane: Lane, keys: list[Any], rows: Sequence[Any], found: dict[Any, Array]) -> None:
        try:
            results = await self.worker.rows(lane, rows)
        except NpsiglipError as error:
            raise Refused(400, f"an input cannot be embedded: {error}") from None
        for key, result in zip(keys, results, strict=True):
            own = np.array(result)  # not a view of the batch
            own.flags.writeable = False
            found[key] = own
            text = key[2] if isinstance(key[2], str) else ""
            self.cache.put(key, own, own.nbytes + len(text.encode("utf-8", "surrogatepass")))

    async def compare(self, served: Served, zimg: Array, ztxt: Array) -> SigLIPOutput:
        """Embeddings of pictures [N, D] against those of texts [K, D].

        Raises:
            Refused: a single tower; embeddings of another width, or not finite.
        """
        async with self.models.use(served) as model:
            try:
                output: SigLIPOutput = await self.worker.call(lambda: model.compare(zimg, ztxt))
            except NpsiglipError as error:
                raise Refused(400, str(error)) from None
        return output

    def close(self) -> None:
        """Finish, and end the threads."""
        self.worker.close()
        self._pool.shutdown()
        self._fetching.shutdown(wait=False, cancel_futures=True)


def _check_count(number: int, what: str, most: int) -> None:
    if number > most:
        raise Refused(400, f"{number} {what} are more than the {most} that a request may have")


async def _all(tasks: Any) -> list[Any]:
    """Their results, in order; the first error ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            running = [group.create_task(task) for task in tasks]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in running]
