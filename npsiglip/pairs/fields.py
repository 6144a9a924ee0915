"""From the tables of a TOML file to frozen dataclasses: types, ranges, names that were misspelt.

A field's annotation says what is allowed: `Annotated[float, Range(0, 1)]`, `Literal["a", "b"]`, `bool`, `str`, a tuple
of these or of other dataclasses, a mapping of strings to any of them, `T | None`. A field whose metadata have `REST`
takes all keys that no other field has, as they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from math import isfinite
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from npsiglip.errors import InputError

REST = "rest"


@dataclass(frozen=True)
class Range:
    """low <= x <= high, or low < x with `above`."""

    low: float
    high: float = float("inf")
    above: bool = False

    def __contains__(self, x: float) -> bool:
        return (self.low < x if self.above else self.low <= x) and x <= self.high

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'at least'} {self.low:g}"
        return low if self.high == float("inf") else f"{low} and at most {self.high:g}"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Positive = Annotated[float, Range(0, above=True)]
Share = Annotated[float, Range(0, 1, above=True)]
Momentum = Annotated[float, Range(0, 0.999999)]


def unknown_key(key: str, known: Sequence[str], where: str) -> InputError:
    """An error that names the key and the one that was probably meant."""
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean `{close[0]}`?" if close else f"known are {', '.join(known)}"
    return InputError(f"{where} has the unknown key `{key}`: {hint}")


def _number(value: Any, kind: type, limits: Range | None, name: str) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole and not (kind is float and isinstance(value, float) and isfinite(value)):
        what = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} must be {what}{f' {limits}' if limits else ''}, got {value!r}")
    if limits and value not in limits:
        raise InputError(f"{name} must be {limits}, got {value!r}")
    return kind(value)


def _many(value: Any, hint: Any, name: str) -> tuple[Any, ...]:
    """A tuple: of tables, of as many numbers as the hint says, or of strings, of which one may stand alone."""
    kinds = get_args(hint)
    if kinds[-1] is not Ellipsis:
        if not isinstance(value, list) or len(value) != len(kinds):
            raise InputError(f"{name} must be a list of {len(kinds)}, got {value!r}")
        return tuple(
            _value(part, kind, f"{name}[{i}]") for i, (part, kind) in enumerate(zip(value, kinds, strict=True))
        )
    tables = is_dataclass(kinds[0])
    if kinds[0] is str and isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        what = f"one or more tables, as [[{name}]]" if tables else "a list of one or more"
        raise InputError(f"{name} must be {what}; got {value!r}")
    return tuple(_value(part, kinds[0], f"{name}[{i}]") for i, part in enumerate(value))


def _value(value: Any, hint: Any, name: str) -> Any:
    """`value` checked against a type."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _number(value, args[0], args[1], name)
    if hint in (int, float):
        return _number(value, hint, None, name)
    if origin in (Union, UnionType):
        return _value(value, args[0], name)
    if origin is Literal:
        if value not in args:
            raise InputError(f"{name} must be one of {', '.join(map(repr, args))}; got {value!r}")
        return value
    if origin is tuple:
        return _many(value, hint, name)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise InputError(f"{name} must be a table, got {value!r}")
        return {key: _value(part, args[1], f"{name}.{key}") for key, part in value.items()}
    if hint in (str, bool):
        if not isinstance(value, hint):
            raise InputError(f"{name} must be {'text' if hint is str else 'true or false'}, got {value!r}")
        return value
    return section(value, hint, name)


def section(table: Any, kind: Any, name: str) -> Any:
    """A dataclass of this kind from a table.

    Args:
        table: key -> value.
        kind: the dataclass.
        name: of the table, for messages; "" for the whole file.

    Raises:
        InputError: an unknown or missing key, a value of another type or out of range.
    """
    if not isinstance(table, Mapping):
        raise InputError(f"{name} must be a table, got {table!r}")
    hints = get_type_hints(kind, include_extras=True)
    rest = next((entry.name for entry in fields(kind) if entry.metadata.get(REST)), None)
    extra: dict[str, Any] = {}
    if rest:
        extra[rest] = {key: value for key, value in table.items() if key not in hints or key == rest}
        table = {key: value for key, value in table.items() if key not in extra[rest]}
    for key in table:
        if key not in hints:
            raise unknown_key(key, list(hints), f"[{name}]" if name else "the configuration")
    for entry in fields(kind):
        required = entry.default is MISSING and entry.default_factory is MISSING
        if required and entry.name not in table:
            raise InputError(f"[{name}] lacks `{entry.name}`" if name else f"the configuration lacks [{entry.name}]")
    values = {k: _value(v, hints[k], f"{name}.{k}" if name else k) for k, v in table.items()}
    return kind(**values, **extra)


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Dotted name -> value, of nested tables and lists."""
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        return {k: v for key, item in items for k, v in flat(item, f"{name}.{key}" if name else str(key)).items()}
    return {name: value}
