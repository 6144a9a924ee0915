"""From a name to the folder of a model: "builtin" is the one that this package brings, any other name a path.

Leaves out: names of released checkpoints, and downloads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

BUILTIN: Final = "builtin"


def model_folder(folder_or_name: str | Path) -> Path:
    """The folder of the model `folder_or_name`; whether there is one is not looked at.

    Args:
        folder_or_name: "builtin", or a path. A folder of that name is "./builtin".
    """
    if folder_or_name == BUILTIN:  # a str: Path("builtin") is a path
        return Path(__file__).parent / "data" / BUILTIN
    return Path(folder_or_name)
