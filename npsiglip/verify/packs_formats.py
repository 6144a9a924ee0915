"""The files of a pack: one of safetensors, one npz, ONNX's test data, or raw numbers with headers for C."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from npsiglip.errors import InputError
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.packs import ENDS, TENSORS, WEIGHTS, Check
from npsiglip.verify.packs_c import write_c

Array = NDArray[Any]


def _data_sets(tensors: Mapping[str, Array], checks: Sequence[Check]) -> list[dict[str, Any]]:
    """What test data there is: the whole model, each tower with all of its taps, and the single operations."""
    inputs = [tap for tap in (PIXELS, IDS) if tap in tensors]
    sets = [{"level": 4, "what": "model", "inputs": inputs, "outputs": [tap for tap in ENDS if tap in tensors]}]
    for tower, given in (("image", PIXELS), ("text", IDS)):
        taps = [check.tap for check in checks if check.level == 3 and check.tap.startswith(tower)]
        if taps:
            sets.append({"level": 3, "what": tower, "inputs": [given], "outputs": taps})
    for check in checks:
        if check.level == 2:
            sets.append({"level": 2, "what": check.tap, "inputs": list(check.inputs), "outputs": [check.tap]})
    return [{"folder": f"test_data_set_{i}", **one} for i, one in enumerate(sets)]


def _onnx(folder: Path, tensors: Mapping[str, Array], checks: Sequence[Check], about: dict[str, Any]) -> None:
    """test_data_set_N/input_k.pb and output_k.pb, by which `about` tells what N is; other tensors by their names."""
    try:
        from onnx import numpy_helper
    except ImportError:
        raise InputError("ONNX's test data are written by the onnx package: pip install onnx") from None

    def write(place: Path, name: str) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(numpy_helper.from_array(tensors[name], name).SerializeToString())

    about["data_sets"] = _data_sets(tensors, checks)
    written = set()
    for one in about["data_sets"]:
        for side in ("input", "output"):
            for k, name in enumerate(one[f"{side}s"]):
                write(folder / one["folder"] / f"{side}_{k}.pb", name)
                written.add(name)
    for name in tensors:
        if name not in written:
            write(folder / (f"{name}.pb" if name.startswith(WEIGHTS) else f"other/{name}.pb"), name)


def write_tensors(
    folder: Path, kind: str, tensors: Mapping[str, Array], checks: Sequence[Check], about: dict[str, Any]
) -> None:
    """Write the tensors of a pack.

    Args:
        folder: of the pack.
        kind: a key of `TENSORS`.
        tensors: names -> arrays: float32, int32 or uint8.
        checks: what candidates are held to.
        about: the content of pack.json, to which is added where tensors are, if names do not tell.

    Raises:
        InputError: no onnx package.
        OSError: the folder cannot be written.
    """
    if kind == "safetensors":
        save_file(dict(tensors), folder / TENSORS[kind])
    elif kind == "npz":
        with (folder / TENSORS[kind]).open("wb") as file:
            np.savez(file, **tensors)  # type: ignore[arg-type]
    elif kind == "onnx-pb":
        _onnx(folder, tensors, checks, about)
    else:
        write_c(folder, tensors, checks, about)
