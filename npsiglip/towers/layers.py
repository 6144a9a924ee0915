"""Layers with packed weights, and the matrices between them, in one of three element types.

    dtype       weights and what they multiply            sums       stream, LayerNorm, softmax
    float32     float32                                   float32    float32 (LayerNorm in float64 inside)
    bfloat16    bfloat16                                  float32    float32
    int8        int8 per column, uint8 per row            int32      float32

A layer knows nothing of the model that it is part of: which activation it has, and in which order its input comes, is
said by whoever makes it.

Dimensions: M rows (tokens of all inputs), K numbers in, N numbers out, D width.

Left out: which layers there are and what they compute together; that is `npsiglip.towers.blocks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from npsiglip.config import GELU_ERF, GELU_TANH
from npsiglip.element_types import ELEMENT_TYPES
from npsiglip.errors import InputError
from npsiglip.kernels import gemm, layer_norm, pack, quantize
from npsiglip.params import Params, release
from npsiglip.trace import Forget, widen

Array = NDArray[np.float32]
Lanes = NDArray[np.uint32]

NO_RESIDUAL: Array = np.empty((0, 0), np.float32)
ACTIVATIONS = {GELU_TANH: gemm.GELU_TANH, GELU_ERF: gemm.GELU_ERF}  # a configuration's name -> the kernel's number
Order = Callable[[NDArray[np.floating]], NDArray[np.floating]]
"""Weights [K, N] as they are stored -> [N, K], the weights of each output in the order in which its input comes."""


def as_stored(w: NDArray[np.floating]) -> NDArray[np.floating]:
    """The `Order` of nearly all layers: weights [K, N] -> [N, K], for inputs in the order of the weights' rows."""
    return w.T


def padded(k: int, dtype: str) -> int:
    """How long a row of `k` numbers is in whole steps (`npsiglip.kernels.pack`)."""
    return ELEMENT_TYPES[dtype].padded(k)


def _read_only(a: NDArray[Any]) -> NDArray[Any]:
    """A view, as mapped files are: one type, so one compiled kernel."""
    view = a.view()
    view.flags.writeable = False
    return view


