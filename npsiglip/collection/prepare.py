"""Items -> what a tower takes, in threads beside the kernels: read, hashed, decoded, resized; in the items' order.

So many items are under way as keep the threads busy, no more: memory does not grow with a collection.
"""

from __future__ import annotations

import contextlib
import io
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from npsiglip.collection.items import Bad, Item, key_of, reason_of
from npsiglip.collection.records import Failure, Record
from npsiglip.errors import InputError
from npsiglip.images.files import load_image
from npsiglip.images.naflex import NaflexProcessor, PatchBatch
from npsiglip.images.openclip import CropProcessor
from npsiglip.processors import Processor

AHEAD = 4  # items under way for each thread


@dataclass(frozen=True, slots=True)
class Prepared:
    """An item that a tower can take."""

    record: Record
    input: Any  # float32 [1, 3, H, W], a PatchBatch of one image, or a text; None: its content is the known one


Task = tuple[Item, bytes | None]  # an item, and the hash of the content that is known already


def content_hash(content: bytes) -> bytes:
    """By which the content of an item is known again: 16 bytes."""
    return sha256(content).digest()[:16]


def _target(processor: Processor) -> int:
    """About the side of the square that pictures are resized to."""
    if isinstance(processor, NaflexProcessor):
        return math.ceil(processor.patch_size * math.sqrt(processor.max_num_patches))
    return max(processor.height, processor.width)


def failure(item: Item | Bad, reason: str) -> Failure:
    """The item as one that cannot be used."""
    if isinstance(item, Bad):
        return Failure(item.key, reason, source=item.source)
    return Failure(item.key, reason, item.size, item.mtime, item.source)


def picture(task: Task, processor: Processor, fast_decode: bool = False) -> Prepared | Failure:
    """A picture, prepared; a Failure with the reason if it cannot be used.

    Args:
        task: what is to be read.
        processor: of the model.
        fast_decode: decode a JPEG at 1/2, 1/4 or 1/8, with twice the pixels on each side that it is resized to.
    """
    item, known = task
    side = 2 * _target(processor)
    try:
        content = item.opener()
        found = content_hash(content)
        if found == known:
            return Prepared(Record(item.key, item.size, item.mtime, found, item.source), None)
        convert = not isinstance(processor, CropProcessor)  # which takes a picture in its own mode
        draft = (side, side) if fast_decode else None
        image = load_image(content, processor.decoding, "it", convert, draft)
        width, height = (_size(content) if draft else None) or image.size
        prepared = processor(image, first=None)
    except (InputError, OSError, MemoryError) as error:
        return failure(item, reason_of(error).removeprefix("it "))
    record = Record(item.key, item.size, item.mtime, found, item.source, width, height)
    return Prepared(record, prepared)


def _size(content: bytes) -> tuple[int, int] | None:
    """Width and height by the header, upright as the picture is taken; None where Pillow's limit forbids to look."""
    with contextlib.suppress(Exception), Image.open(io.BytesIO(content)) as image:
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return (image.height, image.width) if turned else image.size
    return None


@contextlib.contextmanager
def one_limit(processor: Processor) -> Iterator[Processor]:
    """The processor without a limit of its own, which is Pillow's meanwhile: threads need not wait for each other."""
    if processor.max_megapixels is None:
        yield processor
        return
    limit, before = processor.max_megapixels * 1e6, Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = math.ceil(limit) if math.isfinite(limit) else None
    try:
        yield replace(processor, max_megapixels=None)
    finally:
        Image.MAX_IMAGE_PIXELS = before


def text(task: Task) -> Prepared | Failure:
    """A text, which needs no thread."""
    item = task[0]
    content = item.opener()
    return Prepared(Record(item.key, item.size, item.mtime, content_hash(content), item.source), key_of(content))


def in_order(
    tasks: Iterable[Task | Failure], work: Callable[[Task], Prepared | Failure], threads: int
) -> Iterator[Prepared | Failure]:
    """What `work` makes of each task, in their order, made in so many threads."""
    pending: deque[Failure | Future[Prepared | Failure]] = deque()

    def take(first: Failure | Future[Prepared | Failure]) -> Prepared | Failure:
        return first if isinstance(first, Failure) else first.result()

    pool = ThreadPoolExecutor(threads, "npsiglip-decode")
    try:
        for task in tasks:
            pending.append(task if isinstance(task, Failure) else pool.submit(work, task))
            while len(pending) >= AHEAD * threads or (pending and isinstance(pending[0], Failure)):
                yield take(pending.popleft())
        while pending:
            yield take(pending.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def together(inputs: list[Any]) -> Any:
    """Prepared inputs of several items as one batch that a model takes."""
    if isinstance(inputs[0], str):
        return inputs
    if isinstance(inputs[0], PatchBatch):
        parts = zip(*((batch.patches, batch.mask, batch.shapes) for batch in inputs), strict=True)
        return PatchBatch(*map(np.concatenate, parts))
    return np.concatenate(inputs)
