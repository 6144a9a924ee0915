"""`npsiglip train`: a model from a file of settings, in a folder that a run can be continued in."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from npsiglip.cli.console import UsageError, err, note
from npsiglip.folder_names import check_folder_name

if TYPE_CHECKING:
    from rich.console import RenderableType

    from npsiglip.train.progress import Progress

LINE_SECONDS = 10.0  # from one line to the next, where there is no terminal
SIGNAL_EXIT = 128  # the shells' exit code for a signal, and its number


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def numbers(progress: Progress) -> list[str]:
    """Two lines of what there is to tell."""
    p = progress
    first = f"loss {p.loss:.4f}  rate {p.rate:.2e}  norm {p.norm:.2f}  t {p.t:.2f}  bias {p.bias:.2f}"
    names = {"seen": "seen", "held_out": "held-out"}
    seen = "".join(f"  {names.get(key, key)} {value:.1%}" for key, value in p.evaluation.items())
    speed = f"{p.pairs_per_second:.0f} pairs/s  waiting {p.waiting:.0%}  {_clock(p.seconds)} so far"
    return [first, f"{speed}  {_clock(p.seconds_left)} left{seen}"]


class Display:
    """Progress on stderr: live on a terminal, elsewhere a line now and then. A `Watcher` of the trainer."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._live: Any = None
        self._progress: Progress | None = None
        self._doing = "Starting"
        self._last = 0.0

    def __enter__(self) -> Display:
        from npsiglip.kernels.cache import is_writable
        from npsiglip.kernels.jit import on_compile

        if sys.stderr.isatty() and err().is_interactive:
            from rich.live import Live

            live = Live(get_renderable=self._render, console=err(), redirect_stdout=False, refresh_per_second=4)
            self._live = self._stack.enter_context(live)
        first = " (first run only)" if is_writable() else ""
        self._stack.enter_context(on_compile(lambda kernel: self.say(f"Compiling kernels{first}")))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _render(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        p = self._progress
        if p is None:
            return Text(self._doing)
        head = Table.grid(padding=(0, 1))
        bar = ProgressBar(total=p.steps, completed=p.step, width=30)
        head.add_row(f"step {p.step}/{p.steps}", bar, f"{p.step / p.steps:.1%}", self._doing)
        return Group(head, *map(Text, numbers(p)))

    def step(self, progress: Progress, logged: bool) -> None:
        """After every step."""
        self._progress, self._doing = progress, ""
        now = time.monotonic()
        if not self._live and logged and (now - self._last > LINE_SECONDS or progress.step == progress.steps):
            self._last = now
            print(f"step {progress.step}/{progress.steps}  {'  '.join(numbers(progress))}", file=sys.stderr, flush=True)

    def tell(self, text: str) -> None:
        """What should be known, and stays to be read."""
        note(text)

    def say(self, text: str) -> None:
        """What is being done."""
        if not self._live and text != self._doing:
            print(f"{text} ...", file=sys.stderr, flush=True)
        self._doing = text


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file of settings.", show_default=False)],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where the run lives.", show_default=False)
    ],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the folder's checkpoint, if it has one.")
    ] = False,
    lock: Annotated[
        str | None, typer.Option(metavar="TOWER", help="Keep the weights of a tower: image, text.", show_default=False)
    ] = None,
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Model to start from: a folder, an .npz, a released name or builtin.",
            show_default=False,
        ),
    ] = None,
    blocks: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Train only the last N blocks of each tower, and the heads.", show_default=False
        ),
    ] = None,
    export_only: Annotated[
        bool, typer.Option("--export-only", help="Write the model of the folder's checkpoint, and train no further.")
    ] = False,
) -> None:
    """Train a model on pictures that are drawn meanwhile.

    The folder gets checkpoints, metrics.jsonl, plot.png and, at the end, the model in model/, a folder in Hugging
    Face's format. Ctrl-C ends a run after its step; --resume continues it, after a kill as well, to the same bits.
    """
    check_folder_name(out)
    with Display() as display:
        from npsiglip.train.config import load_config
        from npsiglip.train.saving import FILE
        from npsiglip.train.trainer import Trainer

        changes = {
            key: value for key, value in (("lock", lock), ("init", init), ("blocks", blocks)) if value is not None
        }
        settings = load_config(config, changes)
        if export_only and not (out / FILE).exists():
            raise UsageError(f"--export-only: {out} has no {FILE} to export the model of")
        trainer = Trainer(settings, out, resume or export_only, display)
        if export_only:
            folder, step = trainer.export(), trainer.state.step
            message, code = f"{folder}: the model after step {step}", 0
        else:
            result = trainer.run()
            if result.finished:
                found = {k: v for k, v in result.summary["results"].items() if isinstance(v, float)}
                measured = ", ".join(f"{key.replace('_', '-')} {value:.1%}" for key, value in found.items())
                spent = _clock(result.summary["seconds"]["total"])
                message, code = f"{out / 'model'}: trained in {spent}; {measured or 'not measured'}", 0
            else:
                message = f"stopped after step {result.step}, checkpoint written; go on with --resume"
                code = SIGNAL_EXIT + result.signal
    note(message)
    if code:
        raise typer.Exit(code)
