"""`npsiglip trace`: everything that a model computes of some images and texts, written to a file."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import UsageError, note
from npsiglip.cli.options import ModelOptions, TraceDtypeOption, with_options
from npsiglip.errors import InputError


@partial(with_options, dtype=TraceDtypeOption)
def trace(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Image files.", show_default=False)
    ] = None,
    labels: Annotated[
        list[str],
        typer.Option("--label", "-l", metavar="LABEL", help="Texts, put into the template; give several."),
    ] = [],  # noqa: B006  Typer copies it
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="Where to: .safetensors or .npz."),
    ] = Path("golden.safetensors"),
    taps: Annotated[
        list[str],
        typer.Option("--taps", metavar="GLOB", help="Only these, such as 'image.blocks.00.*'; give several."),
    ] = [],  # noqa: B006
    template: Annotated[
        str, typer.Option(metavar="TEXT", help="The sentence that a label is put into, at its {}.")
    ] = "This is a photo of {}.",
    gradients: Annotated[
        bool,
        typer.Option("--gradients", help="The loss and the gradient of every parameter, too; label i is of image i."),
    ] = False,
    options: ModelOptions = ModelOptions(),  # noqa: B008
) -> None:
    """Write every intermediate result of images and labels to a file, in float64.

    The names are those of docs/glossary.md, in the order of the forward pass; metadata tell the model, hashes of its
    weights and of the inputs, and versions.
    """
    from npsiglip.zero_shot import fill_template

    if not images and not labels:
        raise UsageError("give images, labels (-l 'a cat') or both")
    texts = fill_template(labels, template) if labels else None
    with Activity() as activity:
        dtype = options.dtype or "float64"
        model = activity.load(options._replace(dtype=None))
        from npsiglip.verify.golden import DTYPES, Golden, write_trace

        if dtype not in DTYPES:
            raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")
        activity.say("Computing")
        golden = Golden(model, images or None, texts, options.model or "builtin", gradients)
        number = write_trace(output, golden, taps, dtype)
    note(f"{output}: {number:,} tensors in {dtype}, {output.stat().st_size / 1e6:,.1f} MB")
