"""`npsiglip classify`: which of the labels are in the images?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npsiglip.cli.activity import Activity, check_lengths
from npsiglip.cli.console import UsageError, note, one_line, out, quoted
from npsiglip.cli.options import CheckOption, ModelOptions, SkipOption, TruncateOption, with_options
from npsiglip.cli.output import check_stdout, results, to_json
from npsiglip.cli.pictures import Skipped, check_images, encode_good, expand
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.collection.calibrate import Calibration
    from npsiglip.model import SigLIP
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


def _held(score: Mapping[str, Any]) -> str:
    """What a check found of a score: "   0.99957123456789012 in float64, off by 1.2e-07: 6 digits hold"."""
    if "float64" not in score:
        return ""
    return f"   {score['float64']:.16g} in float64, off by {score['deviation']:.1e}: {score['digits']} digits hold"


def _checked(model: SigLIP, paths: list[str], labels: Sequence[str], texts: list[str]) -> list[list[Score]]:
    """Scores with what they are in float64, how far apart they are, and the digits that hold."""
    found = model.check(paths, texts)["probs"]
    rows = []
    for value, truth, deviation, digits in zip(found.value, found.truth, found.deviation, found.digits, strict=True):
        order = (-value).argsort(kind="stable")
        rows.append(
            [
                {
                    "label": labels[i],
                    "score": float(value[i]),
                    "float64": float(truth[i]),
                    "deviation": float(deviation[i]),
                    "digits": int(digits[i]),
                }
                for i in order
            ]
        )
    return rows  # type: ignore[return-value]


def _print_scores(image: str, scores: Sequence[Score]) -> None:
    """The image, and below it a line for each label; the decimal points and the labels below each other."""
    from rich.text import Text

    lines = [Text(one_line(image), "bold")]
    for score in scores:
        whole, point, digits = percent(score["score"]).partition(".")
        lines.append(
            Text.assemble((f"{whole:>5}{point}{digits:<8}", "cyan"), " ", one_line(score["label"]), _held(score))
        )
    out().print(Text("\n").join(lines))


def _calibration(place: Path | None, model: SigLIP) -> Calibration | None:
    """What was stored there for this model."""
    if place is None:
        return None
    with deferred():
        from npsiglip.collection.identity import calibration_at

    return calibration_at(place, model)


@with_options
def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE", help="Image files, folders, patterns; - for names in standard input.", show_default=False
        ),
    ],
    labels: Annotated[
        list[str],
        typer.Option("--label", "-l", metavar="LABEL", help="What could be in the images; give several."),
    ] = [],  # noqa: B006  Typer copies it
    options: ModelOptions = ModelOptions(),  # noqa: B008
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="The sentence that a label is put into, at its {}.")
    ] = "This is a photo of {}.",
    truncate: TruncateOption = False,
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="INDEX",
            help="Probabilities as `npsiglip calibrate` fitted them to this index, or to the index of this file.",
            show_default="the model's own",
        ),
    ] = None,
    skip_bad: SkipOption = False,
    check: CheckOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write a line of JSON for each image, at once.")] = False,
) -> None:
    """Tell which labels fit the images.

    Each score is a probability of its own, whether that label fits: scores do not add up to 100%, and none may fit.

    A model that was trained to classify has labels of its own, and is asked without any.
    """
    from npsiglip.zero_shot import fill_template, rank

    checkpoint = None
    if not labels and options.model:  # a classifier has its own
        with Activity() as activity:
            checkpoint = activity.open(options)
    if not labels and (checkpoint is None or checkpoint.config.classifier is None):
        raise UsageError("give labels, one at least, such as -l 'a cat' -l 'a dog'")
    if check and not labels:
        raise UsageError("--check compares with labels of your own (-l 'a cat'): a classifier's are not checked")
    if calibration and (check or not labels):
        why = "--check is of the model's own probabilities" if check else "a classifier's labels of its own have none"
        raise UsageError(f"--calibration is for labels of yours (-l 'a cat') against pictures: {why}")
    texts = fill_template(labels, template) if labels else []
    check_stdout()
    images, skipped = expand(images), Skipped(skip_bad)
    places = check_images(images, skipped)
    skipped.check(len(images))
    with Activity() as activity:
        siglip = activity.load(options, checkpoint)
        fitted = _calibration(calibration, siglip)
        ztxt = None
        if labels:
            check_lengths(siglip, texts, [f"the text of label {quoted(label)}" for label in labels], truncate)
            activity.say("Labels")
            ztxt = siglip.encode_text(texts)

        def scores_of(paths: list[str]) -> list[list[Score]]:
            if check:
                return _checked(siglip, paths, labels, texts)
            if ztxt is None:
                return siglip.classify(paths)
            output = siglip.compare(siglip.encode_image(paths), ztxt)
            return [rank(labels, row) for row in output.calibrated(fitted)]

        for batch in activity.passes(siglip, places):
            good, found = encode_good(siglip, images, batch, skipped, scores_of)
            with activity.paused(), results():
                for place, scores in zip(good, found or (), strict=True):
                    if as_json:
                        print(to_json({"image": images[place], "scores": scores}))
                    else:
                        _print_scores(images[place], scores)
    skipped.check(len(images))
    if skipped.places:
        note(skipped.summary(len(images)))
