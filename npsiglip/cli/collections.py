"""What commands on a collection share: the index that is opened, its model, its calibration, and what was found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import note, one_line, out
from npsiglip.cli.options import ModelOptions
from npsiglip.cli.output import results, to_json, write_text
from npsiglip.cli.sheet import Hit, sheet
from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.collection.calibrate import Calibration
    from npsiglip.collection.exact import Shards
    from npsiglip.model import SigLIP

CALIBRATION = "calibration.json"
FITS, FITS_UNCALIBRATED = 0.5, 0.01  # a model's own probabilities of photographs that do match are small, too

NumberOption = Annotated[int, typer.Option("-k", metavar="K", min=1, help="How many to show, at most.")]
PathsOption = Annotated[bool, typer.Option("--paths", help="Write the paths alone, one a line, for other programs.")]
NullOption = Annotated[bool, typer.Option("--null", "-0", help="As --paths, each with a NUL behind it: `xargs -0`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write a line of JSON for each query.")]
SheetOption = Annotated[
    Path | None,
    typer.Option("--sheet", metavar="FILE", help="Write what was found as a picture (.png) or page (.html) as well."),
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the file of --sheet.")]


class Opened(Protocol):
    """An index that is open."""

    @property
    def manifest(self) -> Any:
        """Has `kind`, "image" or "text"; `model`, `dtype`, `weights`, `width`."""

    def rows(self) -> Sequence[Any]:
        """The rows of each shard, [r, D], mapped."""

    def alive(self) -> Sequence[Any]:
        """For each shard, bool [r], which rows belong to an item; None: all."""

    def items(self, numbers: Iterable[int] | None = None) -> Iterable[Any]:
        """For each number what has a `key`, its path or text."""

    def number(self, key: str) -> int | None:
        """The row of a key's item."""


def open_index(folder: Path) -> Opened:
    """Open an index for reading.

    Raises:
        InputError: there is none, or one that is damaged or of another version.
    """
    from npsiglip.collection.store import Store

    return Store.open(folder)


class Collection(NamedTuple):
    """An index as searches see it."""

    folder: Path
    opened: Opened
    shards: Shards
    skip: Any
    """Rows that belong to no item: bool [R]; None: there are none."""


def open_collection(folder: Path) -> Collection:
    """Open an index, and map its rows.

    Raises:
        InputError: there is none; a shard is damaged; nothing is in it.
    """
    with deferred():
        from npsiglip.collection.exact import Shards, left_out

    opened = open_index(folder)
    shards = Shards(list(opened.rows()))
    skip = left_out(shards.rows, opened.alive())
    if not len(shards) or (skip is not None and skip.all()):
        raise InputError(f"nothing is in the index {str(folder)!r}; embed something first")
    return Collection(folder, opened, shards, skip)


def load_model(activity: Activity, options: ModelOptions, collection: Collection) -> SigLIP:
    """The model that made the index, or the one that was asked for, if its rows have the same width.

    Raises:
        InputError: another width.
    """
    manifest = collection.opened.manifest
    known = options._replace(model=options.model or manifest.model, dtype=options.dtype or manifest.dtype)
    model = activity.load(known)
    image, text = model.config.image, model.config.text
    width = image.width if image else text.projection_dim if text else None
    if width != collection.shards.width:
        raise InputError(f"the model gives embeddings of {width} numbers, the index has {collection.shards.width}")
    return model


# -- calibration ------------------------------------------------------------------------------------------------------


def read_calibration(collection: Collection) -> Calibration | None:
    """What `npsiglip calibrate` has stored with an index; None if nothing, or for other weights.

    Raises:
        InputError: the file is damaged.
    """
    import json

    from npsiglip.collection.calibrate import Calibration

    path = collection.folder / CALIBRATION
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        weights = stored.pop("weights", None)
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it, or run `npsiglip calibrate` again") from None
    if weights != collection.opened.manifest.weights:
        note(
            f"{path} is of other weights than the index, and not used; run `npsiglip calibrate` again", "note:", "bold"
        )
        return None
    return Calibration.from_dict(stored)


def write_calibration(collection: Collection, calibration: Calibration) -> None:
    """Store it with the index."""
    stored = calibration.to_dict() | {"weights": collection.opened.manifest.weights}
    write_text(collection.folder / CALIBRATION, to_json(stored, indent=2) + "\n")


def of_model(model: SigLIP) -> Calibration | None:
    """The model's own scale and bias; None for a single tower."""
    from math import exp

    from npsiglip.collection.calibrate import Calibration

    if model.t_prime is None or model.bias is None:
        return None
    return Calibration(exp(model.t_prime), model.bias)


# -- what was found ---------------------------------------------------------------------------------------------------


def hits_of(
    collection: Collection, numbers: Any, scores: Any, probabilities: Callable[[Any], Any] | None = None
) -> list[Hit]:
    """The items of rows [k] with their scores [k]; -1 is none."""
    kept = numbers >= 0
    numbers, scores = numbers[kept], scores[kept]
    found = probabilities(scores) if probabilities else [None] * len(numbers)
    records = collection.opened.items(numbers.tolist())
    return [
        Hit(record.key, float(score), None if probability is None else float(probability))
        for record, score, probability in zip(records, scores, found, strict=True)
        if record is not None
    ]


class Shown(NamedTuple):
    """How results are written."""

    paths: bool
    null: bool
    as_json: bool

    def write(self, title: str, hits: Sequence[Hit], fits: bool | None, many: bool) -> None:
        """The results of one query; `many`: of several, so that each has a title."""
        with results():
            if self.as_json:
                found = [
                    {"rank": i, "item": h.key, "probability": h.probability, "cosine": h.cosine}
                    for i, h in enumerate(hits, 1)
                ]
                print(to_json({"query": title, "fits": fits, "results": found}))
            elif self.null or self.paths:
                sys.stdout.flush()
                end = "\0" if self.null else "\n"
                sys.stdout.buffer.write("".join(hit.key + end for hit in hits).encode("utf-8", "surrogateescape"))
            else:
                lines = [one_line(title)] * many + [hit.line(i) for i, hit in enumerate(hits, 1)]
                if lines:
                    out().print("\n".join(lines))


def write_sheet(file: Path, groups: Sequence[tuple[str, Sequence[Hit]]], pictures: bool, opening: bool) -> None:
    """The file of --sheet, and open it if that is wanted."""
    sheet(file, groups, pictures)
    note(f"{sum(len(hits) for _, hits in groups)} results in {file}")
    if opening:
        typer.launch(str(file))


def check_sheet(file: Path | None, opening: bool) -> None:
    """Refuse, before time is spent, a file that could not be written.

    Raises:
        InputError: another suffix than .png and .html, a place where no file can be.
    """
    from npsiglip.cli.output import check_places

    if file is None:
        if opening:
            raise InputError("--open opens the file of --sheet: give one")
        return
    if file.suffix.lower() not in (".png", ".html"):
        raise InputError(f"--sheet {file}: expected a name that ends in .png or .html")
    check_places(file)
