"""`npsiglip classify`: which of the labels are in the images?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import floor, log10
from typing import TYPE_CHECKING, Annotated

import typer

from npsiglip.cli.console import (
    Activity,
    DtypeOption,
    ModelOption,
    ThreadsOption,
    TruncateOption,
    check_images,
    check_lengths,
    find_model,
    one_line,
    out,
    quoted,
    results,
)

if TYPE_CHECKING:
    from npsiglip.zero_shot import Score


def percent(score: float) -> str:
    """A probability in percent, with two digits that tell it from 0 and from 100: 94.2%, 0.0031%, 99.9984%.

    A sigmoid's probabilities are mostly tiny, and all of them mean something. Below 0.0001%: 7.2e-9%.
    """
    value = 100 * score
    if 0 < value < 1e-4:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits}e{int(exponent)}%"
    distance = min(value, 100 - value)
    decimals = 1 - floor(log10(distance)) if distance > 0 else 1
    return f"{value:.{min(max(decimals, 1), 6)}f}%"  # float32 has no more than 6 near 100%


def _print_scores(image: str, scores: Sequence[Score]) -> None:
    """The image, and below it a line for each label; the decimal points and the labels below each other."""
    from rich.text import Text

    lines = [Text(one_line(image), "bold")]
    for score in scores:
        whole, point, digits = percent(score["score"]).partition(".")
        lines.append(Text.assemble((f"{whole:>5}{point}{digits:<8}", "cyan"), " ", one_line(score["label"])))
    out().print(Text("\n").join(lines))


def _has_classifier(model: str | None) -> bool:
    from npsiglip.checkpoint import Checkpoint

    return Checkpoint.open(find_model(model)).config.classifier is not None


def classify(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE", help="Image files.", show_default=False)],
    labels: Annotated[
        list[str],
        typer.Option("--label", "-l", metavar="LABEL", help="What could be in the images; give several."),
    ] = [],  # noqa: B006  Typer copies it
    model: ModelOption = None,
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="The sentence that a label is put into, at its {}.")
    ] = "This is a photo of {}.",
    truncate: TruncateOption = False,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write a JSON list, with every digit.")] = False,
) -> None:
    """Tell which labels fit the images.

    Each score is a probability of its own, whether that label fits: scores do not add up to 100%, and none may fit.

    A model that was trained to classify has labels of its own, and is asked without any.
    """
    from npsiglip.zero_shot import fill_template, rank

    if not labels and not _has_classifier(model):
        raise typer.BadParameter("give at least one, such as -l 'a cat' -l 'a dog'", param_hint="--label / -l")
    texts = fill_template(labels, template) if labels else []
    check_images(images)
    found = []
    with Activity() as activity:
        siglip = activity.load(model, dtype, threads)
        ztxt = None
        if labels:
            check_lengths(siglip, texts, [f"the text of label {quoted(label)}" for label in labels], truncate)
            activity.say("Labels")
            ztxt = siglip.encode_text(texts)
        for paths in activity.passes(siglip, images):
            if ztxt is None:
                scores_of = siglip.classify(list(paths))
            else:
                scores_of = [rank(labels, row) for row in siglip.compare(siglip.encode_image(list(paths)), ztxt).probs]
            ranked = list(zip(paths, scores_of, strict=True))
            if as_json:
                found += [{"image": path, "scores": scores} for path, scores in ranked]
                continue
            with activity.paused(), results():
                for path, scores in ranked:
                    _print_scores(path, scores)
    if as_json:
        with results():
            print(json.dumps(found, indent=2, allow_nan=False), flush=True)
