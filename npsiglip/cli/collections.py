"""What commands on a collection share: the index that is opened, its model, its calibration, and what was found."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import note, one_line, out
from npsiglip.cli.options import ModelOptions, SixteenBit
from npsiglip.cli.output import check_places, results, to_json
from npsiglip.cli.sheet import line_of, sheet
from npsiglip.collection.hits import Hit
from npsiglip.errors import InputError
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from npsiglip.collection.calibrate import Calibration
    from npsiglip.collection.index import Index
    from npsiglip.collection.manifest import Manifest
    from npsiglip.model import SigLIP

NumberOption = Annotated[int, typer.Option("-k", metavar="K", min=1, help="How many to show, at most.")]
PathsOption = Annotated[bool, typer.Option("--paths", help="Write the paths alone, one a line, for other programs.")]
NullOption = Annotated[bool, typer.Option("--null", "-0", help="As --paths, each with a NUL behind it: `xargs -0`.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Write a line of JSON for each query.")]
SheetOption = Annotated[
    Path | None,
    typer.Option("--sheet", metavar="FILE", help="Write what was found as a picture (.png) or page (.html) as well."),
]
PreviewOption = Annotated[
    bool, typer.Option("--preview", help="Show the pictures in the terminal as well: pip install npsiglip[preview].")
]
OpenOption = Annotated[bool, typer.Option("--open", help="Open the file of --sheet.")]


def open_index(folder: Path) -> Index:
    """Open an index for reading; a context.

    Raises:
        InputError: there is none, or one that is damaged or of another version.
    """
    with deferred():
        from npsiglip.collection.index import Index

    return Index.open(folder)


def as_before(options: ModelOptions, known: Manifest) -> ModelOptions:
    """The options, with those that an index was made with where they say nothing."""
    from npsiglip.collection.index import loading

    told = loading(known)
    return options._replace(
        model=options.model or known.model,
        dtype=options.dtype or known.dtype,
        adapter=options.adapter or (Path(told["adapter"]) if told["adapter"] else None),
        sixteen_bit=SixteenBit(told["sixteen_bit"]),
    )


def load_model(activity: Activity, options: ModelOptions, index: Index) -> SigLIP:
    """The model that made the index, loaded as it was then.

    Raises:
        InputError: options ask for another one, or in another dtype.
    """
    from npsiglip.collection.index import check_model

    model = activity.load(as_before(options, index.manifest))
    check_model(index.manifest, model, index.folder)
    return model


def calibration_of(index: Index, model: SigLIP) -> Calibration | None:
    """What `npsiglip calibrate` stored with an index, else the model's own; a stored one of other weights is told.

    Raises:
        InputError: what was stored is damaged.
    """
    from npsiglip.collection.calibrate import FILE, of_model, read

    stored = read(index.folder)
    if stored and stored[1] == index.manifest.weights:
        return stored[0]
    if stored:
        path = index.folder / FILE
        note(
            f"{path} is of other weights than the index, and not used; run `npsiglip calibrate` again", "note:", "bold"
        )
    return of_model(model)


# -- what was found ---------------------------------------------------------------------------------------------------


def check_sheet(file: Path | None, opening: bool) -> None:
    """Refuse, before time is spent, a file that could not be written.

    Raises:
        InputError: another suffix than .png and .html, a place where no file can be.
    """
    if file is None:
        if opening:
            raise InputError("--open opens the file of --sheet: give one")
        return
    if file.suffix.lower() not in (".png", ".html"):
        raise InputError(f"--sheet {file}: expected a name that ends in .png or .html")
    check_places(file)


def write_sheet(file: Path | None, groups: Sequence[tuple[str, Sequence[Hit]]], pictures: bool, opening: bool) -> None:
    """The file of --sheet, if there is to be one, and open it if that is wanted."""
    if file is None:
        return
    sheet(file, groups, pictures)
    note(f"{sum(len(hits) for _, hits in groups)} results in {file}")
    if opening:
        typer.launch(str(file))


class ResultOptions(NamedTuple):
    """How many results, and how they are written."""

    number: NumberOption = 10
    paths: PathsOption = False
    null: NullOption = False
    as_json: JsonOption = False
    sheet: SheetOption = None
    opening: OpenOption = False
    preview: PreviewOption = False

    def checked(self) -> ResultOptions:
        """With previews only where they can be shown.

        Raises:
            InputError: a library is missing.
        """
        if not self.preview:
            return self
        from npsiglip.cli.preview import check_preview

        return self._replace(preview=check_preview(not (self.as_json or self.null or self.paths)))

    def write(self, title: str, hits: Sequence[Hit], fits: bool | None, many: bool, kind: str) -> None:
        """The results of one query in an index of this kind; `many`: of several, so that each has a title."""
        with results():
            if self.as_json:
                found = [
                    {"rank": i, "item": h.key, "probability": h.probability, "cosine": h.cosine}
                    for i, h in enumerate(hits, 1)
                ]
                print(to_json({"query": title, "fits": fits, "results": found}))
            elif self.null or self.paths:
                sys.stdout.flush()
                end = "\0" if self.null else "\n"
                sys.stdout.buffer.write("".join(hit.key + end for hit in hits).encode("utf-8", "surrogateescape"))
            else:
                lines = [one_line(title)] * many + [line_of(hit, i) for i, hit in enumerate(hits, 1)]
                if lines:
                    out().print("\n".join(lines))
                if self.preview and kind == "image" and hits:
                    from npsiglip.cli.preview import preview

                    preview(hits)
