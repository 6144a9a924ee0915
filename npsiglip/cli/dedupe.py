"""`npsiglip dedupe`: groups of pictures that are nearly equal. Nothing is deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import OpenOption, SheetOption, check_sheet, open_index, write_sheet
from npsiglip.cli.console import note, one_line, out
from npsiglip.cli.options import INDEX, IndexOption, ThreadsOption
from npsiglip.cli.output import check_stdout, results, to_json
from npsiglip.collection.hits import Hit
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.collection.exact import Shards
    from npsiglip.collection.index import Index

COSINE = 0.97


def _hits(index: Index, rows: Shards, members: list[int]) -> list[Hit]:
    """The items of a group, with their cosines to the first."""
    with deferred():
        import numpy as np

    vectors = rows.take(members)
    return index.hits(np.array(members), vectors @ vectors[0])


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
    with open_index(index) as opened:
        rows, skip = opened.searched()
        with Activity() as activity:
            activity.tell_compiling()
            activity.say("Comparing")
            total = len(rows)
            found = alike(rows, cosine, skip, threads, lambda done: activity.count(done, total))
        shown = [_hits(opened, rows, members) for members in found]
        pictures = opened.manifest.kind == "image"
    with results():
        for i, hits in enumerate(shown):
            if as_json:
                print(to_json({"group": [{"item": hit.key, "cosine": hit.cosine} for hit in hits]}))
            else:
                lines = [f"{hit.cosine:7.4f}  {one_line(hit.key)}" for hit in hits]
                out().print("\n".join([""] * (i > 0) + lines))
    note(f"{len(shown)} groups of {sum(map(len, shown))} items; nothing was deleted")
    write_sheet(sheet, [(f"group {i}", hits) for i, hits in enumerate(shown, 1)], pictures, opening)
