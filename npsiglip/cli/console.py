"""What the commands say: messages on stderr, results on stdout.

Results alone go to stdout, and look the same in a pipe as in a file: nothing is wrapped, cut or coloured there.
Everything else goes to stderr: `error: ...` and `warning: ...`, and, on a terminal only, what is going on right now.

Rich, NumPy and Numba are imported when they are first needed, so that `npsiglip --help` needs none of them.
"""

from __future__ import annotations

import contextlib
import functools
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

import typer

from npsiglip.errors import NpsiglipError

if TYPE_CHECKING:
    from rich.console import Console


class UsageError(typer.BadParameter):
    """Options that are missing or exclude each other: like `typer.BadParameter`, where no value is to blame."""

    def format_message(self) -> str:
        """What is shown."""
        return self.message


INTERRUPTED = 130  # the shells' exit code for Ctrl-C: 128 + SIGINT

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
