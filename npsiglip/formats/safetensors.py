"""Named arrays in safetensors files, one file or several with an index: mapped for reading, written atomically.

The safetensors library judges a file's header; the bytes are then mapped here, because the library's own NumPy
tensors are copies: another 768 MB for the embedding of a vocabulary of 250,000, of which a text looks up 64 rows.

Source: the format's description at https://huggingface.co/docs/safetensors, and the `model.safetensors.index.json`
of Hugging Face's `save_pretrained`.

Leaves out: complex tensors, and whole numbers other than int8 and int32 (their names are listed, their values are
not readable).
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from npsiglip.atomic import write_all
from npsiglip.errors import CheckpointError
from npsiglip.formats.stored import TYPES, MappedTensor, Spec, map_file
from npsiglip.json_files import ERRORS, parse

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"

START = 64  # bytes, a cache line: where data begin in files written tensor by tensor


def _names(names: Iterable[Any], limit: int = 5) -> str:
    names = sorted(names)
    rest = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + rest


def _damage(path: Path, size: int) -> str:
    """The likely reason why `path` is not a safetensors file."""
    if size == 0:
        return "is empty: download it again"
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer and not the weights themselves: run `git lfs pull` in its folder"
    if start.startswith(b"PK\x03\x04"):
        return "is a PyTorch pickle and not a safetensors file: convert it with transformers' save_pretrained"
    return f"is cut short, damaged or no safetensors file ({size:,} bytes): download it again"


def _check_format(path: Path, memory: mmap.mmap | bytes) -> None:
    """Let the safetensors library judge the header: sizes, types, offsets, nothing missing at the end."""
    size = path.stat().st_size
    try:
        if isinstance(memory, bytes):  # the library maps files too, which could not be done
            deserialize(memory)  # type: ignore[no-untyped-call]
        else:
            with safe_open(path, framework="np"):
                pass
    except SafetensorError as error:
        raise CheckpointError(f"{path} {_damage(path, size)} (safetensors: {error})") from None


def open_file(path: Path) -> dict[str, MappedTensor]:
    """Name -> tensor of one safetensors file, from its header alone.

    Raises:
        CheckpointError: for a file that is missing, empty, cut short, damaged, or in another format.
    """
    try:
        with path.open("rb") as file:  # first, because the library calls a file without permission missing
            memory = map_file(file) if path.stat().st_size else b""
            _check_format(path, memory)
            start = 8 + int.from_bytes(memory[:8], "little")
            text = memory[8:start]
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error}") from None
    try:
        header = parse(text)
    except ERRORS as error:
        raise CheckpointError(f"{path} has a damaged header: {error}; download it again") from None
    header.pop("__metadata__", None)
    return {
        name: MappedTensor(path, entry["dtype"], tuple(entry["shape"]), start + entry["data_offsets"][0], memory)
        for name, entry in header.items()
    }


def _read_index(path: Path) -> dict[str, str]:
    """Tensor name -> file name, as the index of a sharded model says."""
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (OSError, *ERRORS) as error:
        raise CheckpointError(
            f"{path} cannot be read as the index of a sharded model: {error}; download it again"
        ) from None
    weight_map = content.get("weight_map") if isinstance(content, dict) else None
    if not weight_map or not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{path} must have a 'weight_map' from tensor names to file names: download it again")
    outside = {name for name in weight_map.values() if name in ("", ".", "..") or re.search(r"[/\\\0]", name)}
    if outside:
        raise CheckpointError(
            f"{path} must name files of its own folder, got {_names(map(repr, outside))}; a safe index never "
            "points outside: download the model again from a source that you trust"
        )
    return weight_map


def shards_of(index: Path) -> list[str]:
    """The names of the files that hold the weights, as the index of a sharded model says.

    Raises:
        CheckpointError: the index cannot be read.
    """
    return sorted(set(_read_index(index).values()))


def _open_sharded(index: Path) -> dict[str, MappedTensor]:
    weight_map, shards = _read_index(index), shards_of(index)
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
        raise CheckpointError(
            f"{index} names {len(shards)} files, but {index.parent} lacks {_names(missing)}: download what is missing"
        )
    tensors: dict[str, MappedTensor] = {}
    for shard in shards:
        for name, tensor in open_file(index.parent / shard).items():
            if name in tensors:
                raise CheckpointError(
                    f"{name} is both in {tensors[name].path.name} and {shard} of {index.parent}: the files are "
                    "of different models or saves; download all of them again"
                )
            tensors[name] = tensor
    for shard in shards:
        listed = {name for name, where in weight_map.items() if where == shard}
        inside = {name for name, tensor in tensors.items() if tensor.path.name == shard}
        for names, what in ((listed - inside, "has no"), (inside - listed, "has, unlisted in the index,")):
            if names:
                raise CheckpointError(
                    f"{index.parent / shard} {what} {_names(names)}: the index and this file are of "
                    "different saves; download both again"
                )
    return tensors


def open_folder(folder: Path) -> dict[str, MappedTensor]:
    """Name -> tensor of a model folder: model.safetensors or, without it, the files of its index.

    Raises:
        CheckpointError: as `open_file`; for weights that are missing or in another format; for an index that does
            not say where exactly the tensors are.
    """
    if (folder / SINGLE).exists():
        return open_file(folder / SINGLE)
    if (folder / INDEX).exists():
        return _open_sharded(folder / INDEX)
    if any(folder.glob("pytorch_model*.bin")):
        raise CheckpointError(
            f"{folder} has its weights only as pytorch_model.bin, a pickle, which could run any code when read; "
            "expected model.safetensors. Convert it once, where transformers and torch are installed: python -c "
            f"\"from transformers import AutoModel; AutoModel.from_pretrained('{folder}')"
            f".save_pretrained('{folder}')\""
        )
    raise CheckpointError(f"{folder} has neither {SINGLE} nor {INDEX}: download the weights of the model")


def json_writer(content: Any) -> Callable[[Path], object]:
    """For `write_all`: what writes `content` as JSON."""
    text = json.dumps(content, indent=2, sort_keys=True) + "\n"
    return lambda path: path.write_text(text, encoding="utf-8")


def write_tensors(path: Path, specs: Mapping[str, Spec], parts: Callable[[str], Iterable[NDArray[Any]]]) -> None:
    """Write a file tensor by tensor, in the order of `specs`; the library wants all of them in memory.

    Data begin at a multiple of 64 bytes. Readers that look at the metadata, as transformers does, find the format
    "npsiglip" there and refuse the file.

    Args:
        path: of the file.
        specs: of each tensor.
        parts: name -> the values, whole or in parts that follow each other; of the type in `specs`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "npsiglip"}}
    end = 0
    for name, spec in specs.items():
        header[name] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [end, end := end + spec.nbytes]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % START)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, spec in specs.items():
            written = 0
            for part in parts(name):
                assert part.dtype == TYPES[spec.dtype], f"{name}: {part.dtype}"
                written += file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
            assert written == spec.nbytes, f"{name}: {written} bytes of {spec.nbytes}"


