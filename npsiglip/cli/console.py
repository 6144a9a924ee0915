"""What the commands share: messages and progress on stderr, results on stdout, options, loading a model.

Results alone go to stdout, and look the same in a pipe as in a file: nothing is wrapped, cut or coloured there.
Everything else goes to stderr: `error: ...` and `warning: ...`, and, on a terminal only, what is going on right now.

Rich, NumPy and Numba are imported when they are first needed, so that `npsiglip --help` needs none of them.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer

from npsiglip.errors import InputError, InputWarning, NpsiglipError
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from npsiglip.model import SigLIP

T = TypeVar("T")


class UsageError(typer.BadParameter):
    """Options that are missing or exclude each other: like `typer.BadParameter`, where no value is to blame."""

    def format_message(self) -> str:
        """What is shown."""
        return self.message


INTERRUPTED = 130  # the shells' exit code for Ctrl-C: 128 + SIGINT

BUILTIN_NOTE = (
    "the built-in model, which knows drawn shapes, colours, letters and nothing else; for photographs give a real "
    "checkpoint: --model NAME, of those that `npsiglip models` lists"
)

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODEL",
        envvar="NPSIGLIP_MODEL",
        help="A name that `npsiglip models` lists, OWNER/NAME or OWNER/NAME@REVISION of the Hugging Face Hub, or a "
        "folder in the format of Hugging Face, open_clip or timm.",
        show_default="builtin, a small model of drawn shapes",
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

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    r"""The text with control characters, line ends and undecodable bytes as escapes: "a\nb" becomes "a\\nb".

    File names and labels may hold anything; written as they are, they could fake lines or steer the terminal.
    """
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def quoted(text: str) -> str:
    """The text as a message names it: in quotes, and not much longer than a line."""
    return repr(text) if len(text) <= 100 else f"{text[:60]!r}..."


@functools.cache
def out() -> Console:
    """Rich's console for results."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True)


@functools.cache
def err() -> Console:
    """Rich's console for everything else."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def note(text: str, head: str = "", style: str = "") -> None:
    """Write `text` to stderr, after a head such as "error:"; on a terminal, in lines that fit."""
    from rich.text import Text

    lines = "\n".join(map(one_line, text.split("\n")))
    err().print(Text.assemble((head, style), " " if head else "", lines), soft_wrap=not err().is_terminal)


def warn(text: str) -> None:
    """Write `warning: text` to stderr."""
    note(text, "warning:", "bold yellow")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """For `warnings.showwarning`: what it says, without the line of source that said it."""
    warn(str(message))


@contextlib.contextmanager
def messages() -> Iterator[None]:
    """Errors of the input become one message and exit code 1, warnings one line each; bugs keep their traceback."""
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            yield
        except NpsiglipError as error:
            note(str(error), "error:", "bold red")
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """Around imports and loading: what they make stays, and Python's collector would look at it again and again.

    It is not looked at later, either, nor at the end: a tenth of the time of a short command.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def check_lengths(model: SigLIP, texts: Sequence[str], names: Sequence[str], truncate: bool) -> None:
    """Refuse a text that is longer than the model's positions, by its name; with `truncate`, only warn of it.

    Raises:
        InputError: a text too long.
    """
    if model.tokenizer is None:
        return
    warnings.filterwarnings("ignore", ".* tokens that the model reads", InputWarning)  # the same, of all at once
    for name, too_long in zip(names, model.tokenizer.truncated(texts), strict=True):
        if too_long:
            what = f"{name} is longer than the {model.tokenizer.seq_len} tokens that the model reads"
            if not truncate:
                raise InputError(f"{what}; shorten it, or let its end be ignored with --truncate")
            warn(f"{what}; its end is ignored")


def find_model(name: str | None) -> Path:
    """The folder of a model, the built-in one's if none is given; tells of a download.

    Raises:
        CheckpointError: it cannot be downloaded.
        InputError: what cannot be a revision.
    """
    from npsiglip.hub.resolve import BUILTIN, model_folder

    return model_folder(name or BUILTIN, say=note)


class Activity:
    """What a command is doing, on stderr, and the model it does it with.

    On a terminal: one line with a spinner, the time, and a bar where there are several batches; gone at the end.
    Elsewhere: one line if kernels have to be compiled, which takes long enough to wonder; otherwise nothing.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._live: Progress | None = None
        self._told_compiling = False

    def __enter__(self) -> Activity:
        if sys.stderr.isatty() and err().is_interactive:
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(bar_width=16))
            # Rich's redirection would send results to stderr
            self._live = Progress(
                *columns,
                TextColumn("{task.fields[count]}"),
                TimeElapsedColumn(),
                console=err(),
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._task = self._live.add_task("Loading the model", total=None, count="")
            self._stack.enter_context(self._live)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def say(self, doing: str) -> None:
        """Tell what comes now."""
        if self._live:
            self._live.update(self._task, description=doing, refresh=True)

    def count(self, done: int, total: int) -> None:
        """Tell how much of it is done."""
        if self._live:
            count = f"{done}/{total}"
            self._live.update(self._task, total=total, completed=done, count=count, refresh=True)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Make room for results: both streams may end on the same terminal."""
        if self._live:
            self._live.stop()
        yield
        if self._live:
            self._live.start()

    def _compiling(self, kernel: str) -> None:
        from npsiglip.kernels.cache import is_writable

        doing = "Compiling kernels" + (" (first run only)" if is_writable() else "")
        self.say(f"{doing}: {kernel}")
        if not self._live and not self._told_compiling:
            print(f"{doing} ...", file=sys.stderr, flush=True)
        self._told_compiling = True

    def tell_compiling(self) -> None:
        """Tell from now on of kernels that are compiled."""
        from npsiglip.kernels.jit import on_compile

        self._stack.enter_context(on_compile(self._compiling))

    def load(self, name: str | None, dtype: str | None, threads: int | None, **settings: Any) -> SigLIP:
        """Load the model, the built-in one if no name is given, and tell from now on of kernels that are compiled.

        Args:
            name: of the model.
            dtype: see `SigLIP.from_pretrained`, and so the following.
            threads: how many.
            settings: others.

        Raises:
            CheckpointError: the folder cannot be used.
            InputError: a dtype that the model does not compute in; more threads than there are.
        """
        with self.paused(), without_collection():  # a download shows its own progress
            if not name:
                note(BUILTIN_NOTE, "model:", "bold")
            folder = find_model(name)
        with without_collection():
            with deferred():
                from npsiglip.model import SigLIP

            self.tell_compiling()
            return SigLIP.from_pretrained(folder, dtype, threads, **settings)

    def passes(self, model: SigLIP, images: Sequence[T]) -> Iterator[Sequence[T]]:
        """As many images as the model takes at once, and again, telling how many are done."""
        from npsiglip.inputs import inputs_per_pass

        step = inputs_per_pass(model.config.image.seq_len) if model.config.image else 1
        for start in range(0, len(images), step):
            self.say("Images")
            if len(images) > step:
                self.count(start, len(images))
            yield images[start : start + step]
