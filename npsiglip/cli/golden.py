"""`npsiglip golden`: conformance packs, which ports in other languages are held to."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import note
from npsiglip.cli.options import ModelOption, ModelOptions

golden = typer.Typer(name="golden", rich_markup_mode=None, no_args_is_help=True)


class Format(StrEnum):
    """The files of a pack."""

    SAFETENSORS = "safetensors"
    NPZ = "npz"
    ONNX_PB = "onnx-pb"
    C = "c"


@golden.callback()
def _golden() -> None:
    """Write what ports of SigLIP in other languages are held to."""


@golden.command()
def export(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="PACK", help="The folder to write.")],
    kind: Annotated[
        Format,
        typer.Option(
            "--format",
            help="Its files: one .safetensors, one .npz, ONNX's test data, or raw numbers with headers for C.",
        ),
    ] = Format.SAFETENSORS,
    model: ModelOption = None,
) -> None:
    """Write a conformance pack: inputs, weights, golden results and tolerances, from single operations to rankings.

    --model tiny is a small model of random weights, for unit tests. docs/packs.md says what is in a pack, and how a
    port's tests use it. `npsiglip verify --pack PACK --candidate FOLDER` scores a port.
    """
    with Activity() as activity:
        from npsiglip.verify.packs_export import TINY, export, tiny_model

        name = model or "builtin"
        loaded = tiny_model() if name == TINY else activity.load(ModelOptions(model=name))
        activity.say("Computing")
        checks = export(loaded, output, kind.value, name)
    levels = Counter(check.level for check in checks)
    size = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    said = ", ".join(f"{number} at level {level}" for level, number in levels.items())
    note(f"{output}: {len(checks)} checks ({said}), {size / 1e6:,.1f} MB")
