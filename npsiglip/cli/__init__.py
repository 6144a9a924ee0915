"""The command `npsiglip`. One file a command; what is heavy is imported inside the commands."""

from __future__ import annotations

import functools
import io
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from npsiglip import __version__, interrupts
from npsiglip.cli import (
    bench,
    calibrate,
    classify,
    compare,
    convert,
    dedupe,
    embed,
    evaluate,
    exchange,
    explain,
    golden,
    index,
    models,
    probe,
    quantize,
    search,
    serve,
    similar,
    trace,
    train,
    verify,
    warmup,
    world,
)
from npsiglip.cli.console import INTERRUPTED, messages, note
from npsiglip.cli.output import prepare_streams, run


class _Commands(TyperGroup):
    """Commands whose errors and warnings are written for a person."""

    def invoke(self, ctx: Any) -> Any:
        with messages():
            return super().invoke(ctx)


# Rich's help pages would double the time of --help, and its boxes are cut to 80 columns in a pipe.
app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"npsiglip {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """SigLIP on a CPU: probabilities and embeddings of images and texts."""


for _command in (
    classify.classify,
    compare.compare,
    embed.embed,
    search.search,
    similar.similar,
    dedupe.dedupe,
    calibrate.calibrate,
    serve.serve,
    models.models,
    quantize.quantize,
    convert.convert,
    train.train,
    evaluate.evaluate,
    probe.probe,
    trace.trace,
    verify.verify,
    explain.explain,
    warmup.warmup,
    bench.bench,
    world.world,
):
    app.command()(_command)
app.add_typer(golden.golden)
index.index.command()(exchange.export)
index.index.command("import")(exchange.take)
app.add_typer(index.index)


def main() -> None:
    """Run the command line of this process."""
    prepare_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a label that the encoding lacks is no reason to fail
    interrupts.remember()
    code: Any = INTERRUPTED
    try:
        run(functools.partial(app, prog_name="npsiglip"), lambda text: note(text, "error:", "bold red"))
    except KeyboardInterrupt:
        pass
    except SystemExit as end:
        code = end.code
    except Exception:
        if not interrupts.seen:  # an extension that is interrupted while it starts says that it failed
            raise
    finally:
        interrupts.forget()
    sys.exit(INTERRUPTED if interrupts.seen else code)
