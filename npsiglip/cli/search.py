"""`npsiglip search`: what in an index is like words or pictures, and how probably."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import (
    FITS,
    FITS_UNCALIBRATED,
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
    of_model,
    open_collection,
    read_calibration,
    write_sheet,
)
from npsiglip.cli.console import UsageError, note, quoted
from npsiglip.cli.options import INDEX, IndexOption, ModelOptions, with_model_options
from npsiglip.cli.output import check_stdout
from npsiglip.cli.sheet import Hit
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.collection.query import Query


def _says(query: Query, kind: str) -> bool:
    """Whether a model says how probable a match is: of words with pictures, and of a picture with texts; of no sums."""
    return query.single and query.words_only == (kind == "image")


def _check(queries: list[Query], kind: str, least: float | None) -> None:
    silent = [query.text for query in queries if not _says(query, kind)]
    if least is not None and silent:
        what = "words alone with pictures" if kind == "image" else "a picture alone with texts"
        raise UsageError(f"--min-prob: the model has probabilities of {what}, and none of {quoted(silent[0])}")


def _tell(query: Query, hits: list[Hit], least: float | None, calibrated: bool) -> bool | None:
    """Whether anything fits, said if nothing does; None if the model does not say."""
    if hits and hits[0].probability is None:
        return None
    bar = least if least is not None else FITS if calibrated else FITS_UNCALIBRATED
    best = hits[0].probability if hits else 0.0
    if best is not None and best >= bar:
        return True
    from npsiglip.cli.classify import percent

    advice = "" if calibrated else "; probabilities of this index are not calibrated: `npsiglip calibrate`"
    note(f"nothing here fits {quoted(query.text)}: the best is {percent(best or 0.0)} probable{advice}")
    return False


@with_model_options
def search(
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            help="Words, a picture, or a sum of them: '2:beach + ./me.jpg - crowd'. Each argument is a query.",
            show_default=False,
        ),
    ],
    index: IndexOption = INDEX,
    number: NumberOption = 10,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    min_prob: Annotated[
        float | None,
        typer.Option("--min-prob", metavar="P", min=0, max=1, help="Show what is so probable at least."),
    ] = None,
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="The sentence that words are put into, at its {}.")
    ] = "{}",
    paths: PathsOption = False,
    null: NullOption = False,
    as_json: JsonOption = False,
    sheet: SheetOption = None,
    opening: OpenOption = False,
) -> None:
    """Find what is like words or pictures.

    A line has the rank, the probability that it fits, the cosine and the path. Says so when nothing here fits.
    """
    from npsiglip.collection.query import parse

    check_stdout()
    check_sheet(sheet, opening)
    queries = [parse(text) for text in query]
    collection = open_collection(index)
    kind = collection.opened.manifest.kind
    _check(queries, kind, min_prob)
    with Activity() as activity:
        model = load_model(activity, options, collection)
        with deferred():
            import numpy as np

            from npsiglip.collection.exact import search as find
            from npsiglip.collection.query import embed, filled

        activity.say("Searching")
        vectors = embed(model, [filled(each, template) for each in queries])
        found = find(collection.shards, vectors, number, collection.skip, options.threads)
        stored = read_calibration(collection)
        calibration = stored or of_model(model)
    shown, groups = Shown(paths, null, as_json), []
    for each, numbers, scores in zip(queries, found.numbers, found.scores, strict=True):
        says = calibration if calibration and _says(each, kind) else None
        hits = hits_of(collection, numbers, scores, says.probabilities if says else None)
        fits = _tell(each, hits, min_prob, stored is not None)
        if min_prob is not None:
            hits = [hit for hit in hits if np.float64(hit.probability or 0.0) >= min_prob]
        shown.write(each.text, hits, fits, len(queries) > 1)
        groups.append((each.text, hits))
    if sheet:
        write_sheet(sheet, groups, kind == "image", opening)
