"""A tensor as a file holds it, whatever the file's format, and where a parameter of ours lies inside it.

Element types go by the safetensors format's names. A mapped tensor is read when it is used, and only what is used.

Leaves out: which files there are, and which tensor is which parameter (`safetensors`, `npz`, `hf_names` and its like).
"""

from __future__ import annotations

import errno
import mmap
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from npsiglip.params import Shape

# The format's names of the float types, and NumPy's; always little-endian.
FLOATS: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
TYPES: dict[str, np.dtype[Any]] = FLOATS | {"I8": np.dtype("i1"), "I32": np.dtype("<i4")}
NAMES = {dtype: name for name, dtype in TYPES.items()}

ALIGNMENT = 4  # bytes: compiled code reads smaller elements, too, in lanes of this size


_NOT_MAPPABLE = (errno.ENODEV, errno.ENOSYS, errno.EOPNOTSUPP)


def map_file(file: BinaryIO) -> mmap.mmap | bytes:
    """The content of a file, mapped; read, where its disk cannot be mapped, as some in a network.

    Raises:
        OSError: neither can be done.
    """
    try:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        if error.errno not in _NOT_MAPPABLE:
            raise
    file.seek(0)
    return file.read()


def is_aligned(values: NDArray[Any]) -> bool:
    """Whether compiled code can read these values where they are."""
    return values.flags.aligned and values.ctypes.data % ALIGNMENT == 0


class Spec(NamedTuple):
    """A tensor's type, by the format's name (`F32`), and its shape."""

    dtype: str
    shape: Shape

    @property
    def nbytes(self) -> int:
        """What it takes in a file."""
        return int(np.prod(self.shape, dtype=np.int64)) * TYPES[self.dtype].itemsize


@dataclass(frozen=True)
class MappedTensor:
    """One tensor of a mapped file as its header describes it; nothing is read before `array`.

    A file that cannot be mapped was read, all of it.

    `dtype` is the format's name (`F32`), `offset` the first byte in the file.
    """

    path: Path
    dtype: str
    shape: Shape
    offset: int
    memory: mmap.mmap | bytes

    def array(self) -> NDArray[Any]:
        """The values: a read-only view of the mapped file, which need not be aligned (`is_aligned`)."""
        count = int(np.prod(self.shape, dtype=np.int64))
        return np.frombuffer(self.memory, TYPES[self.dtype], count, self.offset).reshape(self.shape)

    def release(self) -> None:
        """Let the memory go that the values were read into, where the system can; it is read again when touched.

        Pages that hold other tensors, too, stay.
        """
        page = mmap.PAGESIZE
        first = -(-self.offset // page) * page
        end = (self.offset + Spec(self.dtype, self.shape).nbytes) // page * page
        if end > first and hasattr(self.memory, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED, first, end - first)


@dataclass(frozen=True)
class MadeTensor:
    """One tensor that no file holds as it is: unpacked from one, or computed. `make` does it.

    What was made is made again when nobody has kept it.
    """

    path: Path
    dtype: str
    shape: Shape
    make: Callable[[], NDArray[Any]]
    _made: list[weakref.ref[NDArray[Any]]] = field(default_factory=list, compare=False)

    def array(self) -> NDArray[Any]:
        """The values."""
        known = self._made[0]() if self._made else None
        if known is not None:
            return known
        values = self.make()
        self._made[:] = [weakref.ref(values)]
        return values

    def release(self) -> None:
        """For the sake of those that are mapped."""


StoredTensor = MappedTensor | MadeTensor


@dataclass(frozen=True)
class Layout:
    """One of our parameters inside the stored tensor `key` of shape `shape`.

    `view` takes that tensor (or an array of `shape` to fill) and returns a view of the parameter with our axes in
    our order; reshaped to the parameter's shape it is the parameter.
    """

    key: str
    shape: Shape
    view: Callable[[NDArray[Any]], NDArray[Any]]
