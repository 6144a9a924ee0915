"""`npsiglip index`: folders of pictures, or files of texts, become an index; what is in one; whether it is whole."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from npsiglip.cli.activity import Activity
from npsiglip.cli.collections import as_before
from npsiglip.cli.console import UsageError, note, one_line, quoted
from npsiglip.cli.options import INDEX, IndexOption, ModelOptions, with_options
from npsiglip.cli.output import check_stdout, results, to_json
from npsiglip.errors import InputError

if TYPE_CHECKING:
    from npsiglip.collection.build import Built
    from npsiglip.collection.manifest import Manifest
    from npsiglip.collection.records import Failure
    from npsiglip.collection.store import Store
    from npsiglip.model import SigLIP

BUILD = "build"
_SHOWN = 20  # of what is skipped


class _Group(TyperGroup):
    """Takes places where others have a command's name: `npsiglip index photos` is `npsiglip index build photos`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = [BUILD, *args]
        return super().parse_args(ctx, args)


index = typer.Typer(name="index", cls=_Group, rich_markup_mode=None, no_args_is_help=True)


class Kind(StrEnum):
    """What is in an index."""

    IMAGE = "image"
    TEXT = "text"


class EngineName(StrEnum):
    """Who embeds."""

    HERE = "here"
    RAY = "ray"


class Rows(StrEnum):
    """The type of its rows."""

    FLOAT16 = "float16"
    FLOAT32 = "float32"


@index.callback()
def _index() -> None:
    """Embed folders of pictures once, and keep the rows: `npsiglip index FOLDER -i INDEX`.

    The next run on the same folder embeds what is new or changed, and drops what is gone. A folder that is named like
    one of the commands is written ./info.
    """


def _known(folder: Path) -> Manifest | None:
    """Of an index that is there already."""
    from npsiglip.collection.manifest import FILE, Manifest

    return Manifest.read(folder) if (folder / FILE).exists() else None


def _rate(built: Built) -> str:
    """How quick it is: "12.3 files/s, 148 megapixels/s"."""
    seconds = max(built.seconds, 1e-9)
    done = built.new + built.changed + built.failed - built.still
    pixels = f", {built.pixels / seconds / 1e6:,.3g} megapixels/s" if built.pixels else ""
    return f"{done / seconds:,.3g} {'files' if built.pixels else 'items'}/s{pixels}"


def _left(built: Built, total: int) -> str:
    """How long the rest will take."""
    done = built.new + built.changed + built.failed - built.still
    seconds = int((total - built.seen) * built.seconds / max(done, 1))
    hours, minutes = divmod(seconds // 60, 60)
    if hours:
        return f", {hours} h {minutes} min left"
    return f", {minutes} min left" if minutes else f", {seconds} s left"


def _summary(built: Built, kind: str, folder: Path) -> str:
    """What a run did."""
    parts = [f"{built.new:,} new"]
    for number, what in ((built.changed, "changed"), (built.same, "as before"), (built.dropped, "dropped")):
        parts += [f"{number:,} {what}"] if number else []
    text = f"{built.items:,} {kind}{'' if built.items == 1 else 's'} in {folder}: {', '.join(parts)}"
    if built.failed:
        again = f" ({built.still:,} of them known and unchanged)" if built.still else ""
        listed = f"`npsiglip index info --failures -i {folder}` lists them"
        text += f"; skipped {built.failed:,} that cannot be used{again}, {listed}"
        text += ", --retry tries them again" if built.still else ""
    return f"{text}; {_rate(built)}" if built.new or built.changed else text


@index.command(BUILD)
@with_options
def build(
    where: Annotated[
        list[str],
        typer.Argument(
            metavar="WHERE",
            help="Folders, patterns such as 'photos/**/*.jpg', files, .tar, .csv, .jsonl, .parquet, URLs; - for names "
            "from standard input, one a line or separated by NULs.",
            show_default=False,
        ),
    ],
    index: IndexOption = INDEX,
    options: ModelOptions = ModelOptions(),  # noqa: B008
    kind: Annotated[
        Kind, typer.Option("--as", help="What is in WHERE: pictures; or texts, one a line or in a column.")
    ] = Kind.IMAGE,
    ignore: Annotated[
        list[str],
        typer.Option(metavar="PATTERN", help="Names, or paths within a folder, that are left out; give several."),
    ] = [],  # noqa: B006  Typer copies it
    column: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The column of a .csv, .jsonl or .parquet.", show_default="the one with a usual name"
        ),
    ] = None,
    rows: Annotated[
        Rows | None, typer.Option(help="The type of rows.", show_default="that of the index; of a new one, float32")
    ] = None,
    shard_rows: Annotated[
        int | None,
        typer.Option(
            "--shard-rows",
            metavar="N",
            min=1,
            help="Rows of a shard, of a new index: what a power cut can cost.",
            show_default="2048",
        ),
    ] = None,
    fast_decode: Annotated[
        bool | None,
        typer.Option(
            "--fast-decode/--no-fast-decode",
            help="Decode JPEGs at 1/2, 1/4 or 1/8 of their size: faster, and other pixels.",
            show_default="as the index was made; of a new one, off",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N",
            help="Only part I of N, by a hash of the names, into INDEX-I-of-N, which `npsiglip index merge` puts "
            "together.",
            show_default="all",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first file that cannot be used.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Try files again that could not be used and have not changed.")
    ] = False,
    drop_all: Annotated[
        bool, typer.Option("--drop-all", help="Drop what was in a folder in which nothing is left.")
    ] = False,
    engine: Annotated[
        EngineName,
        typer.Option(
            help="Who embeds: this process, or workers of the Ray cluster that RAY_ADDRESS names or that runs here."
        ),
    ] = EngineName.HERE,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="For --engine ray: processes, each with --threads.", show_default="one a machine"
        ),
    ] = None,
) -> None:
    """Embed what is new or changed, drop what is gone.

    A run that is ended at any moment goes on when it is started again. Files that cannot be used are told, with the
    reason, and skipped until they change; exits with 0 if one at least is in the index.
    """
    from npsiglip.collection.where import WHOLE, Part, Where

    if workers is not None and engine is not EngineName.RAY:
        raise UsageError("--workers says how many processes --engine ray has; without it there is this one")
    part = Part.parse(shard) if shard else WHOLE
    folder = Path(f"{index}-{part.number}-of-{part.parts}") if shard else index
    places = Where(where, kind.value, ignore, column, part)
    known = _known(folder)
    with Activity() as activity:
        siglip = activity.load(as_before(options, known) if known and options.model is None else options)
        from npsiglip.collection.build import build

        total = 0
        if activity.is_shown and places.can_be_counted:
            activity.say("Counting")
            total = places.count()
        activity.say("Images" if kind is Kind.IMAGE else "Texts")
        told = 0

        def progress(built: Built) -> None:
            activity.say(_rate(built) + (_left(built, total) if total else ""))
            if total:
                activity.count(min(built.seen, total), total)

        def skipped(failure: Failure) -> None:
            nonlocal told
            told += 1
            if told <= _SHOWN:
                note(f"{quoted(failure.key)}: {failure.reason}", "skipped:", "bold yellow")

        built = build(
            places,
            folder,
            siglip,
            name=_model_name(options, known),
            rows=rows.value if rows else None,
            fast_decode=fast_decode if kind is Kind.IMAGE else None,
            shard_rows=shard_rows,
            threads=options.threads,
            strict=strict,
            drop_all=drop_all,
            retry=retry,
            engine=_engine(engine, siglip, workers, options.threads),
            progress=progress,
            skipped=skipped,
        )
    if told > _SHOWN:
        note(f"{told - _SHOWN:,} more", "skipped:", "bold yellow")
    if not built.items and built.failed:
        raise InputError(f"none of the {built.failed:,} inputs can be used")
    note(_summary(built, kind.value, folder))


