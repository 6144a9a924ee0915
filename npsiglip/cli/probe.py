"""`npsiglip probe`: a classifier for one's own classes, on the features of an image tower."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import note, one_line, out, warn
from npsiglip.cli.options import ModelOptions, with_options
from npsiglip.cli.output import check_stdout, results, to_json
from npsiglip.folder_names import check_folder_name


def _print(report: Mapping[str, Any]) -> None:
    accuracy, classes = report["accuracy"], report["classes"]
    out().print(
        f"{report['pictures']:,} pictures of {len(classes):,} classes; of pictures that were held out "
        f"{100 * accuracy['value']:.1f} % ({100 * accuracy['low']:.1f} - {100 * accuracy['high']:.1f}) right, "
        f"mean of classes {100 * report['balanced']:.1f} %"
    )
    out().print(
        f"{report['loss']}, regularisation {report['strength']:.2g}, by {report['folds']}-fold cross-validation"
    )
    rows = [("class", "pictures", "right")]
    rows += [
        (one_line(name), f"{found['pictures']:,}", f"{100 * found['right']:.1f} %") for name, found in classes.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        out().print("  ".join((name.ljust(widths[0]), *numbers)))


@with_options
def probe(
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="WHERE",
            help="A folder of classes, CSV or JSONL tables, or WebDataset tars.",
            show_default=False,
        ),
    ],
    target: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the classifier is written.", show_default=False)
    ],
    options: ModelOptions = ModelOptions(),  # noqa: B008
    labels: Annotated[
        list[str], typer.Option("--label", "-l", metavar="KEY", help="Column or key with the name of the class.")
    ] = [],  # noqa: B006  Typer copies it
    picture: Annotated[str, typer.Option(metavar="KEY", help="Column with the picture's file.")] = "picture",
    loss: Annotated[
        str,
        typer.Option(metavar="NAME", help="softmax: one class is right; sigmoid: each is asked alone, none may be."),
    ] = "softmax",
    folds: Annotated[int, typer.Option(metavar="N", min=2, help="Parts of the cross-validation.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object, with every digit.")] = False,
) -> None:
    """Fit a linear classifier to one's own classes, on the features of a model that stays as it is.

    Writes a folder that `npsiglip classify` takes as --model, without labels, and transformers as
    SiglipForImageClassification. How often it will be right is measured on pictures that were held out, with the
    interval of 95 %.
    """
    from npsiglip.evaluation.probe import check_options, check_target, tower_of, write
    from npsiglip.evaluation.probe import probe as fit
    from npsiglip.pairs.guess import open_collection

    check_stdout()
    check_folder_name(target)
    check_options(loss, folds)
    pairs = open_collection(where, labels, (), picture)
    with Activity() as activity:
        checkpoint = activity.open(options)
        check_target(target, checkpoint)
        activity.tell_compiling()
        tower = tower_of(checkpoint, options.dtype, options.threads)
        activity.say("Images")
        found = fit(tower, pairs, loss, folds, activity.count)
        write(target, checkpoint, tower, found)
    for name, reason in list(found.report["skipped"].items())[:5]:
        warn(f"passed over: {name}: {reason}")
    if (more := len(found.report["skipped"]) - 5) > 0:
        warn(f"and {more:,} more (--json names all)")
    note(f"{target}: the classifier; npsiglip classify IMAGE --model {target}")
    with results():
        if as_json:
            print(to_json(found.report, indent=2))
        else:
            _print(found.report)
