"""`npsiglip embed`: images and texts to a file of embeddings, NumPy's .npy or .safetensors."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from npsiglip.cli.console import (
    is_file,
)
from npsiglip.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


# Names that nobody means as a text. Which formats can be read is up to Pillow.
_IMAGE_NAME = re.compile(r"[/\\]|\.(avif|bmp|gif|heic|ico|jfif|jp2|jpe?g|pgm|png|ppm|tga|tiff?|webp)$", re.IGNORECASE)


class Kind(StrEnum):
    """What the arguments are."""

    AUTO = "auto"
    IMAGE = "image"
    TEXT = "text"


def kind_of(argument: str) -> Kind:
    """An image if there is such a file, or if it is spelt like one; otherwise a text.

    Raises:
        InputError: spelt like an image file that is not there: embedding its name would be a silent mistake.
    """
    if is_file(argument):
        return Kind.IMAGE
    if not _IMAGE_NAME.search(argument):
        return Kind.TEXT
    if Path(argument).exists() or argument.startswith(("http://", "https://", "data:")):
        return Kind.IMAGE  # to be refused with a better reason
    raise InputError(
        f"{argument!r} is spelt like an image file, and does not exist; check the path (working directory: "
        f"{Path.cwd()}), or pass --as text if all arguments are texts"
    )


def _save_npy(path: Path, embeddings: NDArray[np.float32]) -> None:
    import numpy as np

    with path.open("wb") as file:  # given a name, NumPy may append another suffix to it
        np.save(file, embeddings)


def _save_safetensors(
    path: Path, embeddings: NDArray[np.float32], inputs: Sequence[str], kinds: Sequence[Kind], normalized: bool
) -> None:
    from safetensors.numpy import save_file

    metadata = {"inputs": json.dumps(inputs), "kinds": json.dumps(kinds), "normalized": json.dumps(normalized)}
    save_file({"embeddings": embeddings}, path, metadata=metadata)


def check_output(output: Path) -> Path:
    """The file to write, links followed; refuses, before time is spent, what could not be written at the end.

    Raises:
        InputError: another suffix than .npy and .safetensors, a folder, or a place where no file can be made.
    """
    if output.suffix.lower() not in (".npy", ".safetensors"):
        raise InputError(f"output {str(output)!r} must end in .npy or .safetensors, which decides on the format")
    try:
        target = output.resolve()
        if target.is_dir():
            raise InputError(f"output {str(output)!r} is a folder; expected the name of a file")
        with tempfile.TemporaryFile(dir=target.parent):
            return target
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        refuse_output(output, error)


def refuse_output(output: Path, error: Exception) -> NoReturn:
    reason = getattr(error, "strerror", None) or error
    raise InputError(
        f"output {str(output)!r} cannot be written ({reason}); expected a name in a folder that exists and can be "
        "written, with space left"
    ) from None
