"""Traces in files: safetensors, npz, a folder of .npy, raw float32 with a manifest, ONNX's test data, debug trees.

Tensors are mapped or read one at a time. Nothing is executed or unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from npsiglip.errors import InputError
from npsiglip.verify.debug_tree import read_tree, tree_of

Array = NDArray[Any]
MANIFEST, ORIGIN = "manifest.json", "npsiglip.json"
FORMS = (
    "a .safetensors or .npz file; a folder of .safetensors or .npy files; a folder with manifest.json and raw numbers; "
    "a folder of ONNX's .pb files; or a debug tree of transformers"
)


class Tensors(Mapping[str, Array]):
    """Names and what reads each; `meta` is what the file says of itself."""

    def __init__(self, readers: Mapping[str, Callable[[], Array]], source: str, meta: Mapping[str, Any]) -> None:
        self._readers, self.source, self.meta = dict(readers), source, meta

    def __getitem__(self, name: str) -> Array:
        try:
            return self._readers[name]()
        except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile, SafetensorError) as error:
            raise InputError(f"{self.source}: {name} cannot be read ({error}): write the trace again") from None

    def __contains__(self, name: object) -> bool:  # Mapping's own would read the tensor
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def _safetensors(path: Path) -> Tensors:
    try:
        file: Any = safe_open(path, "np")
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no whole safetensors file ({error}): write it again") from None
    meta = file.metadata() or {}
    order = json.loads(meta["order"]) if "order" in meta else list(file.keys())
    origin = json.loads(meta["npsiglip"]) if "npsiglip" in meta else {}
    names = [name for name in order if name in set(file.keys())]
    return Tensors({name: (lambda name=name: file.get_tensor(name)) for name in names}, str(path), origin)  # type: ignore[misc]


def _npz(path: Path) -> Tensors:
    def read(name: str) -> Array:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            return np.asarray(opened[name])

    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as opened:
            names = list(opened.files)
    except Exception as error:  # whatever a damaged zip makes of it
        raise InputError(f"{path} is no whole npz file ({error}): write it again") from None
    origin = json.loads(str(read(ORIGIN))) if ORIGIN in names else {}
    return Tensors({name: partial(read, name) for name in names if name != ORIGIN}, str(path), origin)


def _folder_of_arrays(folder: Path, files: list[Path]) -> Tensors:
    readers = {}
    for file in files:
        name = str(file.relative_to(folder).with_suffix("")).replace("\\", "/").replace("/", ".")
        readers[name] = lambda file=file: np.load(file, mmap_mode="r", allow_pickle=False)
    return Tensors(readers, str(folder), {})


def _folder_of_safetensors(folder: Path, files: list[Path]) -> Tensors:
    """One tensor a file, or a trace in several files."""
    readers: dict[str, Callable[[], Array]] = {}
    for file in files:
        tensors = _safetensors(file)
        for name in tensors:
            whole = file.stem if len(tensors) == 1 else name
            if whole in readers:
                raise InputError(
                    f"{folder} holds {whole} in several files, {file.name} among them: give one trace alone"
                )
            readers[whole] = lambda tensors=tensors, name=name: tensors[name]  # type: ignore[misc]
    return Tensors(readers, str(folder), {})


def _raw(folder: Path, manifest: Path) -> Tensors:
    """{"tap": {"file": "x.bin", "shape": [...], "dtype": "float32", "offset": 0}} and the files beside it."""
    try:
        entries = json.loads(manifest.read_text(encoding="utf-8"))
        items = [(str(name), dict(entry)) for name, entry in entries.items()]
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f'{manifest} must be {{"tap": {{"file", "shape", "dtype"}}}} in JSON; {error}') from None
    readers = {}
    for name, entry in items:

        def read(entry: dict[str, Any] = entry) -> Array:
            file = (folder / str(entry["file"])).resolve()
            if not file.is_relative_to(folder.resolve()):
                raise ValueError(f"{entry['file']} lies outside of the folder")
            dtype = np.dtype(str(entry.get("dtype", "float32")))
            if dtype.hasobject:
                raise ValueError(f"{dtype} are no numbers")
            shape = tuple(int(side) for side in entry["shape"])
            return np.memmap(file, dtype, "r", int(entry.get("offset", 0)), shape)

        readers[name] = read
    return Tensors(readers, str(folder), {})


def _onnx(folder: Path, files: list[Path]) -> Tensors:
    try:
        import onnx
        from onnx import numpy_helper
    except ImportError:
        raise InputError(f"{folder} holds ONNX's .pb files, which the onnx package reads: pip install onnx") from None
    readers: dict[str, Callable[[], Array]] = {}
    for file in files:
        tensor = onnx.TensorProto()
        try:
            tensor.ParseFromString(file.read_bytes())
        except Exception as error:  # protobuf's DecodeError
            raise InputError(f"{file} is no tensor of ONNX ({error})") from None
        readers[tensor.name or file.stem] = lambda tensor=tensor: numpy_helper.to_array(tensor)  # type: ignore[misc]
    return Tensors(readers, str(folder), {})


def read_traces(path: str | Path) -> Tensors:
    """The tensors of a candidate or of a golden trace, by their names, in their order.

    Raises:
        InputError: what is there is no trace, or is damaged; which forms there are.
    """
    path = Path(path)
    if path.exists() and (tree := tree_of(path)) is not None:
        found = Tensors(read_tree(tree), str(tree), {})
    elif path.is_file() and path.suffix == ".safetensors":
        found = _safetensors(path)
    elif path.is_file() and path.suffix == ".npz":
        found = _npz(path)
    elif path.is_dir():
        found = _folder(path)
    elif path.exists():
        raise InputError(f"{path} is no trace; expected {FORMS}")
    else:
        raise InputError(f"{path} does not exist; expected {FORMS}")
    if not found:
        raise InputError(f"{path} holds no tensor; expected {FORMS}")
    return found


def _folder(path: Path) -> Tensors:
    if (path / MANIFEST).is_file():
        return _raw(path, path / MANIFEST)
    for suffix, read in ((".npy", _folder_of_arrays), (".safetensors", _folder_of_safetensors), (".pb", _onnx)):
        if files := sorted(path.rglob(f"*{suffix}")):
            return read(path, files)
    raise InputError(f"{path} holds no trace; expected {FORMS}")
