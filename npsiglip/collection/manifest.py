"""What an index was made with: its manifest.json. An index of another model is refused, with what is different."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from npsiglip.atomic import write_all
from npsiglip.collection.items import reason_of
from npsiglip.errors import CheckpointError, InputError
from npsiglip.json_files import read_json

FILE = "manifest.json"
VERSION = 1
ROW_TYPES = ("float16", "float32")
SHARD_ROWS = 2048

_COMPARED = {
    "kind": "what is in it",
    "weights": "the model's weights",
    "dtype": "the type that the model computes in",
    "preprocessing": "how pictures or texts are prepared",
    "width": "the width of embeddings",
    "rows": "the type of its rows",
}


@dataclass(frozen=True)
class Manifest:
    """What all rows of an index have in common.

    kind: "image" or "text".
    model: a name or a folder that `SigLIP.from_pretrained` takes.
    weights: SHA-256 of the files of the weights, or of the parameters in memory.
    dtype: that the model computes in.
    preprocessing: what becomes of a picture or a text before the model.
    width: of an embedding.
    rows: the type of the rows, "float16" or "float32".
    shard_rows: how many rows a shard has, but for the last of each run.
    files: name -> size and time of the weights' files, for which the hash was computed.
    config: a hash of the model's configuration.
    versions: of this package and of those that the preprocessing depends on.
    version: of the format.
    """

    kind: str
    model: str
    weights: str
    dtype: str
    preprocessing: Mapping[str, Any]
    width: int
    rows: str = "float32"
    shard_rows: int = SHARD_ROWS
    files: Mapping[str, Any] = field(default_factory=dict)
    config: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.rows not in ROW_TYPES:
            raise InputError(f"rows are {' or '.join(ROW_TYPES)}, got {self.rows!r}")
        if not (isinstance(self.shard_rows, int) and self.shard_rows > 0):
            raise InputError(f"a shard has a positive number of rows, got {self.shard_rows!r}")

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Of an index.

        Raises:
            InputError: there is none, it is damaged, or of another version.
        """
        path = folder / FILE
        if not path.is_file():
            what = "is no index: it has no manifest.json" if folder.is_dir() else "does not exist"
            raise InputError(f"the index {str(folder)!r} {what}; make one with `npsiglip index FOLDER -i {folder}`")
        try:
            content = read_json(path)
        except CheckpointError as error:
            raise InputError(
                f"the manifest of an index is damaged: {reason_of(error)}; copy it from a backup, "
                "or make the index anew"
            ) from None
        version = content.get("version")
        if version != VERSION:
            raise InputError(
                f"the index {str(folder)!r} has format {version!r}, this version of npsiglip reads {VERSION}: update "
                "npsiglip, or make the index anew"
            )
        known = {each.name for each in fields(cls)}
        try:
            return cls(**{key: value for key, value in content.items() if key in known})
        except TypeError as error:
            raise InputError(f"{path} is damaged ({error}); copy it from a backup, or make the index anew") from None

    def text(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"

    def write(self, folder: Path) -> None:
        """Store it.

        Raises:
            OSError: it cannot be written.
        """
        write_all(folder, {FILE: lambda path: path.write_text(self.text(), encoding="utf-8")})

    def check(self, other: Manifest, folder: Path) -> None:
        """Refuse to put rows together that do not belong together.

        Args:
            other: of what is to be added.
            folder: of this index, for the message.

        Raises:
            InputError: naming everything that is different.
        """
        different = []
        for key, what in _COMPARED.items():
            mine, its = getattr(self, key), getattr(other, key)
            if key == "preprocessing" and mine != its:
                keys = sorted(mine.keys() | its.keys())
                parts = [f"{k} {mine.get(k)!r}, now {its.get(k)!r}" for k in keys if mine.get(k) != its.get(k)]
                different.append(f"{what} ({'; '.join(parts)})")
            elif mine != its:
                shown = (str(mine)[:12], str(its)[:12]) if key == "weights" else (repr(mine), repr(its))
                names = f" of {self.model!r}, now {other.model!r}" if key == "weights" else ""
                different.append(f"{what} ({shown[0]}{names or ', now'} {shown[1]})")
        if different:
            raise InputError(
                f"the index {str(folder)!r} was made otherwise, its rows cannot be compared with new ones: "
                f"{'; '.join(different)}. Use what it was made with, or another index (-i)"
            )
