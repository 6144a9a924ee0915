"""`npsiglip similar`: the nearest neighbours of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import (
    JsonOption,
    NullOption,
    NumberOption,
    OpenOption,
    PathsOption,
    SheetOption,
    Shown,
    check_sheet,
    hits_of,
    load_model,
    open_collection,
    write_sheet,
)
from npsiglip.cli.options import INDEX, IndexOption, ModelOptions, with_model_options
from npsiglip.cli.output import check_stdout


@with_model_options
def similar(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A picture, in the index or not.", show_default=False)],
    index: IndexOption = INDEX,
    number: NumberOption = 10,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    paths: PathsOption = False,
    null: NullOption = False,
    as_json: JsonOption = False,
    sheet: SheetOption = None,
    opening: OpenOption = False,
) -> None:
    """Find the pictures that are most like one.

    A picture of the index is not embedded again, and not found itself; in an index of texts, FILE may be one of them.
    """
    from npsiglip.collection.exact import search
    from npsiglip.collection.exact import similar as neighbours

    check_stdout()
    check_sheet(sheet, opening)
    collection = open_collection(index)
    keys = (file, str(Path(file).absolute()))
    row = next((row for key in keys if (row := collection.opened.number(key)) is not None), None)
    if row is not None:
        found = neighbours(collection.shards, row, number, collection.skip, options.threads)
    else:
        with Activity() as activity:
            model = load_model(activity, options, collection)
            vector = model.encode_image(file)
        found = search(collection.shards, vector, number, collection.skip, options.threads)
    hits = hits_of(collection, found.numbers[0], found.scores[0])
    Shown(paths, null, as_json).write(file, hits, None, False)
    if sheet:
        write_sheet(sheet, [(file, hits)], collection.opened.manifest.kind == "image", opening)
