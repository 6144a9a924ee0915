"""`npsiglip embed`: images and texts to a file of embeddings, NumPy's .npy or .safetensors."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from npsiglip.cli.console import (
    Activity,
    AdapterOption,
    DtypeOption,
    ModelOption,
    ThreadsOption,
    TruncateOption,
    check_images,
    check_lengths,
    is_file,
    note,
    quoted,
)
from npsiglip.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from npsiglip.model import SigLIP

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
    if os.access(argument, os.F_OK) or argument.startswith(("http://", "https://", "data:")):
        return Kind.IMAGE  # to be refused with a better reason
    raise InputError(
        f"{quoted(argument)} is spelt like an image file, and does not exist; check the path (working directory: "
        f"{Path.cwd()}), or pass --as text if all arguments are texts"
    )


def _refuse_output(output: Path, error: Exception) -> NoReturn:
    reason = getattr(error, "strerror", None) or error
    raise InputError(
        f"output {str(output)!r} cannot be written ({reason}); expected a name in a folder that exists and can be "
        "written, with space left"
    ) from None


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
        _refuse_output(output, error)


def _save(path: Path, embeddings: NDArray[np.float32], metadata: Mapping[str, object]) -> None:
    if path.suffix.lower() == ".npy":
        import numpy as np

        with path.open("wb") as file:  # given a name, NumPy may append another suffix to it
            np.save(file, embeddings)
    else:
        from safetensors.numpy import save_file

        save_file({"embeddings": embeddings}, path, {key: json.dumps(value) for key, value in metadata.items()})


def write(output: Path, target: Path, embeddings: NDArray[np.float32], metadata: Mapping[str, object]) -> None:
    """Write the file whole, or leave what was there.

    Args:
        output: the name as it was given, for a message.
        target: the file.
        embeddings: [N, D].
        metadata: for .safetensors, whose metadata are strings: each value as JSON.

    Raises:
        InputError: if it cannot be written.
    """
    from safetensors import SafetensorError

    from npsiglip.atomic import write_all

    try:
        write_all(target.parent, {target.name: lambda path: _save(path, embeddings, metadata)})
    except (OSError, SafetensorError) as error:
        _refuse_output(output, error)


def _encode(
    activity: Activity, model: SigLIP, inputs: Sequence[str], kinds: Sequence[Kind], normalize: bool, truncate: bool
) -> NDArray[np.float32]:
    """Embeddings [N, D] in the order of the inputs."""
    import numpy as np

    parts = {kind: [i for i, k in enumerate(kinds) if k is kind] for kind in (Kind.TEXT, Kind.IMAGE)}
    order, rows = [*parts[Kind.TEXT], *parts[Kind.IMAGE]], []
    if texts := [inputs[i] for i in parts[Kind.TEXT]]:
        check_lengths(model, texts, [f"text {quoted(text)}" for text in texts], truncate)
        activity.say("Texts")
        rows.append(model.encode_text(texts, normalize))
    images = [inputs[i] for i in parts[Kind.IMAGE]]
    rows += [model.encode_image(list(batch), normalize) for batch in activity.passes(model, images)]
    embeddings = np.concatenate(rows)
    embeddings[order] = embeddings.copy()
    return embeddings


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + ("" if n == 1 else "s")


def embed(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IMAGE|TEXT", help="Image files and texts.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to: .npy or .safetensors, float32 [N, D].", show_default=False
        ),
    ],
    model: ModelOption = None,
    kind: Annotated[
        Kind, typer.Option("--as", help="What the arguments are; auto: names of image files are images, else texts.")
    ] = Kind.AUTO,
    normalize: Annotated[bool, typer.Option(help="Scale each embedding to unit norm.")] = True,
    truncate: TruncateOption = False,
    adapter: AdapterOption = None,
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Write the embeddings of images and texts to a file.

    The rows are those of the arguments, in their order. A .safetensors file holds the tensor "embeddings" and, as
    metadata in JSON, the "inputs", their "kinds", whether they are "normalized", and the "dtype" of the computation.
    """
    target = check_output(output)
    kinds = [kind_of(argument) if kind is Kind.AUTO else kind for argument in inputs]
    check_images([argument for argument, k in zip(inputs, kinds, strict=True) if k is Kind.IMAGE])
    with Activity() as activity:
        siglip = activity.load(model, dtype, threads, adapter)
        embeddings = _encode(activity, siglip, inputs, kinds, normalize, truncate)
    metadata = {"inputs": inputs, "kinds": kinds, "normalized": normalize, "dtype": siglip.dtype}
    write(output, target, embeddings, metadata)
    what = [_count(n, k) for k in (Kind.IMAGE, Kind.TEXT) if (n := kinds.count(k))]
    note(f"{' and '.join(what)} in {output}: float32 {list(embeddings.shape)}")
