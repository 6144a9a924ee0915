"""Results on stdout: all of them, or an error that says so; and JSON that is JSON."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from npsiglip.atomic import write_all
from npsiglip.errors import InputError


class _Closed(io.TextIOBase):
    """Stands for a stdout that the shell has closed (`>&-`), for which Python has None and forgets what is printed."""

    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "it is closed")


def prepare_streams() -> None:
    """Make closed streams known; a file that is opened later must not take their place."""
    if sys.stdin is None or sys.stdout is None or sys.stderr is None:
        while os.open(os.devnull, os.O_RDWR) < 3:
            pass
    if sys.stdout is None:
        sys.stdout = _Closed()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115  as long as the process


def _discard() -> None:
    """Let nobody try again, at the exit of Python, to write what cannot be written."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _refusal(error: OSError) -> InputError:
    return InputError(f"the results cannot be written to standard output: {error.strerror or error}")


def check_stdout() -> None:
    """Refuse a stdout that is closed, before time is spent.

    Raises:
        InputError: it is.
    """
    if isinstance(sys.stdout, _Closed):
        raise _refusal(OSError(errno.EBADF, "it is closed; redirect it to a file, or to /dev/null"))


@contextlib.contextmanager
def results() -> Iterator[None]:
    """A context for writing to stdout: a full disk is an error with a message, a reader who stops reading is none.

    Raises:
        InputError: if nothing more can be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard()
        raise _refusal(error) from None


def run(command: Callable[[], object], tell: Callable[[str], object]) -> None:
    """Run the command line; what was printed outside of `results`, such as help, is looked after here.

    Args:
        command: ends in SystemExit.
        tell: prints an error.
    """
    try:
        command()
    except OSError as error:
        if traceback.extract_tb(error.__traceback__)[-1].name not in ("echo", "write"):
            raise  # not by what prints help
        _discard()
        tell(str(_refusal(error)))
        sys.exit(1)
    except SystemExit as end:
        try:
            sys.stdout.flush()
        except OSError as error:
            _discard()
            if not end.code and not isinstance(error, BrokenPipeError):
                tell(str(_refusal(error)))
            sys.exit(end.code or 1)
        raise


def finite(value: Any) -> Any:
    """The same, with None (JSON's null) for each NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON of finite numbers.

    Raises:
        InputError: there are others.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        raise InputError(
            "a result is not finite (NaN or infinity), which JSON cannot hold: are the model's weights whole?"
        ) from None


def check_places(*files: Path | None) -> None:
    """Refuse, before time is spent, what could not be written at the end.

    Raises:
        InputError: a file whose folder does not exist.
    """
    for file in files:
        if file is not None and (not file.parent.is_dir() or file.is_dir()):
            raise InputError(f"{file} cannot be written: expected a file in a folder that exists")


def write_text(file: Path, text: str) -> None:
    """Write a file whole, or leave what was there.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_all(file.parent, {file.name: lambda temporary: temporary.write_text(text, encoding="utf-8")})
    except OSError as error:
        raise InputError(f"{file} cannot be written ({error.strerror or error})") from None