def _split(sizes: Mapping[str, int], limit: int | None) -> list[list[str]]:
    """The names in order, in groups of at most `limit` bytes; a larger tensor stands alone."""
    groups: list[list[str]] = [[]]
    used = 0
    for name, size in sizes.items():
        if limit is not None and groups[-1] and used + size > limit:
            groups.append([])
            used = 0
        groups[-1].append(name)
        used += size
    return groups


def write_folder(
    folder: Path,
    config: Any,
    sizes: Mapping[str, int],
    tensor: Callable[[str], NDArray[Any]],
    max_shard_bytes: int | None,
    others: Mapping[str, Callable[[Path], object]],
) -> None:
    """Write config.json and the weights, in one file or, above `max_shard_bytes`, several with an index.

    Args:
        folder: created if it does not exist; files in it are replaced.
        config: the content of config.json.
        sizes: name -> bytes of each tensor.
        tensor: name -> the values; one file's tensors are in memory at a time.
        max_shard_bytes: of tensors in one file, or None for one file whatever its size.
        others: further files, see `write_all`; they are written first.

    Raises:
        CheckpointError: if the folder cannot be written, or holds weights in the other form (one file, several
            files), which a reader could take for these. Then, and when `tensor` raises, all files are as they were.
    """
    groups = _split(sizes, max_shard_bytes)
    files = {f"model-{i:05d}-of-{len(groups):05d}.safetensors": names for i, names in enumerate(groups, start=1)}
    index = {
        "metadata": {"total_size": sum(sizes.values())},
        "weight_map": {name: file for file, names in files.items() for name in names},
    }
    if len(groups) == 1:
        files = {SINGLE: groups[0]}

    def weights_writer(names: list[str]) -> Callable[[Path], object]:
        # transformers 4 refuses files without the entry "format"
        return lambda path: save_file({name: tensor(name) for name in names}, path, metadata={"format": "pt"})

    writers = {**others, "config.json": json_writer(config)}
    writers |= {file: weights_writer(names) for file, names in files.items()}
    if len(groups) > 1:
        writers[INDEX] = json_writer(index)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        other = INDEX if len(groups) == 1 else SINGLE
        if (folder / other).exists():
            raise CheckpointError(
                f"{folder} already holds weights in another form ({other}), which could be taken for these: "
                "choose an empty folder, or remove that model first"
            )
        write_all(folder, writers)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} cannot be written: {error}") from None
