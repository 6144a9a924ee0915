"""Layers in training: forward and backward on kernels, from parameters and into gradients.

Other layers than those of `npsiglip.towers.layers`, which pack their weights once, from any float type and for three
element types, and write traces. These read float32 parameters that change at every step, pack them for both directions,
and add up gradients. What both are made of is shared: the kernels.

Parameters, gradients, sums and the residual stream are float32. Linear layers multiply in float32 or in bfloat16: then
their inputs, weights and what comes back to them are rounded to bfloat16 (uint16 holds its bits) before each product.

Each layer is used once by each part of a batch: `forward` may be called for all parts, then `backward` for each with
the arrays that its `forward` was given. Gradients are added to what is there. The order of all sums is fixed: the same
bits for any number of threads. The plain form is `npsiglip.reference.backward`.

Dimensions: M rows (tokens of all inputs), D width, K numbers in, N numbers out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.element_types import BFLOAT16, FLOAT32
from npsiglip.kernels import gemm, layer_norm, layer_norm_gradient, pack, sums
from npsiglip.kernels.steps import ROWS

Array = NDArray[np.float32]
Values = Mapping[str, Array]
NOTHING: Array = np.empty((0, 0), np.float32)
KINDS: dict[str, type] = {kind.name: kind.memory for kind in (FLOAT32, BFLOAT16)}


def with_slack(shape: tuple[int, ...], kind: type = np.float32) -> NDArray[Any]:
    """An array behind which a product of whole tiles may read."""
    size = int(np.prod(shape))
    return np.zeros(size + 2 * ROWS, kind)[:size].reshape(shape)


class Scratch:
    """Work arrays that any layer may overwrite, by purpose; they grow to the largest that was asked for."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, type], NDArray[Any]] = {}

    def __call__(self, purpose: str, *shape: int, kind: type = np.float32) -> NDArray[Any]:
        """An uninitialised array."""
        size, key = int(np.prod(shape)), (purpose, kind)
        if key not in self._arrays or self._arrays[key].size < size:
            self._arrays[key] = with_slack((size,), kind)
        return self._arrays[key][:size].reshape(shape)


