"""`npsiglip explain`: a page that shows what a model does with a picture and some labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from npsiglip.cli.activity import Activity, check_lengths
from npsiglip.cli.console import UsageError, note
from npsiglip.cli.options import ModelOptions, TruncateOption, with_options
from npsiglip.cli.output import check_places, write_text

MOST_LABELS = 8


@with_options
def explain(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="The picture.", show_default=False)],
    labels: Annotated[
        list[str], typer.Option("--label", "-l", metavar="LABEL", help="A text to compare it with; give several.")
    ] = [],  # noqa: B006  Typer copies it
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The page.")] = Path("page.html"),
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="The sentence that a label is put into, at its {}.")
    ] = "{}",
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Whether the page carries the model, and computes with it in the browser.",
            show_default="if the model is small",
        ),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="FOLDER", help="A training of `npsiglip train`, for the last panel."),
    ] = None,
    checkpoints: Annotated[
        list[Path],
        typer.Option(
            "--checkpoint",
            metavar="FOLDER",
            help="A model folder of that training, its name ends in its step; several.",
        ),
    ] = [],  # noqa: B006
    truncate: TruncateOption = False,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Write a page that shows, in eleven panels, what a SigLIP does with a picture and labels: one file, no server.

    Made from a float64 trace. With the built-in model, or another small one, the page carries the model: labels,
    picture, temperature, bias and heads can be changed in the browser. docs/explain.md.
    """
    from npsiglip.zero_shot import fill_template

    if not labels:
        raise UsageError("give labels: -l 'a cat' -l 'a dog'")
    if len(labels) > MOST_LABELS:
        raise UsageError(f"{len(labels)} labels; a page has room for {MOST_LABELS}")
    check_places(output)
    texts = fill_template(labels, template)
    with Activity() as activity:
        model = activity.load(options)
        from npsiglip.explain.page import explain as make

        check_lengths(model, texts, [f"the label {label!r}" for label in labels], truncate)
        activity.say("Computing")
        name = options.model or "builtin"
        name = Path(name).name if Path(name).exists() else name  # the page is given away: no paths of this machine
        text = make(
            model, image, labels, texts, template=template, name=name, live=live, run=run, checkpoints=checkpoints
        )
    write_text(output, text)
    note(f"{output}: {output.stat().st_size / 1e6:,.1f} MB, open it in a browser")
