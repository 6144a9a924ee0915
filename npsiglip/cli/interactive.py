"""`npsiglip search --interactive`: query after query on a model and an index that are loaded once."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from npsiglip.cli.console import note
from npsiglip.cli.preview import check_preview
from npsiglip.collection.hits import Hit
from npsiglip.errors import InputError, NpsiglipError

PROMPT = "search> "
HELP = """words, a picture, or a sum of them: 2:beach + ./me.jpg - crowd
:similar N       what is like result N
:k N             show N results
:min-prob P      show what is so probable at least; :min-prob off
:preview on|off  show the pictures, on a terminal
:sheet FILE      write the last results as a picture (.png) or page (.html)
an empty line, :q or ctrl-D ends"""


class Settings(NamedTuple):
    """What can be changed between two queries."""

    number: int
    min_prob: float | None
    preview: bool


class Asked(NamedTuple):
    """What the loop asks for."""

    query: Callable[[str, Settings], Sequence[Hit]]
    """Searches, and shows what was found."""
    similar: Callable[[Hit, Settings], Sequence[Hit]]
    sheet: Callable[[Path, Sequence[tuple[str, Sequence[Hit]]]], None]


def _lines() -> Callable[[], str | None]:
    """Reads a line, None at the end; on a terminal with a prompt, where the arrows bring back the lines before."""
    if sys.stdin.isatty():
        with contextlib.suppress(ImportError):  # Windows
            import readline  # noqa: F401  `input` uses it

        def ask() -> str | None:
            try:
                return input(PROMPT)
            except EOFError:
                sys.stdout.write("\n")
                return None

        return ask
    return lambda: sys.stdin.readline() or None


def _number(name: str, text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise InputError(f"{name}: expected a number from 1 to {most:,}, got {text!r}")
    return int(text)


class Loop:
    """A prompt, and what was found last."""

    def __init__(self, asked: Asked, settings: Settings) -> None:
        self.asked, self.settings = asked, settings
        self.title, self.hits = "", list[Hit]()

    def run(self) -> None:
        """Answer until an empty line, or the end of the input. What cannot be answered is told."""
        read = _lines()
        if sys.stdin.isatty():
            note("a query, or :help; an empty line ends")
        while (line := read()) is not None and (line := line.strip()) not in ("", ":q", ":quit"):
            try:
                self._command(line[1:]) if line.startswith(":") else self._found(
                    line, self.asked.query(line, self.settings)
                )
            except NpsiglipError as error:
                note(str(error), "error:", "bold red")

    def _found(self, title: str, hits: Sequence[Hit]) -> None:
        self.title, self.hits = title, list(hits)

    def _command(self, line: str) -> None:
        try:
            name, *values = shlex.split(line) or [""]
        except ValueError as error:
            raise InputError(f"{line!r}: {error}") from None
        value = " ".join(values)
        if name == "help":
            note(HELP)
        elif name == "k":
            self.settings = self.settings._replace(number=_number(":k", value, sys.maxsize))
        elif name == "min-prob":
            self.settings = self.settings._replace(min_prob=_probability(value))
        elif name == "preview" and value in ("on", "off"):
            self.settings = self.settings._replace(preview=check_preview(value == "on"))
            if value == "on" and not self.settings.preview:
                raise InputError(":preview: the results do not go to a terminal")
        elif not self.hits and name in ("similar", "sheet"):
            raise InputError(f":{name}: nothing was found yet")
        elif name == "similar":
            hit = self.hits[_number(":similar", value, len(self.hits)) - 1]
            self._found(hit.key, self.asked.similar(hit, self.settings))
        elif name == "sheet" and value:
            self.asked.sheet(Path(value).expanduser(), [(self.title, self.hits)])
        else:
            raise InputError(f"there is no {':' + line!r}; :help says what there is; no query begins with ':'")


def _probability(text: str) -> float | None:
    """A cut-off; None for "off"."""
    if text == "off":
        return None
    with contextlib.suppress(ValueError):
        if 0 <= (value := float(text)) <= 1:
            return value
    raise InputError(f":min-prob: expected a number from 0 to 1, or off; got {text!r}")