class TrainedLinear:
    """A linear layer, or several with the same input beside each other.

    Args:
        names: of the parameters, each with `.w` [K, N] and `.b` [N].
        params: the parameters, which the optimiser changes in place.
        grads: where gradients are added.
        scratch: work arrays.
        dtype: of the products.
        order: [K], which row of w each number of the input meets; None: that of its own place.
        frozen: its weights do not change: they are read once, and there is no backward pass.

    Attributes:
        kind: of the input's array: float32, or uint16 for bfloat16.
    """

    def __init__(
        self,
        names: list[str],
        params: Values,
        grads: Values,
        scratch: Scratch,
        dtype: str = "float32",
        order: NDArray[np.intp] | None = None,
        frozen: bool = False,
    ) -> None:
        self.frozen, self._read = frozen, False
        self.names, self.params, self.grads, self.scratch, self.order = names, params, grads, scratch, order
        self.dtype, self.kind = dtype, KINDS[dtype]
        k = params[f"{names[0]}.w"].shape[0]
        n = sum(len(params[f"{name}.b"]) for name in names)
        self.shape, self.b = (k, n), np.empty(n, np.float32)
        self.forward_panels = np.empty(pack.panels_shape(k, n, dtype), np.uint32)
        if frozen:
            return
        self.d_w, self.d_b = np.empty((k, n), np.float32), np.empty(n, np.float32)
        self.zeros = np.zeros(max(k, n), np.float32)
        self.backward_panels = np.empty(pack.panels_shape(n, k, dtype), np.uint32)

    def begin(self) -> None:
        """Read the parameters."""
        if self.frozen and self._read:
            return
        self._read = True
        w = np.concatenate([self.params[f"{name}.w"] for name in self.names], axis=1)
        np.concatenate([self.params[f"{name}.b"] for name in self.names], out=self.b)
        if self.order is not None:
            w = w[self.order]
        self._pack(np.ascontiguousarray(w.T), self.forward_panels)
        if not self.frozen:
            self._pack(w, self.backward_panels)
            self.d_w[:], self.d_b[:] = 0, 0

    def _pack(self, columns: Array, panels: NDArray[np.uint32]) -> None:
        """Weights [N, K], a row for each column of the product, to panels [ceil(N / 16), steps, 16]."""
        pack.pack(self._rounded(columns, "columns").view(np.uint32), 0, panels)

    def _rounded(self, x: NDArray[Any], purpose: str) -> NDArray[Any]:
        """The rows of x [M, K] in the type that products read; those of bfloat16 have whole pairs."""
        if x.dtype == self.kind:
            return x
        rows, columns = x.shape
        rounded = self.scratch(purpose, rows, columns + columns % 2, kind=np.uint16)
        pack.to_bf16(x, rounded)
        return rounded

    def _product(
        self, x: NDArray[Any], panels: NDArray[np.uint32], b: Array, activation: int, residual: Array, before: Array,
        out: NDArray[Any], transposed: bool = False,
    ) -> NDArray[Any]:  # fmt: skip
        """`gemm.linear` of x [M, K] and packed weights, into `out` [M, N]; or of x^T, with `transposed`."""
        gemm.linear(x, panels, self.dtype, gemm.NO_SCALES, b, activation, residual, before, out, transposed)
        return out

    def forward(self, x: NDArray[Any], out: Array, residual: Array = NOTHING) -> Array:
        """residual + x w + b of x [M, K], into `out` [M, N]; a residual [M, N], or fewer rows, which are repeated."""
        x = self._rounded(x, "rounded")
        return self._product(x, self.forward_panels, self.b, gemm.NO_ACTIVATION, residual, NOTHING, out)

    def forward_gelu(self, x: NDArray[Any], before: Array, out: NDArray[Any]) -> NDArray[Any]:
        """gelu(x w + b) of x [M, K], into `out` [M, N]; and x w + b into `before` [M, N]."""
        return self._product(x, self.forward_panels, self.b, gemm.GELU_TANH, NOTHING, before, out)

    def backward_weights(self, x: NDArray[Any], d_y: NDArray[Any]) -> None:
        """d_w += x^T d_y, d_b += the sum of d_y's rows; x [M, K], d_y [M, N]."""
        panels = self.scratch("panels", *pack.panels_shape(len(d_y), d_y.shape[1], self.dtype), kind=np.uint32)
        if self.dtype == "float32":
            sums.pack_and_sum(d_y, panels.view(np.float32), self.d_b)
        else:
            x = self._rounded(x, "rounded")
            pairs = self.scratch("pairs", -(-len(x) // 2), x.shape[1], kind=np.uint32)
            sums.pair_rows(x, pairs)
            sums.pack_pairs_and_sum(d_y, panels, self.d_b)
            x = pairs.view(np.uint16)
        self._product(x, panels, self.zeros, gemm.NO_ACTIVATION, self.d_w, NOTHING, self.d_w, transposed=True)

    def backward_input(self, d_y: NDArray[Any], d_x: NDArray[Any], residual: Array = NOTHING) -> NDArray[Any]:
        """residual + d_y w^T of d_y [M, N], into d_x [M, K]; the residual may be d_x."""
        d_y = self._rounded(d_y, "rounded")
        return self._product(d_y, self.backward_panels, self.zeros, gemm.NO_ACTIVATION, residual, NOTHING, d_x)

    def backward_input_gelu(self, d_y: NDArray[Any], before: Array, d_x: NDArray[Any]) -> NDArray[Any]:
        """(d_y w^T) gelu'(before) of d_y [M, N], into d_x [M, K]; its input was the GELU of `before` [M, K]."""
        d_y = self._rounded(d_y, "rounded")
        return self._product(d_y, self.backward_panels, self.zeros, gemm.GELU_TANH_GRADIENT, NOTHING, before, d_x)

    def end(self) -> None:
        """Write the gradients."""
        if self.frozen:
            return
        d_w = self.d_w
        if self.order is not None:
            d_w = np.empty_like(d_w)
            d_w[self.order] = self.d_w
        first = 0
        for name in self.names:
            last = first + len(self.grads[f"{name}.b"])
            self.grads[f"{name}.w"][:] = d_w[:, first:last]
            self.grads[f"{name}.b"][:] = self.d_b[first:last]
            first = last


class TrainedLayerNorm:
    """A LayerNorm, trained: `.scale` and `.b` [D] under its name."""

    def __init__(self, name: str, eps: float, params: Values, grads: Values) -> None:
        self.name, self.eps, self.params, self.grads = name, eps, params, grads
        self._sums = np.zeros((2, len(params[f"{name}.b"])), np.float64)

    def begin(self) -> None:
        """Forget the gradients of the last batch."""
        self._sums[:] = 0

    def forward(self, x: Array, out: NDArray[Any]) -> NDArray[Any]:
        """(x - mean) / sqrt(var + eps) * scale + b, of each row of x [M, D], into `out` [M, D]."""
        layer_norm.layer_norm(x, self.params[f"{self.name}.scale"], self.params[f"{self.name}.b"], self.eps, out)
        return out

    def backward(self, x: Array, d_y: Array, d_x: Array) -> None:
        """d_x += the gradient of x [M, D], from d_y [M, D] of the result; d_x is [M, D]."""
        parts = np.empty(layer_norm_gradient.sums_shape(*x.shape), np.float64)
        layer_norm_gradient.layer_norm_gradient(x, d_y, self.params[f"{self.name}.scale"], self.eps, d_x, parts)
        self._sums += parts.sum(axis=0)

    def end(self) -> None:
        """Write the gradients."""
        self.grads[f"{self.name}.scale"][:], self.grads[f"{self.name}.b"][:] = self._sums
