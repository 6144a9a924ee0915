"""`npsiglip evaluate`: how well does a model do on pictures of one's own?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import note, one_line, out, warn
from npsiglip.cli.options import ModelOptions, with_options
from npsiglip.cli.output import check_stdout, results, to_json


def _part(share: Mapping[str, Any]) -> str:
    """A share in percent, with its interval: 71.3 % (68.2 - 74.2)."""
    return f"{100 * share['value']:.1f} % ({100 * share['low']:.1f} - {100 * share['high']:.1f})"


def _rows(report: Mapping[str, Any]) -> tuple[str, list[tuple[str, ...]]]:
    """A headline and the rows of a table, the first of them its heads."""
    if "texts" in report:
        headline = f"{report['pictures']:,} pictures of {report['classes']:,} classes"
        if report["unknown"]:
            headline += f", {report['unknown']:,} of none of them"
        rows: list[tuple[str, ...]] = [("template", "top-1", "top-5", "mean of classes", "ECE", "known or not")]
        for text, found in report["texts"].items():
            area = found["unknown_auroc"]
            scores = _part(found["top1"]), _part(found["top5"]), f"{100 * found['balanced']:.1f} %"
            rows.append(
                (
                    one_line(text),
                    *scores,
                    f"{found['calibration']['ece']:.4f}",
                    "" if area is None else f"AUROC {area:.3f}",
                )
            )
        return headline, rows
    headline = (
        f"{report['pictures']:,} pictures, {report['captions']:,} captions; ECE {report['calibration']['ece']:.4f}"
    )
    rows = [("", *(f"R@{k}" for k in report["image_to_text"]))]
    for key, label in (("image_to_text", "image to text"), ("text_to_image", "text to image")):
        rows.append((label, *(_part(share) for share in report[key].values())))
    return headline, rows


def _print(report: Mapping[str, Any]) -> None:
    headline, rows = _rows(report)
    used = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in used]
    out().print(headline)
    for row in zip(*used, strict=True):
        out().print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


@with_options
def evaluate(
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="WHERE",
            help="A folder of classes, a folder of pictures with a .txt beside each, CSV or JSONL tables, or "
            "WebDataset tars.",
            show_default=False,
        ),
    ],
    options: ModelOptions = ModelOptions(),  # noqa: B008
    labels: Annotated[
        list[str], typer.Option("--label", "-l", metavar="KEY", help="Column or key with the name of the class.")
    ] = [],  # noqa: B006  Typer copies it
    captions: Annotated[
        list[str],
        typer.Option("--caption", "-c", metavar="KEY", help="Column or key with captions: retrieval is measured."),
    ] = [],  # noqa: B006
    picture: Annotated[str, typer.Option(metavar="KEY", help="Column with the picture's file.")] = "picture",
    templates: Annotated[
        list[str],
        typer.Option(
            "--template",
            metavar="TEXT",
            help="Sentence for names, with {}; several are measured one by one and as an ensemble.",
            show_default="This is a photo of {}.",
        ),
    ] = [],  # noqa: B006
    unknown: Annotated[
        list[str],
        typer.Option("--unknown", metavar="WHERE", help="Pictures of none of the classes: are they told apart?"),
    ] = [],  # noqa: B006
    seen: Annotated[
        list[str],
        typer.Option("--seen", metavar="WHERE", help="Pictures that the model was trained on: are any measured again?"),
    ] = [],  # noqa: B006
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Pictures at most, drawn at random.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="Draw reliability and classes: .png, .svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON object, with every digit and class.")] = False,
) -> None:
    """Measure a model on a collection: zero-shot accuracy or retrieval, calibration, known against unknown.

    Shares come with the interval of 95 %. ECE is the expected calibration error of the probabilities of all pairs.
    Pictures that cannot be decoded are passed over, and named.
    """
    from npsiglip.evaluation.duplicates import duplicates
    from npsiglip.evaluation.measure import classification, retrieval
    from npsiglip.pairs.guess import open_collection, open_pictures
    from npsiglip.zero_shot import DEFAULT_TEMPLATE, fill_template

    check_stdout()
    for template in templates:
        fill_template(["x"], template)
    pairs = open_collection(where, labels, captions, picture)
    others = open_pictures(unknown) if unknown else None
    trained = open_pictures(seen) if seen else None
    with_names = any(pairs.words(i).names for i in range(len(pairs)))
    language = captions[0].split("=")[0] if captions and "=" in captions[0] else "en"
    with Activity() as activity:
        siglip = activity.load(options)
        activity.say("Images")
        if with_names:
            wording: Sequence[str] = templates or (DEFAULT_TEMPLATE,)
            report = classification(siglip, pairs, wording, "en", limit, others, activity.count)
        else:
            report = retrieval(siglip, pairs, language, limit, activity.count)
        if trained:
            activity.say("Duplicates")
            report["duplicates"] = duplicates(pairs, trained)
    for name, reason in list(report["skipped"].items())[:5]:
        warn(f"passed over: {name}: {reason}")
    if (more := len(report["skipped"]) - 5) > 0:
        warn(f"and {more:,} more (--json names all)")
    if found := report.get("duplicates"):
        name, other = next(iter(found.items()))
        count = f"{len(found):,} of {len(pairs):,} pictures are among those of --seen, or nearly"
        warn(f"{count}: {name} is {other} (--json names all)")
    if plot:
        from npsiglip.evaluation.plots import draw

        draw(plot, report)
        note(f"drawn: {plot}")
    with results():
        if as_json:
            print(to_json(report, indent=2))
        else:
            _print(report)
