"""`npsiglip calibrate`: probabilities that hold in an index, from labelled pairs or from queries alone."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import load_model, open_index
from npsiglip.cli.console import UsageError, note, quoted
from npsiglip.cli.options import INDEX, IndexOption, ModelOptions, with_options
from npsiglip.cli.output import check_stdout, results, to_json
from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.collection.calibrate import Calibration
    from npsiglip.collection.exact import Shards
    from npsiglip.collection.index import Index
    from npsiglip.model import SigLIP

COLUMNS = ("query", "item", "match")
YES, NO = ("1", "true", "yes", "y"), ("0", "false", "no", "n")
BEST, DRAWN = 1000, 2000  # for an estimate: rows that are most like a query, and others at random
FOLDS, LEAST = 5, 50  # parts that are left out in turn; pairs from which on that says anything


def read_pairs(path: Path) -> list[tuple[str, str, bool]]:
    """Queries, items and whether they match, from a CSV with these columns.

    Raises:
        InputError: it cannot be read, lacks a column, or has another word for yes and no; names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                raise InputError(f"{path} has no column {', '.join(missing)}; expected query,item,match")
            pairs = []
            for row in reader:
                word = (row["match"] or "").strip().lower()
                if word not in YES + NO or not row["query"] or not row["item"]:
                    raise InputError(
                        f"{path}, line {reader.line_num}: expected a query, an item, and 0 or 1; got {row}"
                    )
                pairs.append((row["query"], row["item"], word in YES))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error})") from None
    return pairs


def _row(index: Index, item: str, beside: Path) -> int:
    row = index.number(item)
    row = index.number(str(beside / item)) if row is None else row
    if row is not None:
        return row
    raise InputError(f"{quoted(item)} is not in the index {str(index.folder)!r}")


def _cosines(model: SigLIP, index: Index, shards: Shards, pairs: Sequence[tuple[str, str, bool]], beside: Path) -> Any:
    with deferred():
        import numpy as np

    from npsiglip.collection.query import embed, parse

    texts = list(dict.fromkeys(query for query, _, _ in pairs))
    vectors = dict(zip(texts, embed(model, [parse(text) for text in texts]), strict=True))
    rows = shards.take([_row(index, item, beside) for _, item, _ in pairs])
    return np.einsum("ij,ij->i", np.stack([vectors[query] for query, _, _ in pairs]).astype(np.float64), rows)


def fitted(cosines: Any, matched: Any, own: Calibration | None, share: float | None) -> Calibration:
    """From labelled pairs; the bias alone if a cosine separates them."""
    from npsiglip.collection.calibrate import fit, separation

    if separation(cosines, matched) and own:
        return fit(cosines, matched, own.scale, share)
    return fit(cosines, matched, None, share)


def left_out(cosines: Any, matched: Any, own: Calibration | None) -> Any:
    """The probability of each pair by what is fitted to others, a fifth of all left out at a time; None: too few."""
    with deferred():
        import numpy as np

    folds = np.random.default_rng(0).permutation(len(cosines)) % FOLDS
    if len(cosines) < LEAST or any(len(set(matched[folds != fold])) < 2 for fold in range(FOLDS)):
        return None
    found = np.empty(len(cosines))
    for fold in range(FOLDS):
        here = folds == fold
        found[here] = fitted(cosines[~here], matched[~here], own, None).probabilities(cosines[here])
    return found


def estimated(shards: Shards, gone: Any, queries: Any, scale: float, matches: float) -> Calibration:
    """From queries alone: their best rows, and rows drawn at random that stand for all others; none that is `gone`."""
    with deferred():
        import numpy as np

    from npsiglip.collection.calibrate import by_share
    from npsiglip.collection.exact import search

    gone = np.zeros(len(shards), bool) if gone is None else gone
    number = len(shards) - int(gone.sum())
    if not len(queries) or not 0 < matches < number:
        raise InputError(
            f"an estimate needs queries, and more than 0 and less than {number} matches of each; got {len(queries)} "
            f"queries and {matches!r} matches"
        )
    best = search(shards, queries, BEST, gone)
    cosines, weights = [best.scores[best.numbers >= 0]], [np.ones((best.numbers >= 0).sum())]
    for query, numbers in zip(queries, best.numbers, strict=True):
        others = ~gone
        others[numbers[numbers >= 0]] = False
        left = np.flatnonzero(others)
        if len(left):
            drawn = np.sort(np.random.default_rng(0).choice(left, min(DRAWN, len(left)), replace=False))
            cosines.append(shards.take(drawn) @ query)
            weights.append(np.full(len(drawn), len(left) / len(drawn)))
    return by_share(np.concatenate(cosines), scale, matches / number, np.concatenate(weights))


