"""Who makes rows of items for an index: this process here; many, in `npsiglip.collection.ray`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

from npsiglip.collection.prepare import Prepared, Task, in_order, one_limit, picture, text, together
from npsiglip.collection.records import Failure
from npsiglip.collection.where import IMAGE
from npsiglip.kernels.cpus import available
from npsiglip.model import SigLIP


class Engine(NamedTuple):
    """Two steps from items to rows, each of which may do the whole work."""

    prepare: Callable[[Iterable[Task | Failure]], Iterator[Prepared | Failure]]
    """Items, prepared, in their order; what cannot be used as a Failure."""
    encode: Callable[[list[Any]], Any]
    """`Prepared.input` of some of them -> rows [n, D], each the same in any batch."""


@contextlib.contextmanager
def here(model: SigLIP, kind: str, fast_decode: bool = False, threads: int | None = None) -> Iterator[Engine]:
    """This process: reads and decodes in threads, beside the kernels.

    Args:
        model: what embeds.
        kind: of the items, "image" or "text".
        fast_decode: decode JPEGs at a fraction of their size.
        threads: that read and decode; None: as many as there are CPUs.
    """
    if kind != IMAGE:
        yield Engine(partial(in_order, work=text, threads=1), model.encode_text)
        return
    assert model.processor is not None
    with one_limit(model.processor) as processor:
        work = partial(picture, processor=processor, fast_decode=fast_decode)
        encode = model.encode_image
        yield Engine(partial(in_order, work=work, threads=threads or available()), lambda x: encode(together(x)))
