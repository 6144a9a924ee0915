"""`npsiglip verify --pack PACK`: a port against a conformance pack."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from npsiglip.cli.activity import Activity
from npsiglip.cli.console import UsageError, note, out
from npsiglip.cli.output import check_places, check_stdout, finite, results, to_json, write_text
from npsiglip.errors import NpsiglipError

CANNOT_TELL = 2


def run(
    pack: Path | None, candidate: str | None, dtype: str | None, timeout: float, junit: Path | None, json_wanted: bool
) -> None:
    """Score a candidate: a folder or a file with its results, or the command that leaves them.

    Raises:
        UsageError: one of the two options alone.
    """
    if pack is None or candidate is None:
        raise UsageError("--pack PACK and --candidate FOLDER (or a command) go together")
    check_stdout()
    words = ["npsiglip", "verify", "--pack", str(pack), "--candidate", candidate]
    repeat = shlex.join(words + (["--dtype", dtype] if dtype else []))
    try:
        check_places(junit)
        with Activity() as activity:
            from npsiglip.verify.packs_run import verify_pack

            activity.say("Comparing")
            report = verify_pack(pack, candidate, dtype, timeout, repeat)
        if junit:
            write_text(junit, report.junit())
    except NpsiglipError as error:
        note(str(error), "error:", "bold red")
        raise typer.Exit(CANNOT_TELL) from None
    with results():
        if json_wanted:
            print(to_json(finite(report.to_dict()), indent=2))
        else:
            lines = [report.sentence(), ""]
            lines += [report.table(), ""] if report.scored else []
            lines += [f"not known: {', '.join(report.unknown[:4])}"] if report.unknown else []
            lines += [f"assumed: {what}" for what in report.notes]
            out().print("\n".join([*lines, f"again: {repeat}"]))
    raise typer.Exit(report.exit_code)
