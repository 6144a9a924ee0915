"""What was found, as a line, and as a contact sheet: one picture, or a page that needs no other file."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from tarfile import TarError
from typing import Any

from npsiglip.atomic import write_all
from npsiglip.cli.console import one_line
from npsiglip.cli.output import write_text
from npsiglip.collection.hits import Hit
from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

SIDE, EDGE, COLUMNS, LINE = 224, 10, 5, 14  # pixels of a picture and around it; pictures in a row; pixels of a line
_STYLE = (
    "body{font:14px sans-serif;margin:1em;background:#fff;color:#111}"
    "figure{display:inline-block;width:224px;margin:5px;vertical-align:top}img{max-width:224px;max-height:224px}figcaption{overflow-wrap:anywhere;color:#444}"
)


def line_of(hit: Hit, rank: int) -> str:
    """Such as `  1     94.2%   0.1234  photos/a.jpg`."""
    from npsiglip.cli.classify import percent

    shown = "" if hit.probability is None else percent(hit.probability)
    return f"{rank:>3} {shown:>9}  {hit.cosine:7.4f}  {one_line(hit.key)}"


def _caption(hit: Hit) -> str:
    from npsiglip.cli.classify import percent

    shown = "" if hit.probability is None else f"{percent(hit.probability)}  "
    return f"{shown}{hit.cosine:.4f}"


def thumbnail(key: str) -> Any:
    """A picture of `SIDE` pixels at most; grey where it cannot be read any more."""
    with deferred():
        from PIL import Image

    from npsiglip.collection.where import read_key
    from npsiglip.images.processor import load_image

    try:
        picture: Any = load_image(read_key(key))
    except (InputError, OSError, TarError):
        return Image.new("RGB", (SIDE, SIDE), "#bbb")
    picture.thumbnail((SIDE, SIDE))
    return picture


def _page(groups: Sequence[tuple[str, Sequence[Hit]]], pictures: bool) -> str:
    parts = [f"<!doctype html><meta charset=utf-8><title>npsiglip</title><style>{_STYLE}</style>"]
    for title, hits in groups:
        parts.append(f"<h2>{html.escape(one_line(title))}</h2>")
        for hit in hits:
            key, shown = html.escape(one_line(hit.key)), ""
            if pictures:
                data = io.BytesIO()
                thumbnail(hit.key).save(data, "JPEG", quality=85)
                shown = f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"><br>'
            parts.append(f"<figure>{shown}<b>{_caption(hit)}</b><figcaption>{key}</figcaption></figure>")
    return "\n".join(parts) + "\n"


def _picture(groups: Sequence[tuple[str, Sequence[Hit]]]) -> Any:
    with deferred():
        from PIL import Image, ImageDraw

    cell = SIDE + EDGE, SIDE + EDGE + 2 * LINE
    rows = sum(-(-max(1, len(hits)) // COLUMNS) for _, hits in groups)
    size = COLUMNS * cell[0] + EDGE, rows * cell[1] + len(groups) * 2 * LINE + EDGE
    whole, top = Image.new("RGB", size, "white"), EDGE
    draw = ImageDraw.Draw(whole)

    def write(x: int, y: int, text: str) -> None:
        draw.text((x, y), text.encode("latin-1", "replace").decode("latin-1"), fill="black")  # what its font has

    for title, hits in groups:
        write(EDGE, top, one_line(title))
        top += 2 * LINE
        for i, hit in enumerate(hits):
            x, y = EDGE + i % COLUMNS * cell[0], top + i // COLUMNS * cell[1]
            whole.paste(thumbnail(hit.key), (x, y))
            write(x, y + SIDE, _caption(hit))
            write(x, y + SIDE + LINE, one_line(hit.key)[-36:])
        top += -(-max(1, len(hits)) // COLUMNS) * cell[1]
    return whole


def sheet(file: Path, groups: Sequence[tuple[str, Sequence[Hit]]], pictures: bool) -> None:
    """Write what was found for each title, whole or not at all.

    Args:
        file: .png, or .html.
        groups: titles and what was found.
        pictures: whether items are pictures; texts need .html.

    Raises:
        InputError: texts as .png; it cannot be written.
    """
    if file.suffix.lower() == ".html":
        write_text(file, _page(groups, pictures))
        return
    if not pictures:
        raise InputError(f"--sheet {file}: texts are shown on a page, give a name that ends in .html")
    try:
        write_all(file.parent, {file.name: lambda path: _picture(groups).save(path, "PNG")})
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror or error})") from None
