"""`npsiglip verify`: where does a port go wrong; and do released checkpoints give the published numbers?"""

from __future__ import annotations

import os
import shlex
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npsiglip.cli import packs as of_packs
from npsiglip.cli import published as of_published
from npsiglip.cli.activity import Activity
from npsiglip.cli.console import UsageError, note, out
from npsiglip.cli.options import ModelOptions, PortDtypeOption, with_options
from npsiglip.cli.output import check_places, check_stdout, finite, results, to_json, write_text
from npsiglip.errors import InputError, NpsiglipError

if TYPE_CHECKING:
    from npsiglip.verify import Golden, Report

CANNOT_TELL = 2


def _run(command: str, seconds: float) -> None:
    """Run what leaves the candidate.

    Raises:
        InputError: it fails, or takes too long.
    """
    try:
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        raise InputError(f"the command {command!r} took more than {seconds:g} s: give more with --timeout") from None
    except (OSError, ValueError) as error:
        raise InputError(f"the command {command!r} cannot be run: {error}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise InputError(f"the command {command!r} ended with exit code {done.returncode}: {' / '.join(said)}")


def _golden(
    activity: Activity, options: ModelOptions, path: Path | None, images: list[str], labels: list[str], template: str
) -> Golden:
    """The truth: of a golden trace's inputs, or of images and labels."""
    from npsiglip.verify.files import read_traces
    from npsiglip.verify.golden import Golden, weights_hash
    from npsiglip.verify.operations import IDS, PIXELS
    from npsiglip.zero_shot import fill_template

    if path is None:
        model = activity.load(options)
        texts = fill_template(labels, template) if labels else None
        return Golden(model, images or None, texts, options.model or "builtin")
    stored = read_traces(path)
    if PIXELS not in stored and IDS not in stored:
        raise InputError(f"{path} has neither {PIXELS} nor {IDS}: write it again with npsiglip trace, without --taps")
    name = options.model or stored.meta.get("model")
    if not name:
        raise InputError(f"{path} does not tell its model: give --model")
    checkpoint = activity.open(options._replace(model=name))
    weights = stored.meta.get("weights")
    if weights is not None and weights != weights_hash(checkpoint):
        raise InputError(f"{path} is a trace of other weights than {name}'s: give the --model that it was made with")
    model = activity.load(options._replace(model=name), checkpoint)
    golden = Golden(model, stored.get(PIXELS), stored.get(IDS), name)
    golden.before = {tap: stored[tap] for tap in stored if tap.startswith(("image.decoded", "image.resized"))}
    golden.pictures = [stored[tap] for tap in stored if tap.startswith("image.decoded")]
    golden.texts = list(stored.meta.get("texts", ()))
    return golden


def _command(
    candidate: str, golden: Path | None, images: list[str], labels: list[str], names: str, options: ModelOptions
) -> str:
    """The command that does this again."""
    parts = ["npsiglip", "verify", candidate, *images]
    for label in labels:
        parts += ["-l", label]
    parts += ["--golden", str(golden)] if golden else []
    parts += ["--model", options.model] if options.model else []
    parts += ["--dtype", options.dtype] if options.dtype else []
    parts += ["--names", names] if names != "auto" else []
    return shlex.join(parts)


def _show(report: Report, everything: bool) -> None:
    lines = [report.sentence(), ""]
    if report.taps:
        lines += [report.table(everything), ""]
    lines += [report.said_of_coverage(), f"again: {report.repeat}"]
    out().print("\n".join(lines))


@partial(with_options, dtype=PortDtypeOption)
def verify(
    candidate: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CANDIDATE IMAGE",
            help="The trace of a port (.safetensors, .npz, or a folder), and the images that it is of. With "
            "--published, names of released checkpoints.",
            show_default=False,
        ),
    ] = None,
    labels: Annotated[
        list[str], typer.Option("--label", "-l", metavar="LABEL", help="The labels that the trace is of.")
    ] = [],  # noqa: B006  Typer copies it
    golden: Annotated[
        Path | None,
        typer.Option("--golden", metavar="FILE", help="What npsiglip trace wrote, instead of images and labels."),
    ] = None,
    names: Annotated[
        str,
        typer.Option(metavar="WHOSE", help="Whose names: npsiglip, hf, timm, big_vision, gguf, onnx, or auto."),
    ] = "auto",
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="The sentence that a label is put into, at its {}.")
    ] = "This is a photo of {}.",
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="COMMAND", help="Run this first; it must leave CANDIDATE.", show_default=False),
    ] = None,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long --run or a --candidate may take.")] = 600,
    junit: Annotated[
        Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit's XML, too.", show_default=False)
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page to look at, too.", show_default=False)
    ] = None,
    pack: Annotated[
        Path | None,
        typer.Option(
            metavar="PACK", help="Score --candidate by what npsiglip golden export wrote.", show_default=False
        ),
    ] = None,
    port: Annotated[
        str | None,
        typer.Option(
            "--candidate",
            metavar="FOLDER",
            help="With --pack: the port's results; or a command, which is given the folders of the pack and for its "
            "results as last arguments.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Show every tap.")] = False,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    published: Annotated[
        bool, typer.Option("--published", help="Compare with the numbers that Hugging Face published.")
    ] = False,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            metavar="FOLDER",
            help="With --published: a folder with the pictures, under their own names.",
            show_default="they are fetched",
        ),
    ] = None,
    json_wanted: Annotated[bool, typer.Option("--json", help="Write JSON, with every digit.")] = False,
) -> None:
    """Find where a port of SigLIP goes wrong: which operation first, by how much, and by which known mistake.

    The candidate's own input of each operation goes through our float64 operation, so that an error which was added is
    told from one that came in. Exits with 0 if the port conforms, 1 if it diverges, and 2 if nothing can be told.

    With --published: check released checkpoints, which are downloaded if they are not here, against published numbers.
    """
    given = candidate or []
    if published:
        of_published.run(given, files, json_wanted)
        return
    if pack is not None or port is not None:
        if given or labels or golden or run:
            raise UsageError("--pack brings its own inputs: give --candidate, and no images, labels, --golden or --run")
        of_packs.run(pack, port, options.dtype, timeout, junit, json_wanted)
        return
    if not given:
        raise UsageError("give the trace of a port, or --published to check released checkpoints")
    trace, images = given[0], given[1:]
    if golden is None and not images and not labels:
        raise UsageError("say what the trace is of: --golden FILE, or the images and labels (-l 'a cat')")
    if golden is not None and (images or labels):
        raise UsageError("give --golden, or images and labels, not both")
    check_stdout()
    try:
        check_places(junit, html)
        report = _verified(trace, images, labels, golden, names, template, run, timeout, options, html)
        if junit:
            write_text(junit, report.junit())
    except NpsiglipError as error:
        note(str(error), "error:", "bold red")
        raise typer.Exit(CANNOT_TELL) from None
    with results():
        if json_wanted:
            print(to_json(finite(report.to_dict()), indent=2))
        else:
            _show(report, every)
    raise typer.Exit(report.exit_code)


def _verified(
    trace: str,
    images: list[str],
    labels: list[str],
    golden: Path | None,
    names: str,
    template: str,
    run: str | None,
    timeout: float,
    options: ModelOptions,
    html: Path | None,
) -> Report:
    with Activity() as activity:
        if run:
            activity.say("Running the candidate")
            _run(run, timeout)
        from npsiglip.verify.files import read_traces
        from npsiglip.verify.verdict import verify as compared

        tensors = read_traces(os.fspath(trace))
        activity.say("Loading the model")
        truth = _golden(activity, options._replace(dtype=None), golden, images, labels, template)
        activity.say("Comparing")
        repeat = _command(trace, golden, images, labels, names, options)
        settings: Any = truth.processor
        report = compared(tensors, truth, names, options.dtype, settings, truth.tokenizer, repeat)
        if html:
            from npsiglip.verify.html import page

            write_text(html, page(report, tensors, truth, names))
        return report
