"""What a command is doing, told on a terminal; and the model that it does it with."""

from __future__ import annotations

import contextlib
import gc
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from npsiglip.cli.console import err, note, warn
from npsiglip.cli.options import ModelOptions
from npsiglip.errors import InputError, InputWarning
from npsiglip.interrupts import deferred

if TYPE_CHECKING:
    from rich.progress import Progress

    from npsiglip.checkpoint import Checkpoint
    from npsiglip.model import SigLIP

T = TypeVar("T")

BUILTIN_NOTE = (
    "the built-in model, which knows emoji, simple drawings, some groceries and clothes, drawn shapes and nothing "
    "else; for other pictures give a released checkpoint: --model NAME, of those that `npsiglip models` lists"
)


@contextlib.contextmanager
def without_collection() -> Iterator[None]:
    """No garbage collection within: what imports and loading make stays, and need not be looked at again and again.

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

    @property
    def is_shown(self) -> bool:
        """Whether there is a terminal that shows it."""
        return self._live is not None

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

    def _find(self, options: ModelOptions) -> Path:
        with self.paused(), without_collection():  # a download shows its own progress
            if not options.model:
                note(BUILTIN_NOTE, "model:", "bold")
            return find_model(options.model)

    def open(self, options: ModelOptions) -> Checkpoint:
        """Open the model that the options name, the built-in one if they name none.

        Raises:
            CheckpointError: the folder cannot be used.
            InputError: options that the model cannot have.
        """
        folder = self._find(options)
        with without_collection():
            with deferred():
                from npsiglip.checkpoint import Checkpoint
                from npsiglip.formats.told import Told

            return Checkpoint.open(folder, None, Told(options.gelu, options.image_heads), options.adapter)

    def load(self, options: ModelOptions, checkpoint: Checkpoint | None = None) -> SigLIP:
        """Load a model, and tell from now on of kernels that are compiled.

        Args:
            options: which one, and how.
            checkpoint: what `open` gave for these options, if that was called.

        Raises:
            CheckpointError: the folder cannot be used.
            InputError: a dtype that the model does not compute in; more threads than there are.
        """
        folder = checkpoint.folder if checkpoint else self._find(options)
        with without_collection():
            with deferred():
                from npsiglip.model import SigLIP

            self.tell_compiling()
            decoding: dict[str, Any] = {
                "max_megapixels": options.max_megapixels,
                "sixteen_bit": options.sixteen_bit.value,
            }
            if checkpoint:
                return SigLIP.from_checkpoint(checkpoint, options.dtype, options.threads, **decoding)
            told = {"gelu": options.gelu, "image_heads": options.image_heads}
            settings: dict[str, Any] = {"adapter": options.adapter} | decoding | told
            return SigLIP.from_pretrained(folder, options.dtype, options.threads, **settings)

    def passes(self, model: SigLIP, images: Sequence[T]) -> Iterator[Sequence[T]]:
        """As many images as the model takes at once, and again, telling how many are done."""
        from npsiglip.inputs import inputs_per_pass

        step = inputs_per_pass(model.config.image.seq_len) if model.config.image else 1
        for start in range(0, len(images), step):
            self.say("Images")
            if len(images) > step:
                self.count(start, len(images))
            yield images[start : start + step]
