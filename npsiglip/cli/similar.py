"""`npsiglip similar`: the nearest neighbours of a picture."""

from __future__ import annotations

from typing import Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import ResultOptions, check_sheet, load_model, open_index, write_sheet
from npsiglip.cli.options import INDEX, IndexOption, ModelOptions, with_options
from npsiglip.cli.output import check_stdout


@with_options
def similar(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A picture, in the index or not.", show_default=False)],
    index: IndexOption = INDEX,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    shown: ResultOptions = ResultOptions(),  # noqa: B008
) -> None:
    """Find the pictures that are most like one.

    A picture of the index is not embedded again, and not found itself; in an index of texts, FILE may be one of them.
    """
    from npsiglip.collection.exact import search
    from npsiglip.collection.exact import similar as neighbours

    check_stdout()
    check_sheet(shown.sheet, shown.opening)
    shown = shown.checked()
    with open_index(index) as opened:
        rows, skip = opened.searched()
        row = opened.number(file)
        if row is not None:
            found = neighbours(rows, row, shown.number, skip, options.threads)
        else:
            with Activity() as activity:
                vector = load_model(activity, options, opened).encode_image(file)
            found = search(rows, vector, shown.number, skip, options.threads)
        hits = opened.hits(found.numbers[0], found.scores[0])
        shown.write(file, hits, None, False, opened.manifest.kind)
        write_sheet(shown.sheet, [(file, hits)], opened.manifest.kind == "image", shown.opening)
