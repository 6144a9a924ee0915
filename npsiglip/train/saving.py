"""Checkpoints of a training run: everything that the next step depends on, in one safetensors file, written atomically.

Tensors `params/NAME`, `m/NAME` and `v/NAME` hold the parameters and both moments of those that are trained; the
file's metadata hold the step, the settings that decide the weights, the tokenizer's hash and the times, as JSON. A
process that is killed leaves the last checkpoint as it was, and perhaps a hidden folder with a part of the next, which
`clean` removes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from npsiglip.atomic import write_all
from npsiglip.errors import CheckpointError, InputError
from npsiglip.train.config import default_of
from npsiglip.train.flat import Flat

FILE = "checkpoint.safetensors"
FORMAT = 1
PARTS = ("params", "m", "v")


@dataclass
class State:
    """What a checkpoint says beside its tensors."""

    step: int = 0
    """Steps made."""
    settings: dict[str, Any] = field(default_factory=dict)
    """`Config.deciding()`."""
    tokenizer: str = ""
    """The hash of spiece.model."""
    window: list[float] = field(default_factory=list)
    """Losses since the last line of metrics."""
    times: dict[str, float] = field(default_factory=dict)
    """Seconds, of all runs together: `total`, and what parts of it took."""


def file_hash(path: Path) -> str:
    """The file's SHA-256."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def clean(folder: Path) -> None:
    """Remove what a process that was killed while it wrote may have left."""
    for rest in folder.glob(".npsiglip-*"):
        shutil.rmtree(rest, ignore_errors=True)


def save(folder: Path, state: State, params: Flat, m: Flat, v: Flat, locked: Collection[str] = frozenset()) -> None:
    """Write the checkpoint; the one before stays if that fails. Moments of `locked` parameters, all zero, are left out.

    Raises:
        CheckpointError: the file cannot be written, for instance because the disk is full.
    """
    tensors = {
        f"{part}/{name}": view
        for part, flat in zip(PARTS, (params, m, v), strict=True)
        for name, view in flat.views.items()
        if part == "params" or name not in locked
    }
    metadata = {"npsiglip_training": json.dumps({"format": FORMAT, **asdict(state)})}
    try:
        write_all(folder, {FILE: lambda path: save_file(tensors, path, metadata=metadata)})
    except (OSError, SafetensorError) as error:
        before = "the checkpoint before it is kept" if (folder / FILE).exists() else "there is none before it"
        raise CheckpointError(
            f"the checkpoint of step {state.step} cannot be written to {folder}: {error}; {before}. Make room on the "
            "disk, then resume"
        ) from None


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each setting that is not what it was; one that was not there yet had its default."""
    return [
        f"{key}: {before.get(key, 'not set')!r} in the checkpoint, {now.get(key, 'not set')!r} now"
        for key in sorted({*before, *now})
        if before.get(key, default_of(key)) != now.get(key)
    ]


def _read_state(path: Path, metadata: Mapping[str, str] | None) -> State:
    content = json.loads((metadata or {}).get("npsiglip_training", "{}"))
    if content.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path} is no training checkpoint of this version: use the version that wrote it")
    return State(**content)


def load_state(folder: Path) -> State | None:
    """What the folder's checkpoint says, None if there is none.

    Raises:
        CheckpointError: a file that is damaged or something else.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="np") as file:
            return _read_state(path, file.metadata())
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} cannot be read as a training checkpoint: {error}") from None


def check_settings(state: State, settings: Mapping[str, Any], folder: Path) -> None:
    """Check that a run goes on with the settings that it began with.

    Raises:
        InputError: with every setting that differs.
    """
    lines = differences(state.settings, json.loads(json.dumps(settings)))
    if lines:
        raise InputError(
            f"{folder} was trained with other settings, and going on with these would be neither of the two:\n"
            + "\n".join(f"- {line}" for line in lines)
            + "\nresume with the settings of the checkpoint, or choose another folder; only [run] may differ"
        )


def load_tensors(
    folder: Path,
    params: Flat,
    m: Flat | None = None,
    v: Flat | None = None,
    locked: Collection[str] = frozenset(),
) -> None:
    """Fill the vectors from the checkpoint, but for the moments of `locked` parameters.

    Raises:
        CheckpointError: the checkpoint has other tensors.
    """
    path = folder / FILE
    try:
        with safe_open(path, framework="np") as file:
            for part, flat in zip(PARTS, (params, m, v), strict=True):
                for name, view in flat.views.items() if flat else ():
                    if part != "params" and name in locked:
                        continue
                    values = file.get_tensor(f"{part}/{name}")
                    if values.shape != view.shape:
                        raise CheckpointError(f"{path}: {part}/{name} is {list(values.shape)}, not {list(view.shape)}")
                    view[...] = values
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as a checkpoint of this model: {error}") from None
