"""Metrics of a run as JSON lines, one object a line, that a resumed run continues without gap or repetition.

A line has `step` (steps made) and `seconds` (of all runs together). Lines of training have `loss` (the mean since the
line before), `rate`, `norm` (of the gradients, before clipping), `t`, `bias` and `pairs_per_second`; lines of
evaluations have `seen` and `held_out`, the zero-shot accuracies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from npsiglip.atomic import write_all
from npsiglip.errors import InputError

FILE = "metrics.jsonl"


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a folder; a last line that was cut short by a kill is left out."""
    path = folder / FILE
    lines: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                break
    return lines


class MetricsLog:
    """The file, to be written to at its end.

    Args:
        folder: of the run.
        step: lines of later steps are removed; they will come again.

    Raises:
        InputError: the file cannot be written.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / FILE
        kept = [line for line in read_metrics(folder) if line["step"] <= step] if step else []
        text = "".join(json.dumps(line) + "\n" for line in kept)
        try:
            write_all(folder, {FILE: lambda path: path.write_text(text, encoding="utf-8")})
        except OSError as error:
            raise self._failed(error) from None

    def add(self, line: dict[str, Any]) -> None:
        """Append a line.

        Raises:
            InputError: the file cannot be written.
        """
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise self._failed(error) from None

    def _failed(self, error: OSError) -> InputError:
        return InputError(f"{self._path} cannot be written: {error}; make room on the disk, then resume")
