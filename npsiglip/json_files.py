"""JSON as a model folder's files hold it: a name that comes twice is an error, not silently the last one.

Leaves out: what the files mean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from npsiglip.errors import CheckpointError

# What `parse` raises: text that is no JSON or no UTF-8, a name twice, a number or a nesting that is too long.
ERRORS = (ValueError, RecursionError)


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For json's `object_pairs_hook`.

    Raises:
        ValueError: a name comes twice.
    """
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"{key!r} is listed twice")
        seen[key] = value
    return seen


def parse(text: str | bytes) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError, RecursionError: see `ERRORS`.
    """
    return json.loads(text, object_pairs_hook=unique)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} where there is no file.

    Raises:
        CheckpointError: the file cannot be read, or holds something else.
    """
    try:
        content = parse(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, *ERRORS) as error:
        raise CheckpointError(f"cannot read {path} as JSON ({error}): download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object: download it again")
    return content
