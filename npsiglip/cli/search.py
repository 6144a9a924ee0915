"""`npsiglip search`: what in an index is like words or pictures, and how probably."""

from __future__ import annotations

from collections.abc import Sequence
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
from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.cli.interactive import Settings
    from npsiglip.collection.index import Index
    from npsiglip.collection.query import Query
    from npsiglip.model import SigLIP

FITS, FITS_UNCALIBRATED = 0.5, 0.01  # a model's own probabilities of photographs that do match are small, too


def _check(queries: Sequence[Query], kind: str, least: float | None) -> None:
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


class _Searcher:
    """An index and its model, to be asked again and again."""

    def __init__(self, index: Index, options: ModelOptions, template: str, usearch: Path | None) -> None:
        self.index, self.options, self.template, self.usearch = index, options, template, usearch
        self.kind = index.manifest.kind
        self.version = index.store.version
        self.rows, self.skip = index.searched()

    def _refresh(self) -> None:
        """Look again, if another process has changed the index since."""
        if (now := self.index.store.version) != self.version:
            self.rows, self.skip = self.index.searched()
            self.version = now

    def load(self, activity: Activity) -> None:
        """Load the model; the calibration is read with it."""
        self.model: SigLIP = load_model(activity, self.options, self.index)
        self.calibration = calibration_of(self.index, self.model)

    def find(self, queries: Sequence[Query], number: int, least: float | None) -> list[tuple[list[Hit], bool | None]]:
        """For each query what is like it, and whether anything fits."""
        with deferred():
            import numpy as np

            from npsiglip.collection.approximate import Approximate
            from npsiglip.collection.calibrate import MODEL
            from npsiglip.collection.exact import search as find
            from npsiglip.collection.query import embed, filled

        self._refresh()
        vectors = embed(self.model, [filled(each, self.template) for each in queries])
        found = (
            find(self.rows, vectors, number, self.skip, self.options.threads)
            if self.usearch is None
            else Approximate(self.usearch, self.rows).search(vectors, number, self.skip)
        )
        answers = []
        for each, numbers, scores in zip(queries, found.numbers, found.scores, strict=True):
            says = self.calibration if self.calibration and each.has_probability(self.kind) else None
            hits = self.index.hits(numbers, scores, says.probabilities if says else None)
            fits = _tell(each, hits, least, self.calibration is not None and self.calibration.how != MODEL)
            if least is not None:
                hits = [hit for hit in hits if np.float64(hit.probability or 0.0) >= least]
            answers.append((hits, fits))
        return answers

    def similar(self, hit: Hit, number: int) -> list[Hit]:
        """What is like an item of the index."""
        from npsiglip.collection.exact import similar

        self._refresh()
        row = self.index.number(hit.key)
        if row is None:
            raise InputError(f"{quoted(hit.key)} is not in the index any more")
        found = similar(self.rows, row, number, self.skip, self.options.threads)
        return self.index.hits(found.numbers[0], found.scores[0])


def _ask(searcher: _Searcher, shown: ResultOptions, settings: Settings) -> None:
    """Answer query after query."""
    from npsiglip.cli.interactive import Asked, Loop
    from npsiglip.collection.query import parse

    def query(text: str, now: Settings) -> list[Hit]:
        parsed = [parse(text)]
        _check(parsed, searcher.kind, now.min_prob)
        ((hits, fits),) = searcher.find(parsed, now.number, now.min_prob)
        shown._replace(preview=now.preview).write(text, hits, fits, False, searcher.kind)
        return hits

    def similar(hit: Hit, now: Settings) -> list[Hit]:
        hits = searcher.similar(hit, now.number)
        shown._replace(preview=now.preview).write(hit.key, hits, None, False, searcher.kind)
        return hits

    def sheet(file: Path, groups: Sequence[tuple[str, Sequence[Hit]]]) -> None:
        check_sheet(file, False)
        write_sheet(file, groups, searcher.kind == "image", False)

    Loop(Asked(query, similar, sheet), settings).run()


@with_options
def search(
    query: Annotated[
        list[str],
        typer.Argument(
            metavar="QUERY",
            help="Words, a picture, or a sum of them: '2:beach + ./me.jpg - crowd'. Each argument is a query.",
            show_default=False,
        ),
    ] = [],  # noqa: B006  Typer copies it
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
    interactive: Annotated[
        bool,
        typer.Option("--interactive", help="Ask for queries at a prompt; :help there says what else it takes."),
    ] = False,
    shown: ResultOptions = ResultOptions(),  # noqa: B008
) -> None:
    """Find what is like words or pictures.

    A line has the rank, the probability that it fits, the cosine and the path. Says so when nothing here fits.
    """
    from npsiglip.collection.query import parse

    if not query and not interactive:
        raise UsageError("give a QUERY, such as 'two dogs', or --interactive")
    check_stdout()
    check_sheet(shown.sheet, shown.opening)
    shown = shown.checked()
    queries = [parse(text) for text in query]
    with open_index(index) as opened:
        searcher = _Searcher(opened, options, template, usearch)
        _check(queries, searcher.kind, min_prob)
        with Activity() as activity:
            searcher.load(activity)
            activity.say("Searching")
            answers = searcher.find(queries, shown.number, min_prob) if queries else []
        groups = []
        for each, (hits, fits) in zip(queries, answers, strict=True):
            shown.write(each.text, hits, fits, len(queries) > 1, searcher.kind)
            groups.append((each.text, hits))
        if queries:
            write_sheet(shown.sheet, groups, searcher.kind == "image", shown.opening)
        if interactive:
            from npsiglip.cli.interactive import Settings

            _ask(searcher, shown, Settings(shown.number, min_prob, shown.preview))
