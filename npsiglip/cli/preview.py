"""Pictures in the terminal: pixels where it can show them (kitty, and those with Sixel), half blocks elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from npsiglip.cli.console import out
from npsiglip.cli.sheet import thumbnail
from npsiglip.collection.hits import Hit

WIDTH = 24  # columns of a picture


def check_preview(wanted: bool) -> bool:
    """Whether pictures are shown: not where results go to a file or a pipe.

    Raises:
        InputError: the library is not installed.
    """
    if not (wanted and out().is_terminal):
        return False
    from npsiglip.extras import library

    library("textual_image.renderable", "preview")  # asks the terminal what it can show
    return True


def preview(hits: Sequence[Hit], first: int = 1) -> None:
    """Show pictures beside each other, as many in a row as there is room for, each with its rank."""
    from rich.console import Group
    from rich.table import Table

    from npsiglip.extras import library

    image = library("textual_image.renderable", "preview").Image
    console = out()
    columns = max(1, console.width // (WIDTH + 1))
    for start in range(0, len(hits), columns):
        row = hits[start : start + columns]
        table = Table.grid(padding=(0, 1, 0, 0))
        for _ in row:
            table.add_column(width=WIDTH)
        shown = [
            Group(str(first + start + i), image(thumbnail(hit.key), width=WIDTH, height="auto"))
            for i, hit in enumerate(row)
        ]
        table.add_row(*shown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the library is behind Pillow
            console.print(table, soft_wrap=False)