def _engine(name: EngineName, model: SigLIP, workers: int | None, threads: int | None) -> Any:
    """For `npsiglip.collection.build.build`."""
    if name is EngineName.HERE:
        return None
    from npsiglip.collection.ray import cluster

    return partial(cluster, model, workers=workers, threads=threads)


def _model_name(options: ModelOptions, known: Manifest | None) -> str | None:
    """What loads the model again, from any folder."""
    name = options.model or (known.model if known else "builtin")
    return str(Path(name).absolute()) if Path(name).exists() else name


def _facts(store: Store) -> dict[str, Any]:
    """What there is to say of an index."""
    known = store.manifest
    files = [path for path in store.folder.iterdir() if path.is_file()]
    count = "SELECT COUNT(*) FROM failures"
    return {
        "index": str(store.folder),
        "items": len(store),
        "kind": known.kind,
        "failures": store.database.execute(count).fetchone()[0],
        "rows": known.rows,
        "width": known.width,
        "shards": len(store.shards()),
        "bytes": sum(path.stat().st_size for path in files),
        "model": known.model,
        "dtype": known.dtype,
        "weights": known.weights,
        "preprocessing": known.preprocessing,
        "versions": known.versions,
    }


@index.command()
def info(
    index: IndexOption = INDEX,
    failures: Annotated[bool, typer.Option("--failures", help="List what could not be used, and why.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON; with --failures, a line for each.")] = False,
) -> None:
    """Tell what is in an index, and what it was made with."""
    check_stdout()
    from npsiglip.collection.store import Store

    with Store.open(index) as store, results():
        if failures:
            for failure in store.failures():
                line = {"key": failure.key, "reason": failure.reason}
                print(to_json(line) if as_json else f"{one_line(failure.key)}: {one_line(failure.reason)}")
            return
        facts = _facts(store)
        if as_json:
            print(to_json(facts))
            return
        for fact, value in facts.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            print(f"{fact:14} {one_line(f'{value:,}' if isinstance(value, int) else shown)}")


@index.command()
def check(
    index: IndexOption = INDEX,
    repair: Annotated[
        bool, typer.Option("--repair", help="Forget items whose rows are lost: the next run embeds them again.")
    ] = False,
) -> None:
    """Read all of an index, and tell what is damaged, what is lost by it, and what to do. Exits with 1 if anything is.

    With --repair, exits with 0 once nothing is damaged any more.
    """
    check_stdout()
    from npsiglip.collection import damage

    found = damage.check(index)
    with results():
        for each in found:
            lost = "" if each.lost is None else f", {each.lost:,} items are lost"
            print(one_line(f"{each.what}{lost}: {each.repair}"))
    if not found:
        note(f"{index} is whole")
    elif repair:
        forgotten = damage.repair(index)
        note(f"{index}: {forgotten:,} items were forgotten; the next `npsiglip index` embeds them again")
    else:
        raise typer.Exit(1)


@index.command()
def merge(
    indexes: Annotated[list[Path], typer.Argument(metavar="INDEX...", help="Indexes.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="INDEX", help="The index to make.", show_default=False)
    ],
) -> None:
    """Put indexes of the same model together, such as the parts that --shard makes, in the order of the names."""
    if output in indexes:
        raise UsageError("the index to make is one of those that are put together: give it another name")
    from npsiglip.collection.merge import merge

    note(f"{merge(indexes, output):,} items in {output}")
