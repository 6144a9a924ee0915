"""The loss of a batch and its gradient for every parameter, on kernels: one step of training but for the optimiser.

Both towers run forward, the loss gives the gradients of the embeddings, both towers run backward. The plain form is
`npsiglip.reference.siglip_loss_and_gradients`. The same bits for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip import reference
from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.kernels.jit import RUN_LOCK
from npsiglip.loss import sigmoid_loss
from npsiglip.train.flat import Flat
from npsiglip.train.layers import Array, Scratch
from npsiglip.train.towers import ImageTower, TextTower

LOSSES = ("sigmoid", "softmax")


def normalize(x: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit rows of x [B, D], and the lengths [B, 1]."""
    wide = x.astype(np.float64)
    norm = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return wide / norm, norm


def normalize_gradient(z: NDArray[np.float64], norm: NDArray[np.float64], dz: Array) -> Array:
    """dx = (dz - z (z . dz)) / |x| of z = x / |x|."""
    along = (z * dz).sum(axis=1, keepdims=True)
    return np.ascontiguousarray((dz - z * along) / norm, np.float32)


class Engine:
    """Work arrays and layers for batches of one size.

    Args:
        config: of the model, both towers.
        batch: B, pairs of every step.
        text_len: L, tokens of every text.
        loss: "sigmoid", or "softmax" to compare with.
        locked: towers that are not trained, {"image"} or none: their gradients are zero.
    """

    def __init__(
        self,
        config: SigLIPConfig,
        batch: int,
        text_len: int,
        loss: str = "sigmoid",
        locked: frozenset[str] = frozenset(),
    ) -> None:
        if config.image is None or config.text is None:
            raise InputError("training needs a model with both towers")
        if loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
        if not locked <= {"image"}:
            raise InputError(f"only the image tower can be locked, got {', '.join(sorted(locked))}")
        self.config, self.batch, self.text_len, self.loss, self.locked = config, batch, text_len, loss, locked
        self._scratch = Scratch()
        self._bound: tuple[Flat, Flat] | None = None

    def _bind(self, params: Flat, grads: Flat) -> None:
        """Make the layers; they hold views of both."""
        if self._bound is not None and self._bound[0] is params and self._bound[1] is grads:
            return
        assert self.config.image is not None and self.config.text is not None
        p, g, batch, scratch = params.views, grads.views, self.batch, self._scratch
        self._image = ImageTower(self.config.image, batch, p, g, scratch, "image" in self.locked)
        self._text = TextTower(self.config.text, batch, self.text_len, p, g, scratch)
        self._bound = params, grads

    def step(self, params: Flat, pixels: Array, ids: NDArray[np.integer], grads: Flat) -> float:
        """The loss of B pairs: pixels [B, 3, S, S] float32, ids [B, L]; fills `grads`, of locked towers with zeros."""
        with RUN_LOCK:
            self._bind(params, grads)
            grads.vector[:] = 0
            zimg, image_norm = normalize(self._image.forward(pixels))
            ztxt, text_norm = normalize(self._text.forward(ids))
            result = self._loss(zimg, ztxt, float(params.views["t_prime"]), float(params.views["bias"]))
            if "image" not in self.locked:
                self._image.backward(normalize_gradient(zimg, image_norm, result.d_zimg))
            self._text.backward(normalize_gradient(ztxt, text_norm, result.d_ztxt))
            grads.views["t_prime"][...], grads.views["bias"][...] = result.d_t_prime, result.d_bias
            return float(result.loss)

    def _loss(self, zimg: NDArray[np.float64], ztxt: NDArray[np.float64], t_prime: float, bias: float) -> Any:
        if self.loss == "sigmoid":
            return sigmoid_loss(zimg, ztxt, t_prime, bias)
        return reference.softmax_loss(zimg, ztxt, t_prime)

    @staticmethod
    def memory(config: SigLIPConfig, batch: int, text_len: int) -> int:
        """Bytes that the work arrays of an engine take, what is kept for the backward pass above all."""
        assert config.image is not None and config.text is not None
        total = 0
        for tower, length in ((config.image, config.image.seq_len), (config.text, text_len)):
            a_block = 8 * tower.width + 2 * tower.mlp_dim  # x, ln1, qkv, mix, +attn, ln2; fc1 and gelu
            total += batch * length * (tower.depth * a_block + 4 * tower.width)
        total += batch * config.image.seq_len * 3 * config.image.patch_size**2
        total += batch**2  # of the loss
        return 4 * total + (64 << 20)
