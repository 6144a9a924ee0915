"""`npsiglip convert`: between big_vision's npz and the folders of Hugging Face, open_clip and timm."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from npsiglip.cli.activity import Activity, find_model
from npsiglip.cli.console import note, warn
from npsiglip.cli.options import GeluOption, ImageHeadsOption
from npsiglip.folder_names import check_folder_name

if TYPE_CHECKING:
    from npsiglip.checkpoint import Checkpoint
    from npsiglip.config import SigLIPConfig


class FolderFormat(StrEnum):
    """Who reads a folder."""

    hugging_face = "hugging-face"
    open_clip = "open-clip"


class BlocksLayout(StrEnum):
    """How an npz holds the blocks of a tower."""

    blocks = "blocks"
    stacked = "stacked"


def _warn_of_losses(original: SigLIPConfig, came: SigLIPConfig, target: Path) -> None:
    """Say what the format had no place for."""
    for name, was, now in (("image", original.image, came.image), ("text", original.text, came.text)):
        if was and now and was.activation != now.activation:
            warn(
                f"the {name} tower computes {was.activation}, and {target} has no place to say so: whoever reads it "
                f"computes {now.activation}"
            )
    if original.image and came.image and original.image.mean and not came.image.mean:
        warn(f"the mean of the tokens is the embedding, and {target} has no place to say so: it ends with the tokens")


def _warn_of_crops(original: Checkpoint, target: Path) -> None:
    """Say that images are squashed where timm or open_clip would have cropped them."""
    from npsiglip.formats.told import HUGGING_FACE
    from npsiglip.processors import folder_processor

    if original.is_npz or original.form == HUGGING_FACE or original.config.image is None:
        return
    processor = folder_processor(original.source, original.config)
    if (
        not getattr(processor, "squash", True)
        or getattr(processor, "resized", None) != original.config.image.image_size
    ):
        warn(
            f"images are resized to {getattr(processor, 'resized', '?')} and cropped in the original, for which "
            f"{target} has no words: there they are squashed"
        )


def convert(
    source: Annotated[
        str,
        typer.Argument(metavar="IN", help="An .npz of big_vision; or a folder or name of a model.", show_default=False),
    ],
    target: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="A folder that holds no model; or the name of a new .npz.", show_default=False
        ),
    ],
    layout: Annotated[
        BlocksLayout,
        typer.Option("--layout", help="Of an .npz: blocks one by one, or all of a tower stacked in one tensor."),
    ] = BlocksLayout.blocks,
    bare: Annotated[bool, typer.Option("--bare", help='Of an .npz: names without "params/" before them.')] = False,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Of a folder: where the tokenizer's files are, which an .npz does not have.",
            show_default="beside IN",
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Of a folder: pixels along a side of an image.",
            show_default="patches x their size, or what the released model of these shapes has",
        ),
    ] = None,
    to: Annotated[
        FolderFormat | None,
        typer.Option(
            "--to",
            help="Of a folder: whose format. open-clip is timm's for an image tower alone.",
            show_default="hugging-face",
        ),
    ] = None,
    gelu: GeluOption = None,
    image_heads: ImageHeadsOption = None,
) -> None:
    """Convert a model between big_vision's npz and the folders of Hugging Face, open_clip and timm, without loss.

    What was written is read again and compared with the original, tensor by tensor, bit for bit.
    """
    if target.suffix.lower() != ".npz":
        check_folder_name(target, ", or NAME.npz for big_vision's format")
    path = find_model(source)
    with Activity() as activity:
        from npsiglip.checkpoint import Checkpoint
        from npsiglip.convert.formats import convert as convert_model
        from npsiglip.formats.big_vision_config import released
        from npsiglip.formats.big_vision_names import ROOT
        from npsiglip.formats.told import HUGGING_FACE, OPEN_CLIP, Told
        from npsiglip.params import count_params
        from npsiglip.texts.load import has_tokenizer

        told = Told(gelu, image_heads)
        forms = {None: None, FolderFormat.hugging_face: HUGGING_FACE, FolderFormat.open_clip: OPEN_CLIP}

        result = convert_model(
            path,
            target,
            layout is BlocksLayout.stacked,
            "" if bare else ROOT,
            tokenizer,
            image_size,
            lambda what: activity.say(f"{what.capitalize()} {target}"),
            forms[to],
            told,
        )
    dtypes = sorted({str(result.dtype_of(name)) for name in result})
    known = released(result.config)
    note(
        f"{target}: {count_params(result.config) / 1e6:,.1f} M parameters in {', '.join(dtypes)}, bit for bit those of "
        f"{source}" + (f"; the shapes are those of {known.name}" if known else "")
    )
    source_checkpoint = Checkpoint.open(path, told=told)
    _warn_of_losses(source_checkpoint.config, result.config, target)
    original, came = source_checkpoint.config.image, result.config.image
    if came and result.form == HUGGING_FACE and not result.is_npz:
        _warn_of_crops(source_checkpoint, target)
    if original and came and original.image_size != came.image_size and image_size is None:
        warn(
            f"an .npz does not tell that images have {original.image_size} pixels along a side: for whoever reads it "
            f"they have {came.image_size}"
        )
    if result.config.text and not result.is_npz and not has_tokenizer(target):
        files = "tokenizer.json and tokenizer_config.json" if result.config.text.is_siglip2 else "spiece.model"
        warn(f"{target} has no tokenizer: put {files} of the model into it, or convert again with --tokenizer FOLDER")
