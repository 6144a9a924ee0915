"""`npsiglip models`: the models that were released, what they take, and which of them are on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npsiglip.cli.console import note, out, quoted
from npsiglip.cli.output import check_stdout, results, to_json

if TYPE_CHECKING:
    from rich.table import Table

    from npsiglip.config import SigLIPConfig

WIDTH = 100  # columns
DTYPES = ("float32", "bfloat16", "int8")

NOTES = """\
Download: about 4 bytes a parameter, in float32. Then the memory that packed weights take in each dtype; work
arrays, Python and kernels come on top, and a text's table of tokens stays in its file. Here: in
{cache};
partly: files are missing, or another revision is there.
Get a model with `npsiglip models --fetch NAME`, or by using it, as --model NAME of other commands."""


def _size(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def _here(repo: str) -> str:
    """Whether a repository's files are in the cache."""
    from npsiglip.errors import CheckpointError
    from npsiglip.hub.cache import cached_snapshot, missing_files, repository_folder

    snapshot = cached_snapshot(repo)
    try:
        if snapshot and not missing_files(snapshot):
            return "yes"
    except CheckpointError:
        pass
    return "partly" if repository_folder(repo).is_dir() else ""


def _others() -> Iterator[tuple[str, SigLIPConfig]]:
    """Further SigLIP models in the cache."""
    from npsiglip.checkpoint import Checkpoint
    from npsiglip.config import SigLIPConfig
    from npsiglip.errors import CheckpointError
    from npsiglip.formats.told import HUGGING_FACE, folder_form
    from npsiglip.hub.cache import cache_folder, cached_snapshot
    from npsiglip.variants import VARIANTS

    released = {variant.repo for variant in VARIANTS.values()}
    for folder in sorted(cache_folder().glob("models--*--*")):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        snapshot = cached_snapshot(repo)
        if snapshot and repo not in released:
            try:
                foreign = folder_form(snapshot) != HUGGING_FACE
                yield repo, Checkpoint.open(snapshot).config if foreign else SigLIPConfig.from_folder(snapshot)
            except CheckpointError:
                continue  # of another kind


def _rows() -> Iterator[dict[str, Any]]:
    """The built-in model, those released, and others that are in the cache; sizes in bytes."""
    from npsiglip.config import SigLIPConfig
    from npsiglip.hub.resolve import BUILTIN, model_folder
    from npsiglip.params import count_params
    from npsiglip.towers.footprint import packed_bytes
    from npsiglip.variants import VARIANTS

    def row(name: str, repo: str | None, config: SigLIPConfig, here: str) -> dict[str, Any]:
        params = count_params(config)
        memory = {dtype: round(packed_bytes(config, dtype)) for dtype in DTYPES}
        download = 4 * params if repo else None
        return {
            "name": name, "repository": repo, "parameters": params, "download": download, "memory": memory, "here": here
        }  # fmt: skip

    yield row(BUILTIN, None, SigLIPConfig.from_folder(model_folder(BUILTIN)), "yes")
    for name, variant in VARIANTS.items():
        yield row(name, variant.repo, variant.config, _here(variant.repo))
    for repo, config in _others():
        yield row(repo, repo, config, _here(repo))


def table() -> Table:
    """The same, to look at."""
    from rich.table import Table

    result = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    result.add_column("name", no_wrap=True)
    for title in ("params", "download", *DTYPES):
        result.add_column(title, justify="right", no_wrap=True)
    result.add_column("here", no_wrap=True)
    for row in _rows():
        download = "-" if row["download"] is None else _size(row["download"])
        memory = map(_size, row["memory"].values())
        result.add_row(row["name"], f"{row['parameters'] / 1e6:,.1f} M", download, *memory, row["here"])
    return result


def models(
    fetch: Annotated[
        str | None,
        typer.Option(
            "--fetch",
            metavar="NAME",
            help="Download this model, or NAME@REVISION, as it is at the Hub now, and print its folder.",
            show_default=False,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help='Write a JSON list, sizes in bytes; "here" is "yes", "partly" or "no".')
    ] = False,
) -> None:
    """List the released models: size, memory, and which are on this machine.

    They are Hugging Face's repositories google/NAME; the licence of their weights is stated there.
    """
    from npsiglip.errors import InputError
    from npsiglip.hub import cache, resolve

    if fetch is not None:
        check_stdout()
        if fetch.strip().lower() == resolve.BUILTIN:
            raise InputError(f"{quoted(fetch)} is in the package, and need not be fetched")
        found = cache.find_repository(fetch)
        if found is None:
            raise InputError(f"{quoted(fetch)} is no OWNER/NAME and no released model: {cache.hint(fetch)}see the list")
        folder = resolve.fetch(*found, note)
        with results():
            out().print(str(folder))
        return
    check_stdout()
    if as_json:
        with results():
            print(to_json([row | {"here": row["here"] or "no"} for row in _rows()], indent=2))
        return
    out().width = max(out().width, WIDTH)
    with results():
        out().print(table())
        out().print()
        out().print(NOTES.format(cache=cache.cache_folder()))
