"""`npsiglip search`: what in an index is like words or pictures, and how probably."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import (
    ResultOptions,
    calibration_of,
    check_sheet,
    load_model,
    open_index,
    write_sheet,
)
from npsiglip.cli.console import UsageError, note, quoted
from npsiglip.cli.options import INDEX, IndexOption, ModelOptions, with_options
from npsiglip.cli.output import check_stdout
from npsiglip.collection.hits import Hit
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.collection.query import Query

FITS, FITS_UNCALIBRATED = 0.5, 0.01  # a model's own probabilities of photographs that do match are small, too


def _check(queries: list[Query], kind: str, least: float | None) -> None:
    silent = [query.text for query in queries if not query.has_probability(kind)]
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


@with_options
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
    options: ModelOptions = ModelOptions(),  # noqa: B008
    min_prob: Annotated[
        float | None,
        typer.Option("--min-prob", metavar="P", min=0, max=1, help="Show what is so probable at least."),
    ] = None,
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="The sentence that words are put into, at its {}.")
    ] = "{}",
    usearch: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Search approximately, by what `npsiglip index export` wrote for USearch: faster from a million on.",
        ),
    ] = None,
    shown: ResultOptions = ResultOptions(),  # noqa: B008
) -> None:
    """Find what is like words or pictures.

    A line has the rank, the probability that it fits, the cosine and the path. Says so when nothing here fits.
    """
    from npsiglip.collection.query import parse

    check_stdout()
    check_sheet(shown.sheet, shown.opening)
    queries = [parse(text) for text in query]
    with open_index(index) as opened:
        kind = opened.manifest.kind
        _check(queries, kind, min_prob)
        rows, skip = opened.searched()
        with Activity() as activity:
            model = load_model(activity, options, opened)
            with deferred():
                import numpy as np

                from npsiglip.collection.approximate import Approximate
                from npsiglip.collection.calibrate import MODEL
                from npsiglip.collection.exact import search as find
                from npsiglip.collection.query import embed, filled

            activity.say("Searching")
            vectors = embed(model, [filled(each, template) for each in queries])
            found = (
                find(rows, vectors, shown.number, skip, options.threads)
                if usearch is None
                else Approximate(usearch, rows).search(vectors, shown.number, skip)
            )
        calibration, groups = calibration_of(opened, model), []
        for each, numbers, scores in zip(queries, found.numbers, found.scores, strict=True):
            says = calibration if calibration and each.has_probability(kind) else None
            hits = opened.hits(numbers, scores, says.probabilities if says else None)
            fits = _tell(each, hits, min_prob, calibration is not None and calibration.how != MODEL)
            if min_prob is not None:
                hits = [hit for hit in hits if np.float64(hit.probability or 0.0) >= min_prob]
            shown.write(each.text, hits, fits, len(queries) > 1)
            groups.append((each.text, hits))
        write_sheet(shown.sheet, groups, kind == "image", shown.opening)
