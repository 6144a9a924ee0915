"""A pack for C: raw numbers in one file, and headers that say where in it each tensor is, and how far it may be off.

The numbers are not in the headers, but for the small ones: a compiler takes minutes for megabytes of text, and a file
is read, mapped or linked in (`ld -r -b binary`, `.incbin`) in a moment.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.verify.files import MANIFEST
from npsiglip.verify.packs import WEIGHTS, Check

Array = NDArray[Any]

RAW, DATA_HEADER, RUNNER = "tensors.bin", "npsiglip_pack_data.h", "npsiglip_pack.h"
ALIGNED = 64  # bytes that each tensor begins at a multiple of
SMALL = 1024  # numbers that stand in the header as well
MOST_AXES = 4
C_TYPES = {"float32": "float", "int32": "int32_t", "uint8": "uint8_t"}
MEASURES = {"exact": 0, "largest difference": 1, "relative L2": 2, "order": 3}


def c_text(text: str) -> str:
    """A text as a literal of C, in UTF-8. Bytes that are not plain are written in three octal digits."""
    plain = {ord('"'): '\\"', ord("\\"): "\\\\"}
    return (
        '"'
        + "".join(plain.get(b) or (chr(b) if 32 <= b < 127 and b != 63 else f"\\{b:03o}") for b in text.encode())
        + '"'
    )


def c_name(name: str) -> str:
    """An identifier: text.ids -> npsiglip_text_ids."""
    return "npsiglip_" + re.sub(r"\W", "_", name)


def _numbers(x: Array) -> Iterable[str]:
    if x.dtype.kind == "f":
        return (f"{float(value)!r}f" for value in x.ravel())
    return (str(int(value)) for value in x.ravel())


def _array(name: str, x: Array) -> str:
    cells = list(_numbers(x))
    rows = "".join(f"\n    {', '.join(cells[i : i + 8])}," for i in range(0, len(cells), 8))
    return f"/* {name}, {list(x.shape)} */\nstatic const {C_TYPES[x.dtype.name]} {c_name(name)}[] = {{{rows}\n}};\n"


def _constants(about: Mapping[str, Any], tensors: Mapping[str, Array]) -> Iterable[str]:
    yield f"#define NPSIGLIP_PICTURES {len(tensors['image.pixels']) if 'image.pixels' in tensors else 0}"
    yield f"#define NPSIGLIP_TEXTS {len(tensors['text.ids']) if 'text.ids' in tensors else 0}"
    for tower, config in about["config"].items():
        yield f"#define NPSIGLIP_{tower.upper()} {int(config is not None)}"
        for field, value in (config or {}).items():
            if isinstance(value, str):
                field, value = "gelu_erf", int(value == "gelu_erf")
            number = int(value) if isinstance(value, bool) else value
            yield f"#define NPSIGLIP_{tower.upper()}_{field.upper()} {number!r}"


def _data_header(
    about: Mapping[str, Any], tensors: Mapping[str, Array], checks: Sequence[Check], places: Mapping[str, int]
) -> str:
    lines = [
        "/* What is in tensors.bin, what results are held to, and the model's sizes. Written by npsiglip. */",
        "#ifndef NPSIGLIP_PACK_DATA_H\n#define NPSIGLIP_PACK_DATA_H\n#include <stdint.h>\n",
        *_constants(about, tensors),
        "\ntypedef struct { const char *name, *type; int axes, shape[4]; long long offset, count; } NpsiglipTensor;",
        "typedef struct { int level; const char *tap, *operation; int measure; double floor, limit; } NpsiglipCheck;",
        "enum { NPSIGLIP_EXACT, NPSIGLIP_LARGEST, NPSIGLIP_RELATIVE, NPSIGLIP_ORDER }; /* measures */\n",
        f"static const char *const npsiglip_texts[] = {{{', '.join(map(c_text, about['texts'])) or '0'}}};\n",
        "static const NpsiglipTensor npsiglip_tensors[] = {",
    ]
    for name, x in tensors.items():
        shape = ", ".join(map(str, x.shape)) or "1"
        lines.append(
            f"    {{{c_text(name)}, {c_text(C_TYPES[x.dtype.name])}, {x.ndim}, {{{shape}}}, {places[name]}, {x.size}}},"
        )
    lines += [f"}};\n#define NPSIGLIP_TENSORS {len(tensors)}\n", "static const NpsiglipCheck npsiglip_checks[] = {"]
    for check in checks:
        measure, near = MEASURES[check.measure], f"{check.floor!r}, {check.limit!r}"
        lines.append(f"    {{{check.level}, {c_text(check.tap)}, {c_text(check.operation)}, {measure}, {near}}},")
    lines += [f"}};\n#define NPSIGLIP_CHECKS {len(checks)}\n"]
    lines += [_array(name, x) for name, x in tensors.items() if x.size <= SMALL and not name.startswith(WEIGHTS)]
    return "\n".join([*lines, "#endif\n"])


def write_c(folder: Path, tensors: Mapping[str, Array], checks: Sequence[Check], about: Mapping[str, Any]) -> None:
    """Write tensors.bin, manifest.json with the place of each tensor in it, and the headers.

    Args:
        folder: of the pack.
        tensors: names -> arrays: float32, int32 or uint8, of at most four axes.
        checks: what candidates are held to.
        about: the content of pack.json.

    Raises:
        OSError: the folder cannot be written.
    """
    places, manifest = {}, {}
    with (folder / RAW).open("wb") as file:
        for name, x in tensors.items():
            file.write(bytes(-file.tell() % ALIGNED))
            places[name] = file.tell()
            little = x.dtype.newbyteorder("<")
            file.write(np.ascontiguousarray(x, little).tobytes())
            manifest[name] = {"file": RAW, "dtype": little.str, "shape": list(x.shape), "offset": places[name]}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=0) + "\n", encoding="utf-8")
    (folder / DATA_HEADER).write_text(_data_header(about, tensors, checks, places), encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(RUNNER), folder / RUNNER)
