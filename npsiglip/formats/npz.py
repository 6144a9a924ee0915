"""Named arrays in NumPy's npz files: mapped for reading, written one by one.

An npz is a ZIP archive of npy files. Those that are stored as they are, which is how big_vision and `np.savez` write
them, are mapped; others (compressed, or in Fortran's order) are unpacked when they are used. NumPy writes what it has
no type for, bfloat16, as two bytes of anything (`V2`).

Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, and section 4.3.7 of PKWARE's APPNOTE
for what precedes a file in an archive.

Leaves out: pickled objects, which could run any code when read; their names are listed.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from npsiglip.errors import CheckpointError
from npsiglip.formats.stored import NAMES, TYPES, MadeTensor, MappedTensor, Spec, StoredTensor, map_file

SUFFIX = ".npz"
_MEMBER = ".npy"

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_ANY_TWO_BYTES = np.dtype("V2")
_DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError, struct.error, NotImplementedError, SyntaxError)


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and type of the npy file that starts here."""
    version = npy.read_magic(file)
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"an npy file of version {version}")
    return readers[version](file)


def _skip_local_header(file: BinaryIO, info: zipfile.ZipInfo) -> None:
    """Go to a member's first byte. Its own header may differ in length from that in the directory at the end."""
    file.seek(info.header_offset)
    header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile(f"{info.filename} is not where the archive's directory says")
    name, extra = struct.unpack("<HH", header[26:30])
    file.seek(info.header_offset + len(header) + name + extra)


def _unpacker(path: Path, info: zipfile.ZipInfo, dtype: np.dtype[Any]) -> Callable[[], NDArray[Any]]:
    def unpack() -> NDArray[Any]:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(info) as file:
                read = npy.read_array(file, allow_pickle=False)
        except (*_DAMAGED, OSError) as error:
            raise CheckpointError(f"{path} has a damaged {info.filename}: {error}; download it again") from None
        values = np.empty(read.shape, dtype)
        values.view(read.dtype)[...] = read
        return values

    return unpack


def _open_member(path: Path, file: BinaryIO, memory: mmap.mmap | bytes, info: zipfile.ZipInfo) -> StoredTensor:
    stored = info.compress_type == zipfile.ZIP_STORED
    if stored:
        _skip_local_header(file, info)
        start = file.tell()
        shape, fortran, dtype = _read_header(file)
        offset = file.tell()
    else:
        with zipfile.ZipFile(path) as archive, archive.open(info) as unpacked:
            shape, fortran, dtype = _read_header(unpacked)
    if dtype == _ANY_TWO_BYTES:
        dtype = _BFLOAT16
    name = NAMES.get(dtype, str(dtype))
    if not stored or (fortran and len(shape) > 1):
        return MadeTensor(path, name, shape, _unpacker(path, info, dtype))
    if name in TYPES and start + info.file_size != offset + Spec(name, shape).nbytes:
        raise ValueError(f"{info.filename} has another size than its shape {list(shape)} says")
    return MappedTensor(path, name, shape, offset, memory)


def open_npz(path: Path) -> dict[str, StoredTensor]:
    """Name -> array of an npz file, from its headers alone.

    Raises:
        CheckpointError: for a file that is missing, cut short, damaged, or in another format.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            memory = map_file(file)
            members = [info for info in archive.infolist() if info.filename.endswith(_MEMBER)]
            tensors = {m.filename.removesuffix(_MEMBER): _open_member(path, file, memory, m) for m in members}
            if len(tensors) < len(members):
                raise ValueError("a name is in it twice")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error}") from None
    except _DAMAGED as error:
        raise CheckpointError(
            f"{path} is cut short, damaged or no npz file ({path.stat().st_size:,} bytes): {error}; download it again"
        ) from None
    return tensors


def write_npz(path: Path, names: Mapping[str, Any], array: Callable[[str], NDArray[Any]]) -> None:
    """Write an npz file, one array in memory at a time.

    Args:
        path: of the file.
        names: of the arrays, in order.
        array: name -> the values.

    Raises:
        OSError: if the file cannot be written.
    """
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            values = array(name)
            if values.dtype == _BFLOAT16:
                values = values.view(_ANY_TWO_BYTES)
            with archive.open(name + _MEMBER, "w", force_zip64=True) as file:
                npy.write_array(file, values, allow_pickle=False)
