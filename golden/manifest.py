"""manifest.json: bytes and sha256 of every golden file; by make.py and by what runs in environments of its own."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
MANIFEST = HERE / "manifest.json"


def entries(paths: Iterable[Path]) -> dict[str, dict[str, int | str]]:
    """name -> bytes and sha256; sorted, names relative to this folder."""
    found = {}
    for path in paths:
        data = path.read_bytes()
        found[path.relative_to(HERE).as_posix()] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return dict(sorted(found.items()))


def write(content: dict[str, object]) -> None:
    """The whole manifest."""
    MANIFEST.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def replace(below: str, paths: Iterable[Path]) -> None:
    """Put the entries of `paths` in the place of those whose names begin with `below`; all others stay."""
    content = json.loads(MANIFEST.read_text(encoding="utf-8"))
    kept = {name: entry for name, entry in content["files"].items() if not name.startswith(below)}
    content["files"] = dict(sorted((kept | entries(paths)).items()))
    write(content)