def _report(calibration: Calibration, own: Calibration | None, measured: dict[str, float]) -> str:
    def number(name: str) -> str:
        interval = getattr(calibration, f"{name}_interval")
        text = f"{name} {getattr(calibration, name):.4g}" + (
            f" ({interval[0]:.4g} to {interval[1]:.4g})" if interval else ""
        )
        return text + (f", the model's {getattr(own, name):.4g}" if own else "")

    parts = [number("scale"), number("bias"), f"from {calibration.pairs} {calibration.how}"]
    parts += [f"{name} {value:.4f}" for name, value in measured.items()]
    return "; ".join(parts)


@with_options
def calibrate(
    pairs: Annotated[
        Path | None,
        typer.Argument(metavar="[PAIRS]", help="A CSV of labelled pairs: query,item,match.", show_default=False),
    ] = None,
    index: IndexOption = INDEX,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    share: Annotated[
        float | None,
        typer.Option(metavar="P", help="The part of all pairs that match, if more of the labelled ones do."),
    ] = None,
    estimate: Annotated[
        Path | None,
        typer.Option("--estimate", metavar="FILE", help="No labels: queries, one a line, as people ask them."),
    ] = None,
    matches: Annotated[
        float, typer.Option(metavar="N", help="For --estimate: how many items match a query, on average.")
    ] = 1.0,
    as_json: Annotated[bool, typer.Option("--json", help="Write it as JSON.")] = False,
) -> None:
    """Fit probabilities to an index; `npsiglip search` uses them from then on.

    From labelled pairs: the most likely scale and bias, with intervals of 95%. Without: the bias by which the
    probabilities of a query of --estimate add up to its matches.
    """
    if (pairs is None) == (estimate is None):
        raise UsageError("give a CSV of labelled pairs, or --estimate with a file of queries")
    check_stdout()
    labelled = read_pairs(pairs) if pairs else []
    with open_index(index) as opened:
        shards, gone = opened.searched()
        with Activity() as activity:
            model = load_model(activity, options, opened)
            with deferred():
                import numpy as np

                from npsiglip.collection import calibrate as fitting
                from npsiglip.collection.exchange import read_names
                from npsiglip.collection.query import embed, parse
                from npsiglip.evaluation.scores import calibration as measure

            own, measured = fitting.of_model(model), {}
            if pairs:
                activity.say("Pairs")
                cosines = _cosines(model, opened, shards, labelled, pairs.absolute().parent)
                matched = np.array([match for _, _, match in labelled])
                found = fitted(cosines, matched, own, share)
                if found.how == fitting.BIAS:
                    note(
                        "a cosine separates the labelled pairs: the model's scale is kept, and the bias alone is fitted"
                    )
                held_out = left_out(cosines, matched, own) if share is None else None
                if held_out is not None and own:
                    measured["calibration error of pairs that were left out"] = measure(held_out, matched).ece
                    measured["of the model"] = measure(own.probabilities(cosines), matched).ece
            else:
                assert estimate is not None
                if own is None:
                    raise InputError("a single tower has no scale: an estimate needs a model with both")
                activity.say("Queries")
                queries = embed(model, [parse(line) for line in read_names(estimate) if line.strip()])
                found = estimated(shards, gone, queries, own.scale, matches)
        fitting.write(opened.folder, found, opened.manifest.weights)
    with results():
        if as_json:
            print(to_json(found.to_dict() | {"measured": measured}))
        else:
            print(_report(found, own, measured))
