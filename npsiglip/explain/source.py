"""Lines of the reference, as they stand there: what computes a panel."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import npsiglip


class Lines(NamedTuple):
    """A function of the reference without its docstring: the file below the package, the first line, the text."""

    file: str
    number: int
    text: str


def lines_of(function: Callable[..., Any]) -> Lines:
    """The source of a function, without its docstring."""
    found, first = inspect.getsourcelines(function)
    text = textwrap.dedent("".join(found))
    node = ast.parse(text).body[0]
    kept = text.splitlines()
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
        said = node.body[0]
        assert said.end_lineno is not None
        kept = kept[: said.lineno - 1] + kept[said.end_lineno :]
    place = Path(inspect.getsourcefile(function) or "").resolve()
    root = Path(npsiglip.__file__).resolve().parents[1]
    return Lines(place.relative_to(root).as_posix(), first, "\n".join(kept))