class Room:
    """Where packed weights and work arrays lie: what is lent for a single use, and what is given for good.

    The latter is cut from large blocks: the system backs large blocks with large pages.
    """

    BLOCK = 1 << 23  # lanes, 32 MB
    ALIGNMENT = 16  # lanes: a cache line

    def __init__(self) -> None:
        self._scratch: dict[str, Lanes] = {}
        self._block: Lanes = np.empty(0, np.uint32)

    def lend(self, purpose: str, size: int) -> Lanes:
        """An array that the next call for this purpose may overwrite."""
        if purpose not in self._scratch or len(self._scratch[purpose]) < size:
            self._scratch[purpose] = self._aligned(size)
        return self._scratch[purpose][:size]

    def give(self, size: int) -> Lanes:
        """An array of one's own."""
        if len(self._block) < size:
            self._block = self._aligned(max(size, self.BLOCK))
        size = -(-size // self.ALIGNMENT) * self.ALIGNMENT
        room, self._block = self._block[:size], self._block[size:]
        return room

    def _aligned(self, size: int) -> Lanes:
        block = np.empty(size + 2 * self.ALIGNMENT, np.uint32)
        start = -block.ctypes.data // block.itemsize % self.ALIGNMENT
        return block[start:]

    def array(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """An array of one's own, of any type; uninitialised."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        found: NDArray[Any] = self.give(-(-size // 4)).view(np.uint8)[:size].view(dtype).reshape(shape)
        return found


class Matrix:
    """A matrix [M, K] that linear layers of a dtype read.

    Args:
        rows, columns: M and K.
        dtype: of the layers.
        from_float32: the kernel that fills it writes float32 also where bfloat16 could be written directly.
        room: where it lies.

    It is filled by a kernel, which writes `out` by its address, and then `ready`; or by Python, with `fill` alone.

    Attributes:
        out: what a kernel fills; then `ready` must be called. Read-only for Python: it may hold the bits of bfloat16,
            and NumPy would cast floats to whole numbers without a word.
        values: what a product reads; uint16 for bfloat16, uint8 for int8; each row has whole steps.
        scales: of int8 rows, and their zero points.
    """

    def __init__(
        self, rows: int, columns: int, dtype: str, from_float32: bool = False, room: Room | None = None
    ) -> None:
        room = room or Room()
        self.scales: tuple[Array, NDArray[np.int32]] = (np.empty(0, np.float32), np.empty(0, np.int32))
        shape = rows, padded(columns, dtype)
        if dtype == "float32":
            self.values: NDArray[Any] = room.array(shape, np.float32)
        elif dtype == "bfloat16":
            self.values = room.array(shape, np.uint16)
        else:
            self.values = room.array(shape, np.uint8)
            self.scales = np.empty(rows, np.float32), np.empty(rows, np.int32)
        self.values[:, columns:] = 0
        direct = dtype == "float32" or (dtype == "bfloat16" and shape[1] == columns and not from_float32)
        self._written = self.values if direct else room.array((rows, columns), np.float32)
        self.out = _read_only(self._written)

    def fill(self, x: NDArray[np.floating]) -> None:
        """Hold the numbers x, M * K of them in any shape and float type; nothing is left for `ready`.

        Not in a pass that is recorded.

        Raises:
            TypeError: x is of another type.
        """
        if x.dtype.kind not in "fV":  # V: ml_dtypes' bfloat16
            raise TypeError(f"a matrix is filled with floats, got {x.dtype}")
        if self._written.dtype == np.float32:
            np.copyto(self._written.reshape(x.shape), x, casting="same_kind")
            self.ready()
        else:
            pack.to_bf16(np.ascontiguousarray(x, np.float32).reshape(self._written.shape), self._written)

    def ready(self) -> None:
        """Make `values` of what a kernel wrote to `out`."""
        if self._written is self.values:
            return
        if self.values.dtype == np.uint16:
            pack.to_bf16(self._written, self.values)
        else:
            quantize.quantize_rows(self._written, self.values, *self.scales)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The numbers that were written to `out`, float32; for traces."""
        return np.array(widen(self.out) if self.out.dtype == np.uint16 else self.out, dtype, copy=copy)


class Packed(NamedTuple):
    """The weights of linear layers beside each other as `npsiglip.kernels.gemm` reads them.

    `dtype` is the element type that `panels` hold, uint32 [ceil(N / 16), steps, 16], read-only; for int8 `scale` [N]
    and `total` [N], else empty.
    """

    dtype: str
    panels: Lanes
    scale: Array
    total: NDArray[np.int32]


class Packer:
    """Packs the weights of linear layers beside each other, of any float type.

    They are read when they are packed. Those of a checkpoint, which are mapped files, are let go then.

    Args:
        params: hold the weights.
        names: of the weights, [K, N] each.
        dtype: that they are packed in.
        room: where they are packed to.
        order: in which their input comes.
    """

    def __init__(self, params: Params, names: list[str], dtype: str, room: Room, order: Order = as_stored) -> None:
        self.params, self.names, self.dtype, self.room, self.order = params, names, dtype, room, order

    def __call__(self, keep: bool) -> Packed:
        """The packed weights, to `keep` in memory of their own, or in memory that the next layer overwrites.

        Raises:
            InputError: int8 with more terms than its sums have room for.
        """
        # the weights of each output, [N, K]: views of what is stored
        weights = [self.order(self.params[name]) for name in self.names]
        n, k = sum(map(len, weights)), weights[0].shape[1]
        if self.dtype == "int8" and k > quantize.MAX_K:
            raise InputError(
                f"{', '.join(self.names)}: int8 products have at most {quantize.MAX_K:,} terms, this has {k:,}; use "
                "bfloat16"
            )
        # room for the panels of all layers, and for the scales and totals of all columns
        shape = pack.panels_shape(k, n, self.dtype)
        size = int(np.prod(shape))
        panels = (self.room.give(size) if keep else self.room.lend("panels", size))[:size].reshape(shape)
        sums = n if self.dtype == "int8" else 0
        scale, total = np.empty(sums, np.float32), np.empty(sums, np.int32)
        # one layer after the other: to its element type, and into its columns of the panels
        first = 0
        for weight in weights:
            end = first + len(weight)
            lanes = self._lanes(weight, scale[first:end], total[first:end])
            pack.pack(_read_only(lanes), first, panels)
            first = end
        # files that were read for this are not read again soon
        release(self.params, self.names)
        return Packed(self.dtype, _read_only(panels), scale, total)

    def _lanes(self, weight: NDArray[np.floating], scale: Array, total: NDArray[np.int32]) -> Lanes:
        """What each column holds in its element type, [N, steps], of a layer's weights [N, K].

        `scale` [N] and `total` [N] are filled for int8, and otherwise empty.
        """
        n, k = weight.shape
        width = padded(k, self.dtype)
        # bfloat16 as it is stored, in whole steps: the bits are those already
        if self.dtype == "bfloat16" and weight.dtype == ml_dtypes.bfloat16 and width == k:
            return np.ascontiguousarray(weight).view(np.uint32)
        # everything else starts from float32, and is rounded from there
        w = np.ascontiguousarray(weight, np.float32)
        if self.dtype == "float32":
            return w.view(np.uint32)
        lanes = self.room.lend("lanes", n * width // ELEMENT_TYPES[self.dtype].per_step)
        if self.dtype == "bfloat16":
            pack.to_bf16(_read_only(w), lanes.view(np.uint16)[: n * width].reshape(n, width))
        else:
            q = lanes.view(np.uint8)[: n * width].reshape(n, width)
            quantize.quantize_weights(_read_only(w), q, scale, total)
        return lanes.reshape(n, -1)


class Linear:
    """A linear layer, or several with the same input beside each other.

    Until its weights are kept, they are packed whenever they are needed, into memory that all layers share and that
    stays in the cache; to keep them lets the originals go. So a program that classifies one image does not fill memory
    with weights that it uses once.

    Args:
        name: of the trace's tap.
        weights: packed already, or what packs them.
        b: [N] float32, of all layers together.
        dtype: of the weights, and of the matrices that it reads.
        activation: that ends it: `gemm.NO_ACTIVATION`, `gemm.GELU_TANH` or `gemm.GELU_ERF`.
    """

    def __init__(
        self, name: str, weights: Packed | Packer, b: Array, dtype: str, activation: int = gemm.NO_ACTIVATION
    ) -> None:
        self.name, self.b, self.dtype, self.activation = name, b, dtype, activation
        self._packed = weights if isinstance(weights, Packed) else None
        self._packer = None if isinstance(weights, Packed) else weights

    def packed(self, keep: bool) -> Packed:
        """The packed weights; to `keep` them lets the originals go, and they stay as they are."""
        if self._packed is not None:
            return self._packed
        assert self._packer is not None
        packed = self._packer(keep)
        if keep:
            self._packed, self._packer = packed, None
        return packed

    def __call__(self, x: Matrix, out: NDArray[Any], trace: Forget, *, residual: Array = NO_RESIDUAL) -> NDArray[Any]:
        """residual + activation(x w + b), into `out`.

        Args:
            x: [M, K].
            out: [M, N], float32 or the bits of bfloat16; it may be the residual.
            trace: for x w + b, under the layer's name, before activation and residual.
            residual: [M, N]; or fewer rows, which are repeated; or none.
        """
        dtype, panels, scale, total = self.packed(keep=False)
        # what the product makes is the tap, unless something follows in the same kernel, which then writes both
        activation = self.activation
        fused = activation != gemm.NO_ACTIVATION or residual.size > 0
        before = trace.room(self.name, out.shape) if fused else NO_RESIDUAL
        gemm.linear(x.values, panels, dtype, (*x.scales, scale, total), self.b, activation, residual, before, out)
        if not fused:
            trace[self.name] = out
        return out


class LayerNorm(NamedTuple):
    """A LayerNorm: `scale` and `b` [D]."""

    name: str
    scale: Array
    b: Array
    eps: float

    def __call__(self, x: Array, out: Matrix, trace: Forget) -> Matrix:
        """(x - mean) / sqrt(var + eps) * scale + b, of each row of x [M, D], into `out` [M, D]."""
        layer_norm.layer_norm(x, self.scale, self.b, self.eps, out.out)
        trace[self.name] = out
        out.ready()
        return out


class Layers:
    """Makes the layers of a tower from its parameters.

    Args:
        params: of a float checkpoint; or of a quantised one, see `npsiglip.params.StoredParams`.
        dtype: of the blocks' linear layers.

    Attributes:
        outer: the dtype of the layers outside of blocks: bfloat16 instead of int8, since a rounding error at the
            edges of the model is not averaged by what follows, and there is little to gain.
        linears: all linear layers made so far, by the name that a quantised checkpoint gives them.
    """

    def __init__(self, params: Params, dtype: str) -> None:
        self.params, self.dtype = params, dtype
        self.outer = ELEMENT_TYPES[dtype].outer
        self.linears: dict[str, Linear] = {}
        self._room = Room()

    def array(self, name: str) -> Array:
        """A parameter as float32, a copy."""
        return np.array(self.params[name], np.float32)

    def linear(
        self,
        name: str,
        dtype: str,
        parts: tuple[str, ...] = (),
        activation: int = gemm.NO_ACTIVATION,
        order: Order = as_stored,
    ) -> Linear:
        """The linear layer `name`, or the `parts` of it beside each other: q, k and v are stored as qkv.

        Args:
            name: of the layer.
            dtype: of its weights, unless they are packed already.
            parts: letters.
            activation: that ends it.
            order: in which its input comes; weights that are packed already have it.
        """
        stored = f"{name}.{''.join(parts)}" if parts else name
        if f"{stored}.panels" in self.params:
            panels = self.params[f"{stored}.panels"]
            lanes = _read_only(panels.reshape(*panels.shape[:2], -1).view(np.uint32))
            empty = np.empty(0)
            scale, total = (self.params.get(f"{stored}.{what}", empty) for what in ("scale", "total"))
            weights: Packed | Packer = Packed(dtype, lanes, np.array(scale, np.float32), np.array(total, np.int32))
            b = self.array(f"{stored}.b")
        else:
            names = [f"{name}.{part}" for part in parts] or [name]
            weights = Packer(self.params, [f"{n}.w" for n in names], dtype, self._room, order)
            b = np.concatenate([self.array(f"{n}.b") for n in names])
        self.linears[stored] = Linear(name, weights, b, dtype, activation)
        return self.linears[stored]

    def layer_norm(self, name: str, eps: float) -> LayerNorm:
        """The LayerNorm `name`."""
        return LayerNorm(name, self.array(f"{name}.scale"), self.array(f"{name}.b"), eps)
