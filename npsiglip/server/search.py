"""The index of a server: words, pictures and both to hits without paths, neighbours, thumbnails.

All of the index is read by the worker alone. An item is known to clients by its row's number.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePath
from tarfile import TarError
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.model import SigLIP
from npsiglip.server.dialects import Refused
from npsiglip.server.pictures import thumbnail
from npsiglip.zero_shot import fill_template

if TYPE_CHECKING:
    from npsiglip.collection.query import Query

SIDES = (112, 224, 448)  # of thumbnails, pixels


class _Embedded:
    """Stands for a model whose results are known."""

    tokenizer = None

    def __init__(self, texts: dict[str, Any], pictures: dict[str, Any]) -> None:
        self._texts, self._pictures = texts, pictures

    def encode_text(self, texts: list[str]) -> Any:
        return np.stack([self._texts[text] for text in texts])

    def encode_image(self, images: list[str]) -> Any:
        return np.stack([self._pictures[name] for name in images])


class Collection:
    """An open index. Every method but `close` is called by the worker.

    Raises:
        InputError: no index, an empty one, or one of another model.
    """

    def __init__(self, folder: Path, model: SigLIP, threads: int | None) -> None:
        from npsiglip.collection.index import Index, check_model  # a server without an index starts without it

        self.index = Index.open(folder, model)
        check_model(self.index.manifest, model, folder)
        self._known = self.index.store.shards()  # another process may change the index: numbers are those of now
        self.shards, self.skip = self.index.searched()
        self.calibration = self.index.calibration
        self.kind, self.threads = self.index.manifest.kind, threads
        self.count = len(self.index)

    def query(self, text: str | None, ztxt: Any, zimg: Any, weights: tuple[float, float]) -> tuple[Any, Query]:
        """The vector [1, D] that is searched for, and the query that says whether there are probabilities.

        Raises:
            InputError: terms that cancel each other.
        """
        from npsiglip.collection.query import Query, Term, embed

        terms = [Term(weights[0], text, False)] if text is not None else []
        terms += [Term(weights[1], "picture", True)] if zimg is not None else []
        query = Query(text or "picture", tuple(terms))
        return embed(_Embedded({text or "": ztxt}, {"picture": zimg}), [query]), query

    def search(self, vector: Any, k: int, query: Query) -> list[dict[str, Any]]:
        """The best k, the best first."""
        from npsiglip.collection import exact

        found = exact.search(self.shards, vector, k, self.skip, self.threads)
        says = self.calibration if query.has_probability(self.kind) else None
        return self._hits(found.numbers[0], found.scores[0], says.probabilities if says else None)

    def similar(self, number: int, k: int) -> list[dict[str, Any]]:
        """The neighbours of an item.

        Raises:
            Refused: 404, no such item.
        """
        self.record(number)
        from npsiglip.collection import exact

        found = exact.similar(self.shards, number, k, self.skip, self.threads)
        return self._hits(found.numbers[0], found.scores[0], None)

    def record(self, number: int) -> Any:
        """What is known of an item.

        Raises:
            Refused: 404, no such item.
        """
        if not 0 <= number < int(self.shards.starts[-1]) or (self.skip is not None and self.skip[number]):
            raise Refused(404, f"id: there is no item {number} in the index", "id")
        found = next(self.index.store.items([number], self._known))
        if found is None:
            raise Refused(404, f"id: item {number} is not in the index any more", "id")
        return found

    def _hits(self, numbers: NDArray[Any], scores: NDArray[Any], probabilities: Any) -> list[dict[str, Any]]:
        numbers, scores = numbers[numbers >= 0], scores[numbers >= 0]
        said = probabilities(scores) if probabilities else [None] * len(numbers)
        records = self.index.store.items(numbers.tolist(), self._known)
        return [
            {
                "id": int(number),
                "rank": rank,
                "cosine": float(score),
                "probability": None if probability is None else float(probability),
                "name": record.key if self.kind == "text" else name_of(record.key),
                "thumbnail": None if self.kind == "text" else f"/v1/thumbnails/{int(number)}",
                "width": record.width,
                "height": record.height,
            }
            for rank, (number, score, probability, record) in enumerate(
                zip(numbers, scores, said, records, strict=True), 1
            )
            if record is not None
        ]

    def key(self, number: int) -> str:
        """Where a picture is.

        Raises:
            Refused: 404, no such picture.
        """
        record = self.record(number)
        if self.kind == "text":
            raise Refused(404, "id: the index is of texts, which have no thumbnails", "id")
        return str(record.key)

    def close(self) -> None:
        """Let go of the files."""
        self.index.close()


def name_of(key: str) -> str:
    """The name of a picture without its folder."""
    return PurePath(re.split(r"[/\\]", key.split("?")[0])[-1]).name or "picture"


def small(key: str, side: int) -> bytes:
    """A picture of the machine as a thumbnail.

    Raises:
        Refused: 404, it is not there any more, or on another machine.
    """
    from npsiglip.collection.remote import is_url
    from npsiglip.collection.where import read_key

    try:
        if is_url(key):
            raise InputError("on another machine")
        return thumbnail(read_key(key), side)
    except (InputError, OSError, TarError, ValueError):
        raise Refused(404, "id: the picture is not there any more, or cannot be read", "id") from None


def texts_of(text: str, template: str | None) -> str:
    """The words in a template, as `npsiglip search` puts them: none, unless it is asked for.

    Raises:
        Refused: 400, a template that cannot be used.
    """
    if template is None:
        return text
    try:
        return fill_template([text], template)[0]
    except InputError as error:
        raise Refused(400, f"template: {error}", "template") from None
