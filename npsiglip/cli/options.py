"""Options that several commands have, with one name, one help and one meaning.

Those that say which model is loaded and how come together: a command that has a parameter of type `ModelOptions`, and
is given to `with_options`, has all of them; and so for any other tuple class of options.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_type_hints

import typer


class SixteenBit(StrEnum):
    """What becomes of grey pictures of 16 bits."""

    CLIP = "clip"
    SCALE = "scale"


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        envvar="NPSIGLIP_MODEL",
        help="A name that `npsiglip models` lists, OWNER/NAME or OWNER/NAME@REVISION of the Hugging Face Hub, or a "
        "folder in the format of Hugging Face, open_clip or timm.",
        show_default="builtin, a small model of emoji, drawings and groceries",
    ),
]
AdapterOption = Annotated[
    Path | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="A LoRA adapter of the model, as PEFT saves it, to be merged into it.",
        show_default=False,
    ),
]
TruncateOption = Annotated[
    bool, typer.Option("--truncate", help="Ignore the end of a text that is too long, instead of refusing it.")
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="What to compute in: float32, bfloat16 or int8.",
        show_default="float32, or int8 for a quantised model",
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Threads to run on.", show_default="all cores that this process may use"),
]

GeluOption = Annotated[
    str | None,
    typer.Option(
        "--gelu",
        metavar="FORM",
        help="The form of GELU: tanh, SigLIP's, or erf, which open_clip computes in many models; or erf,tanh for "
        "images and texts.",
        show_default="what the model's files say",
    ),
]
ImageHeadsOption = Annotated[
    int | None,
    typer.Option(
        "--image-heads",
        metavar="N",
        min=1,
        help="Heads of the image tower, for a folder of open_clip or timm that does not tell.",
        show_default="what the model's files say",
    ),
]
MegapixelsOption = Annotated[
    float | None,
    typer.Option(
        "--max-megapixels",
        metavar="N",
        help="The largest picture that is decoded, in millions of pixels.",
        show_default="89, Pillow's",
    ),
]
SixteenBitOption = Annotated[
    SixteenBit,
    typer.Option(
        "--sixteen-bit", help="Grey pictures of 16 bits: clip them at 255, as transformers does, or scale them."
    ),
]
SkipOption = Annotated[
    bool,
    typer.Option(
        "--skip-bad",
        help="Go on without images that cannot be used, and tell which. Exits with 0 if one at least could be used.",
    ),
]
IndexOption = Annotated[
    Path, typer.Option("--index", "-i", metavar="INDEX", envvar="NPSIGLIP_INDEX", help="The folder of the index.")
]
INDEX = Path("npsiglip-index")

CheckOption = Annotated[
    bool,
    typer.Option("--check", help="Compute everything in float64 as well, and show which digits hold. Slow."),
]


class ModelOptions(NamedTuple):
    """Which model, and how it is loaded: see `SigLIP.from_pretrained`."""

    model: ModelOption = None
    adapter: AdapterOption = None
    dtype: DtypeOption = None
    threads: ThreadsOption = None
    max_megapixels: MegapixelsOption = None
    sixteen_bit: SixteenBitOption = SixteenBit.CLIP
    gelu: GeluOption = None
    image_heads: ImageHeadsOption = None


TraceDtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="What to compute as: float64, the truth; or as an honest port in float32, bfloat16, float16 or int8.",
        show_default="float64",
    ),
]
PortDtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        metavar="NAME",
        help="What the port computes in: float32, bfloat16, float16 or int8.",
        show_default="what its numbers look like; int8 has to be said",
    ),
]


def with_options(command: Callable[..., None], **other: Any) -> Callable[..., None]:
    """The command with an option for each field of those of its parameters whose type is a named tuple.

    Args:
        command: the command.
        other: field -> its own option, where that means something else.
    """
    hints = get_type_hints(command, include_extras=True)
    groups = {name: kind for name, kind in hints.items() if hasattr(kind, "_fields")}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        kind = groups.get(parameter.name)
        if kind is None:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        fields = {**get_type_hints(kind, include_extras=True), **other}
        parameters += [
            inspect.Parameter(field, parameter.kind, default=kind._field_defaults[field], annotation=fields[field])
            for field in kind._fields
        ]

    @functools.wraps(command)
    def wrapped(**given: Any) -> None:
        options = {name: kind(**{field: given.pop(field) for field in kind._fields}) for name, kind in groups.items()}
        command(**given, **options)

    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters} | {"return": None}
    return wrapped
