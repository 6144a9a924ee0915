"""`npsiglip compare`: one picture and one list of labels, several models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import UsageError, one_line, out
from npsiglip.cli.output import check_stdout, results, to_json
from npsiglip.cli.pictures import Skipped, check_images
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.comparison.compare import Comparison
    from npsiglip.comparison.scores import Agreement, Scores


def _cell(name: str, value: float) -> str:
    from npsiglip.cli.classify import percent

    if name == "rank":
        return f"{int(value)}"
    return percent(value) if name in ("sigmoid", "softmax") else f"{value:.4f}"


def _table(scores: Scores) -> list[str]:
    """The columns that a model has, under its name; labels by its rank."""
    from npsiglip.comparison.scores import MEANING

    columns = {name: [_cell(name, values[i]) for i in scores.order] for name, values in scores.columns().items()}
    widths = {name: max(len(name), *map(len, cells)) for name, cells in columns.items()}
    lines = [
        f"{one_line(scores.model)}  ({scores.kind}: {MEANING[scores.kind]})",
        "  " + "  ".join(f"{name:>{widths[name]}}" for name in columns) + "  label",
    ]
    for row, i in enumerate(scores.order):
        cells = "  ".join(f"{columns[name][row]:>{widths[name]}}" for name in columns)
        lines.append(f"  {cells}  {one_line(scores.labels[i])}")
    return lines


def _agreement(each: Agreement) -> str:
    same = "the same best label" if each.same_best else "another best label"
    correlation = "" if each.correlation is None else f", rank correlation {each.correlation:.2f}"
    return f"  {one_line(each.first)}, {one_line(each.second)}: {same}{correlation}"


def _lines(found: Comparison) -> list[str]:
    lines: list[str] = []
    for name in found.sets:
        if name:
            lines += [f"== {one_line(name)}"]
        for scores in found.scores[name].values():
            lines += [*_table(scores), ""]
        if between := found.between_models(name):
            lines += ["agreement of models", *map(_agreement, between), ""]
    if len(found.sets) > 1:
        for model in found.models:
            lines += [f"agreement of languages, {one_line(model)}", *map(_agreement, found.between_sets(model)), ""]
    return lines[:-1]


def _labels_of(file: Path) -> object:
    from npsiglip.errors import InputError
    from npsiglip.json_files import ERRORS, parse

    try:
        found = parse(file.read_bytes())
    except (OSError, *ERRORS) as error:
        raise InputError(f"{file} cannot be read as JSON ({error}); expected labels") from None
    sets = list(found.values()) if isinstance(found, dict) else [found]
    if not all(isinstance(each, list) and all(isinstance(label, str) for label in each) for each in sets):
        raise InputError(f'{file}: expected a list of labels, or lists by their languages: {{"en": ["a cat"], ...}}')
    return found


def compare(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image file.", show_default=False)],
    labels: Annotated[
        list[str], typer.Option("--label", "-l", metavar="LABEL", help="What could be in the image; give several.")
    ] = [],  # noqa: B006  Typer copies it
    labels_file: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            metavar="FILE",
            help='JSON: a list of labels, or the same labels in several languages: {"en": [...], "de": [...]}.',
        ),
    ] = None,
    models: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="A name or a folder; or clip:NAME, st:NAME, open_clip:NAME, https://HOST/v1#MODEL, file:X.npz. "
            "Give several.",
            show_default="builtin",
        ),
    ] = [],  # noqa: B006
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="The sentence that a label is put into, at its {}; of all models.")
    ] = "This is a photo of {}.",
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show what several models say of an image, each in its own kind of numbers.

    All have the same labels in the same template. A sigmoid's probabilities, a softmax's shares and bare cosines are
    different things, and stand in different columns; what can be compared between models is the order of the labels.

    Models of other libraries need the extra `compare`: pip install 'npsiglip[compare]'.
    """  # fmt: skip
    if bool(labels) == (labels_file is not None):
        raise UsageError("give labels: either -l 'a cat' -l 'a dog', or --labels FILE")
    check_stdout()
    check_images([image], Skipped(False))
    given = labels or _labels_of(labels_file)  # type: ignore[arg-type]
    with Activity() as activity:
        activity.tell_compiling()
        with deferred():
            from npsiglip.comparison.compare import compare as run

        activity.say("Comparing")
        found = run(image, given, models or ["builtin"], template)  # type: ignore[arg-type]
    with results():
        if as_json:
            print(to_json({"image": image, "template": template, **found.to_dict()}))
        else:
            out().print("\n".join(_lines(found)))
