"""`npsiglip world`: pictures with captions from the procedural world, to look at or to train on."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import note


class Split(StrEnum):
    """Which of a seed's two streams."""

    TRAIN = "train"
    TEST = "test"


class Unseen(StrEnum):
    """What training never meets."""

    COMBINATIONS = "combinations"
    STYLES = "styles"
    WORDINGS = "wordings"


def world(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FOLDER|NAME.tar",
            help="Where to: a WebDataset tar, or a folder of the same files.",
            show_default=False,
        ),
    ],
    count: Annotated[int, typer.Option(metavar="N", help="How many pictures.")] = 100,
    seed: Annotated[int, typer.Option(metavar="N", help="Which world.")] = 0,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Side of the pictures, 32 to 512.")] = 64,
    split: Annotated[Split, typer.Option(help="Pictures to train on, or others to test with.")] = Split.TRAIN,
    unseen: Annotated[
        list[Unseen] | None,
        typer.Option(help="In the test split: only what training never meets; may be repeated.", show_default=False),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier run has written.")] = False,
) -> None:
    """Write pictures of coloured shapes and letters with captions, each drawn from its number.

    Of every sample, there are a picture (.png), its caption (.txt) and what is in it (.json).
    """
    with Activity() as activity:
        from npsiglip.world import World
        from npsiglip.world.shards import write_samples

        activity.say("Drawing")
        write_samples(World(seed, size, split, unseen=unseen or ()), count, out, force, activity.count)
    note(f"{count} picture{'' if count == 1 else 's'} with captions in {out}")
