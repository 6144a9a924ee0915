"""Layers that are trained: forward and backward on kernels, float32, from parameters and into gradients.

Each layer is used once by each part of a batch: `forward` may be called for all parts, then `backward` for each with
the arrays that its `forward` was given. Gradients are added to what is there. The order of all sums is fixed: the same
bits for any number of threads. The plain form is `npsiglip.reference.backward`.

Dimensions: M rows (tokens of all inputs), D width, K in, N out.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from npsiglip.kernels import gemm, layer_norm, layer_norm_gradient, pack, sigmoid_loss, sums
from npsiglip.kernels.tile import ROWS

Array = NDArray[np.float32]
Values = Mapping[str, Array]
NOTHING: Array = np.empty((0, 0), np.float32)


def with_slack(shape: tuple[int, ...]) -> Array:
    """An array of float32 behind which a product of whole tiles may read."""
    size = int(np.prod(shape))
    return np.zeros(size + ROWS, np.float32)[:size].reshape(shape)


class Scratch:
    """Work arrays that any layer may overwrite, by purpose; they grow to the largest that was asked for."""

    def __init__(self) -> None:
        self._arrays: dict[str, Array] = {}

    def __call__(self, purpose: str, *shape: int) -> Array:
        """An uninitialised array."""
        size = int(np.prod(shape))
        if purpose not in self._arrays or self._arrays[purpose].size < size + ROWS:
            self._arrays[purpose] = with_slack((size + ROWS,))
        return self._arrays[purpose][:size].reshape(shape)


class Linear:
    """A linear layer, or several with the same input beside each other.

    Args:
        names: of the parameters, each with `.w` [K, N] and `.b` [N].
        params: the parameters, which the optimiser changes in place.
        grads: where gradients are added.
        scratch: work arrays.
        order: of the rows of w, where the input has another than the parameter.
    """

    def __init__(
        self, names: list[str], params: Values, grads: Values, scratch: Scratch, order: NDArray[np.intp] | None = None
    ) -> None:
        self.names, self.params, self.grads, self.scratch, self.order = names, params, grads, scratch, order
        k = params[f"{names[0]}.w"].shape[0]
        n = sum(len(params[f"{name}.b"]) for name in names)
        self.w, self.b = np.empty((k, n), np.float32), np.empty(n, np.float32)
        self.dw, self.db = np.empty((k, n), np.float32), np.empty(n, np.float32)
        self.zeros = np.zeros(max(k, n), np.float32)
        self.forward_panels = np.empty(pack.panels_shape(k, n, "float32"), np.uint32)
        self.backward_panels = np.empty(pack.panels_shape(n, k, "float32"), np.uint32)

    def begin(self) -> None:
        """Read the parameters."""
        np.concatenate([self.params[f"{name}.w"] for name in self.names], axis=1, out=self.w)
        np.concatenate([self.params[f"{name}.b"] for name in self.names], out=self.b)
        if self.order is not None:
            self.w = self.w[self.order]
        sigmoid_loss.pack_rows(self.w, self.forward_panels.view(np.float32).reshape(-1))
        pack.pack(self.w.view(np.uint32), 0, self.backward_panels)
        self.dw[:], self.db[:] = 0, 0

    def forward(self, x: Array, out: Array, residual: Array = NOTHING) -> Array:
        """Out = residual + x w + b."""
        gemm.linear(x, self.forward_panels, gemm.NO_SCALES, self.b, gemm.NO_ACTIVATION, residual, NOTHING, out)
        return out

    def forward_gelu(self, x: Array, before: Array, out: Array) -> Array:
        """Out = gelu(before), before = x w + b."""
        gemm.linear(x, self.forward_panels, gemm.NO_SCALES, self.b, gemm.GELU_TANH, NOTHING, before, out)
        return out

    def backward_weights(self, x: Array, dy: Array) -> None:
        """dw += x^T dy, db += the sum of dy's rows."""
        panels = self.scratch("panels", *pack.panels_shape(len(dy), dy.shape[1], "float32"))
        sums.pack_and_sum(dy, panels, self.db)
        gemm.linear(
            x, panels.view(np.uint32), gemm.NO_SCALES, self.zeros, gemm.NO_ACTIVATION, self.dw, NOTHING, self.dw,
            transposed=True,
        )  # fmt: skip

    def backward_input(self, dy: Array, dx: Array, residual: Array = NOTHING) -> Array:
        """dx = residual + dy w^T."""
        gemm.linear(dy, self.backward_panels, gemm.NO_SCALES, self.zeros, gemm.NO_ACTIVATION, residual, NOTHING, dx)
        return dx

    def backward_input_gelu(self, dy: Array, before: Array, dx: Array) -> Array:
        """dx = (dy w^T) gelu'(before): behind the GELU that this layer's input went through."""
        gemm.linear(dy, self.backward_panels, gemm.NO_SCALES, self.zeros, gemm.GELU_TANH_GRADIENT, NOTHING, before, dx)
        return dx

    def end(self) -> None:
        """Write the gradients."""
        dw = self.dw
        if self.order is not None:
            dw = np.empty_like(dw)
            dw[self.order] = self.dw
        first = 0
        for name in self.names:
            last = first + len(self.grads[f"{name}.b"])
            self.grads[f"{name}.w"][:] = dw[:, first:last]
            self.grads[f"{name}.b"][:] = self.db[first:last]
            first = last


class LayerNorm:
    """A LayerNorm: `.scale` and `.b` [D] under its name."""

    def __init__(self, name: str, eps: float, params: Values, grads: Values) -> None:
        self.name, self.eps, self.params, self.grads = name, eps, params, grads
        self._sums = np.zeros((2, len(params[f"{name}.b"])), np.float64)

    def begin(self) -> None:
        """Forget the gradients of the last batch."""
        self._sums[:] = 0

    def forward(self, x: Array, out: Array) -> Array:
        """Normalise the rows of x."""
        layer_norm.layer_norm(x, self.params[f"{self.name}.scale"], self.params[f"{self.name}.b"], self.eps, out)
        return out

    def backward(self, x: Array, dy: Array, dx: Array) -> None:
        """dx += the gradient of x."""
        parts = np.empty(layer_norm_gradient.sums_shape(*x.shape), np.float64)
        layer_norm_gradient.layer_norm_gradient(x, dy, self.params[f"{self.name}.scale"], self.eps, dx, parts)
        self._sums += parts.sum(axis=0)

    def end(self) -> None:
        """Write the gradients."""
        self.grads[f"{self.name}.scale"][:], self.grads[f"{self.name}.b"][:] = self._sums
