"""`npsiglip quantize`: a model folder in 8 bits, a quarter of the size, ready to be used without packing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from npsiglip.cli.activity import Activity, find_model
from npsiglip.cli.console import note
from npsiglip.cli.options import AdapterOption
from npsiglip.folder_names import check_folder_name


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.{0 if size >= 10e6 else 1}f} MB"


def quantize(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Model folder in Hugging Face's format, or a model's name.", show_default=False
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where to: a folder that holds no model.", show_default=False
        ),
    ],
    adapter: AdapterOption = None,
) -> None:
    """Write a model's weights in 8 bits, with all else it needs, to a folder.

    The folder is used like the original, as --model of other commands, and gives the same results as the original
    with --dtype int8. Other programs cannot read it.
    """
    check_folder_name(output)
    folder = find_model(model)
    with Activity() as activity:
        activity.tell_compiling()
        from npsiglip.convert.quantize import quantize_folder

        def say(name: str, number: int, count: int) -> None:
            activity.say(f"Quantising {name}")
            activity.count(number - 1, count)

        sizes = quantize_folder(folder, output, say, adapter)
    note(
        f"{output}: int8, {_megabytes(sizes.after)} of weights, {sizes.after / sizes.before:.0%} of the "
        f"{_megabytes(sizes.before)} of {model}"
    )
