"""`npsiglip warmup`: the kernels of a model, compiled ahead of time."""

from __future__ import annotations

from typing import Annotated

import typer

from npsiglip.cli.activity import Activity, find_model
from npsiglip.cli.console import note
from npsiglip.cli.options import ModelOption


def warmup(
    model: ModelOption = None,
    dtypes: Annotated[
        list[str],
        typer.Option(
            "--dtype",
            metavar="NAME",
            help="What will be computed in: float32, bfloat16 or int8; give several.",
            show_default="all that the model can",
        ),
    ] = [],  # noqa: B006  Typer copies it
    train: Annotated[bool, typer.Option("--train", help="Compile what `npsiglip train` needs, too.")] = False,
) -> None:
    """Compile the kernels of a model ahead of time, and tell where they are kept.

    For the image of a container and for shared clusters: set NUMBA_CACHE_DIR to a folder of the image, run this once,
    and set it where the kernels are used, which may then be read-only. Models of one kind need the same kernels,
    whatever their size. The CPU must be of the same type.
    """
    folder = find_model(model)
    with Activity() as activity:
        activity.tell_compiling()
        from npsiglip.warmup import warm_up

        warm = warm_up(folder, dtypes, train, activity.say)
    note(
        f"{warm.folder}: {warm.files} kernels, {warm.size / 1e6:.1f} MB, {warm.compiled} of them compiled now; they "
        "are found where NUMBA_CACHE_DIR or the user's cache folder is the same"
    )
