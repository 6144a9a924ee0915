"""`npsiglip index export` and `import`: embeddings in files of others, and from them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import open_index
from npsiglip.cli.console import note
from npsiglip.cli.options import INDEX, IndexOption, ModelOptions, with_options
from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.collection.exact import Shards
    from npsiglip.collection.exchange import Foreign
    from npsiglip.collection.index import Index

FAISS, USEARCH, NPY = (".faiss", ".index"), ".usearch", ".npy"
EXPECTED = "a name that ends in .npy, .faiss or .usearch, or a folder for clip-retrieval"


class Metric(StrEnum):
    """Of a flat index of FAISS."""

    IP = "ip"
    L2 = "l2"


class Kind(StrEnum):
    """What rows are of."""

    IMAGE = "image"
    TEXT = "text"


def _living(index: Index) -> Shards:
    """The rows that belong to items."""
    from npsiglip.collection.exact import Shards

    pairs = zip(index.store.rows(), index.store.alive(), strict=True)
    return Shards([rows if alive is None else rows[alive] for rows, alive in pairs])


def export(
    where: Annotated[Path, typer.Argument(metavar="FILE", help=f"Where to: {EXPECTED}.", show_default=False)],
    index: IndexOption = INDEX,
    metric: Annotated[Metric, typer.Option(help="Of FAISS's flat index: inner products, or squared distances.")] = (
        Metric.IP
    ),
) -> None:
    """Write the rows of an index for other programs, and the names of the items beside them.

    For USearch, all rows with their numbers: `npsiglip search QUERY --usearch FILE` searches by it.
    """
    from npsiglip.atomic import write_all
    from npsiglip.collection.approximate import write_usearch
    from npsiglip.collection.exchange import names_beside, write_clip_retrieval, write_npy
    from npsiglip.collection.faiss_files import write_faiss
    from npsiglip.collection.items import reason_of

    suffix = where.suffix.lower()
    with open_index(index) as opened:
        rows, _ = opened.searched()
        names, text = opened.keys, opened.manifest.kind == "text"
        try:
            if suffix == USEARCH:
                write_usearch(where, rows)
            elif suffix == NPY:
                write_npy(where, _living(opened), names, opened.manifest.rows)
            elif suffix in FAISS:
                write_faiss(where, _living(opened), metric.value)
                beside, write = names_beside(where, names)
                write_all(where.parent, {beside.name: write})
            elif suffix:
                raise InputError(f"{where}: expected {EXPECTED}")
            else:
                column, kind = ("caption", "text") if text else ("image_path", "img")
                write_clip_retrieval(where, _living(opened), {column: names}, kind)
        except OSError as error:
            raise InputError(f"{where} cannot be written ({reason_of(error)})") from None
        note(f"{len(opened):,} items in {where}")


def _read(where: Path, names: Path | None, kind: Kind) -> Foreign:
    from npsiglip.collection.exchange import Foreign, names_of, read_clip_retrieval, read_npy
    from npsiglip.collection.faiss_files import read_faiss

    suffix = where.suffix.lower()
    if where.is_dir():
        return read_clip_retrieval(where, "text" if kind is Kind.TEXT else "img")
    if suffix == NPY:
        return read_npy(where, names)
    if suffix in FAISS:
        rows = read_faiss(where).rows
        return Foreign([rows], names_of(where, len(rows), names))
    raise InputError(f"{where}: expected a file of .npy or .faiss, or a folder of clip-retrieval")


@with_options
def take(
    where: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="A .npy, an index of FAISS, or a folder of clip-retrieval.", show_default=False
        ),
    ],
    index: IndexOption = INDEX,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    kind: Annotated[Kind, typer.Option("--as", help="What the rows are of: pictures or texts.")] = Kind.IMAGE,
    names: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A name for each row, one a line.", show_default="the .txt beside FILE"),
    ] = None,
) -> None:
    """Make an index of embeddings that somebody else has made with the same model, which --model names.

    That they are of this model cannot be seen in them; rows are scaled to unit norm, and have 16 bits if all of the
    file's have.
    """
    with deferred():
        from npsiglip.collection.exchange import unit
        from npsiglip.collection.identity import manifest_of
        from npsiglip.collection.items import NOT_SAID
        from npsiglip.collection.records import Record
        from npsiglip.collection.store import Store

    found = _read(where, names, kind)
    if len(set(found.names)) != len(found.names):
        raise InputError(f"{where}: a name comes twice; expected one for each row")
    with Activity() as activity:
        model = activity.load(options)
        half = all(rows.dtype == "float16" for rows in found.rows)
        manifest = manifest_of(model, kind.value, "float16" if half else "float32", name=options.model)
        if wrong := [rows.shape[1] for rows in found.rows if rows.shape[1] != manifest.width]:
            raise InputError(f"{where} has rows of {wrong[0]} numbers, and the model's have {manifest.width}")
        size, first = manifest.shard_rows, 0
        with Store.create(index, manifest) as store:
            for rows in found.rows:
                for start in range(0, len(rows), size):
                    part = unit(rows[start : start + size])
                    keys = found.names[first : first + len(part)]
                    store.add([Record(k, NOT_SAID, NOT_SAID, bytes(16), "", None, None) for k in keys], part)
                    first += len(part)
                    activity.count(first, len(found.names))
    note(f"{first:,} items in {index}")
