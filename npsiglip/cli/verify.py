"""`npsiglip verify --published`: do released checkpoints give the numbers that were published of them?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import UsageError, note, out
from npsiglip.cli.output import check_stdout, finite, results, to_json
from npsiglip.errors import NpsiglipError

if TYPE_CHECKING:
    from npsiglip.published.check import Result

DIFFERENT, NOT_COMPARED = 1, 2  # exit codes


def _rows(head: str, values: Any, what: str) -> list[str]:
    """Numbers below numbers, a line for each row, behind `head` on the first."""
    form = {"logits": "{:9.4f}", "probabilities": "{:11.4e}", "token ids": "{:.0f}"}[what]
    lines = [" ".join(form.format(value) for value in row) for row in values]
    return [f"  {head if not i else '':9} {line}" for i, line in enumerate(lines)]


def _print(result: Result) -> None:
    case = result.case
    bound = f"{case.atol:g}" + (f" + {case.rtol:g} of the number" if case.rtol else "")
    lines = [f"{case.model}: {case.what}{f' of {case.images}' if case.images else ''}, {len(case.texts)} texts"]
    lines += _rows("expected", result.expected, case.what) + _rows("obtained", result.obtained, case.what)
    lines += [f"  apart     {result.apart:.2g}, tolerance {bound}: {'equal' if result.equal else 'DIFFERENT'}"]
    out().print("\n".join([*lines, f"  source    transformers, {case.source}"]))


def _as_json(result: Result) -> dict[str, Any]:
    found = {"obtained": result.obtained.tolist(), "apart": result.apart, "equal": result.equal}
    return dataclasses.asdict(result.case) | found


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Released checkpoints.", show_default="all with published numbers"),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Compare with the numbers that Hugging Face published.")
    ] = False,
    files: Annotated[
        Path | None,
        typer.Option(
            "--files",
            metavar="FOLDER",
            help="A folder with the pictures, under their own names.",
            show_default="they are fetched",
        ),
    ] = None,
    json_wanted: Annotated[bool, typer.Option("--json", help="Write a JSON list, with every digit.")] = False,
) -> None:
    """Check released checkpoints, which are downloaded if they are not here, against published numbers.

    Prints what was expected and obtained, how far apart they are, what the source tolerates, and the source. Exits
    with 0 if all is equal, 1 if something differs, and 2 if something could not be compared.
    """
    if not published:
        raise UsageError("say what to compare with: --published, the numbers that Hugging Face published")
    check_stdout()
    found: list[Result] = []
    failed = []
    with Activity() as activity:
        activity.tell_compiling()
        from npsiglip.published.check import check, chosen

        for name in chosen(names or []):
            activity.say(f"Checking {name}")
            try:
                for result in check(name, files):
                    found.append(result)
                    if not json_wanted:
                        with activity.paused(), results():
                            _print(result)
            except NpsiglipError as error:
                failed.append(name)
                with activity.paused():
                    note(f"{name}: {error}", "not compared:", "bold red")
    if json_wanted:
        with results():
            print(to_json(finite([_as_json(result) for result in found]), indent=2))
    different = [result for result in found if not result.equal]
    note(
        f"{len(found) - len(different)} of {len(found)} as published"
        + (f", not compared: {', '.join(failed)}" * bool(failed))
    )
    if failed or different:
        raise typer.Exit(DIFFERENT if different else NOT_COMPARED)
