"""`npsiglip dedupe`: groups of pictures that are nearly equal. Nothing is deleted."""

from __future__ import annotations

from typing import Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import (
    Collection,
    OpenOption,
    SheetOption,
    check_sheet,
    open_collection,
    write_sheet,
)
from npsiglip.cli.console import note, one_line, out
from npsiglip.cli.options import INDEX, IndexOption, ThreadsOption
from npsiglip.cli.output import check_stdout, results, to_json
from npsiglip.cli.sheet import Hit

COSINE = 0.97


def _hits(collection: Collection, members: list[int]) -> list[Hit]:
    """The items of a group, with their cosines to the first."""
    rows = collection.shards.take(members)
    cosines = rows @ rows[0]
    records = collection.opened.items(members)
    return [Hit(r.key, float(c), None) for r, c in zip(records, cosines, strict=True) if r is not None]


def dedupe(
    index: IndexOption = INDEX,
    cosine: Annotated[
        float, typer.Option("--cosine", metavar="C", help="Equal enough: a cosine of so much at least.")
    ] = COSINE,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON for each group.")] = False,
    sheet: SheetOption = None,
    opening: OpenOption = False,
) -> None:
    """Show groups of pictures that are nearly equal, one group below the other. Nothing is deleted.

    A line has the cosine to the first of its group, and the path.
    """
    from npsiglip.collection.exact import groups as alike

    check_stdout()
    check_sheet(sheet, opening)
    collection = open_collection(index)
    with Activity() as activity:
        activity.tell_compiling()
        activity.say("Comparing")
        total = len(collection.shards)
        found = alike(collection.shards, cosine, threads, lambda done: activity.count(done, total))
    dead = collection.skip
    if dead is not None:
        found = [[row for row in members if not dead[row]] for members in found]
    shown = [_hits(collection, members) for members in found if len(members) > 1]
    with results():
        for i, hits in enumerate(shown):
            if as_json:
                print(to_json({"group": [{"item": hit.key, "cosine": hit.cosine} for hit in hits]}))
            else:
                lines = [f"{hit.cosine:7.4f}  {one_line(hit.key)}" for hit in hits]
                out().print("\n".join([""] * (i > 0) + lines))
    note(f"{len(shown)} groups of {sum(map(len, shown))} items; nothing was deleted")
    if sheet:
        pictures = collection.opened.manifest.kind == "image"
        write_sheet(sheet, [(f"group {i}", hits) for i, hits in enumerate(shown, 1)], pictures, opening)
