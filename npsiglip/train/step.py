"""The loss of a batch and its gradient for every parameter, on kernels: one step of training but for the optimiser.

Both towers run forward, the loss gives the gradients of the embeddings, both towers run backward. The plain form is
`npsiglip.reference.siglip_loss_and_gradients`. The same bits for any number of threads.

Dimensions: B pairs, L tokens of a text, S side of the images, D width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import GELU_TANH, SigLIPConfig
from npsiglip.element_types import LANES
from npsiglip.errors import InputError
from npsiglip.kernels.jit import computing
from npsiglip.loss import sigmoid_loss
from npsiglip.params import param_shapes
from npsiglip.train.flat import Flat
from npsiglip.train.layers import KINDS, Array, Scratch
from npsiglip.train.softmax_loss import softmax_loss
from npsiglip.train.towers import Common, TrainedImageTower, TrainedTextTower, part_size

LOSSES = ("sigmoid", "softmax")


def padded(n: int) -> int:
    """How many columns `n` are in whole panels."""
    return -(-n // LANES) * LANES


def normalize(x: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit rows z = x / |x| of x [B, D], and the lengths |x| [B, 1]."""
    wide = x.astype(np.float64)
    norm = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    return wide / norm, norm


def normalize_gradient(z: NDArray[np.float64], norm: NDArray[np.float64], d_z: Array) -> Array:
    """(d_z - z (z . d_z)) / |x|: the gradient of x [B, D], from z [B, D], `norm` = |x| [B, 1] and d_z [B, D]."""
    along = (z * d_z).sum(axis=1, keepdims=True)
    return np.ascontiguousarray((d_z - z * along) / norm, np.float32)


class Gradients:
    """The layers of both towers in training, and their work arrays, for batches of one size.

    Args:
        config: of the model, both towers.
        batch: B, pairs of every step.
        text_len: L, tokens of every text.
        loss: "sigmoid", or "softmax" to compare with.
        locked: towers that are not trained, {"image"}, {"text"} or none: their gradients are zero, and there is no
            backward pass through them, nor memory for it.
        dtype: of the products, "float32" or "bfloat16"; all else is float32 (`npsiglip.train.layers`).
        blocks: how many of the last blocks of each tower are trained, with what follows them; None: everything.
    """

    def __init__(
        self,
        config: SigLIPConfig,
        batch: int,
        text_len: int,
        loss: str = "sigmoid",
        locked: frozenset[str] = frozenset(),
        dtype: str = "float32",
        blocks: int | None = None,
    ) -> None:
        if config.image is None or config.text is None:
            raise InputError("training needs a model with both towers")
        if {config.image.activation, config.text.activation} != {GELU_TANH}:
            raise InputError(
                "training computes GELU by tanh, SigLIP's, and this model has the form by erf in a tower: fine-tune a "
                "model whose config.json has hidden_act 'gelu_pytorch_tanh'"
            )
        if loss not in LOSSES:
            raise InputError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
        if dtype not in KINDS:
            raise InputError(f"dtype must be one of {', '.join(KINDS)}; got {dtype!r}")
        odd = [size for tower in (config.image, config.text) for size in (tower.width, tower.mlp_dim) if size % 2]
        if dtype == "bfloat16" and odd:
            raise InputError(f"training in bfloat16 needs even widths, got {odd[0]}; use float32")
        if locked not in ({"image"}, {"text"}, set()):
            raise InputError(f"one tower can be locked, image or text, got {', '.join(sorted(locked))}")
        if not 1 <= text_len <= config.text.seq_len or batch < 1:
            raise InputError(
                f"a batch has at least one pair, and a text 1 token and at most {config.text.seq_len}, the positions "
                f"of this model; got {batch} pairs and {text_len} tokens"
            )
        self.config, self.batch, self.text_len, self.loss, self.locked = config, batch, text_len, loss, locked
        self.dtype = dtype
        self._first = [0 if blocks is None else max(0, tower.depth - blocks) for tower in (config.image, config.text)]
        self._scratch = Scratch()
        self._bound: tuple[Flat, Flat] | None = None

    def _bind(self, params: Flat, grads: Flat) -> None:
        """Make the layers; they hold views of both."""
        if self._bound is not None and self._bound[0] is params and self._bound[1] is grads:
            return
        assert self.config.image is not None and self.config.text is not None
        common, (image, text) = Common(params.views, grads.views, self._scratch, self.dtype), self._first
        self._image = TrainedImageTower(self.config.image, self.batch, common, image, "image" in self.locked)
        self._text = TrainedTextTower(self.config.text, self.batch, self.text_len, common, text, "text" in self.locked)
        self._bound = params, grads

    def step(self, params: Flat, images: Array, ids: NDArray[np.integer], grads: Flat) -> float:
        """The loss of B pairs, and its gradients.

        Args:
            params: the parameters as they are now.
            images: pixels [B, 3, S, S] float32; or, for a locked image tower, what it makes of them, [B, D] float32,
                by `npsiglip.train.pool.LockedImages`.
            ids: [B, L].
            grads: filled, with zeros for locked towers.

        Raises:
            InputError: shapes or types that do not fit, or an id that the vocabulary does not have.
        """
        self._check(params, images, ids, grads)
        with computing(None):
            self._bind(params, grads)
            grads.vector[:] = 0
            # both towers forward, to embeddings [B, D] of unit norm
            zimg, image_norm = normalize(self._image.forward(images) if images.ndim == 4 else images)
            ztxt, text_norm = normalize(self._text.forward(ids))
            # the loss, and the gradients of embeddings, t_prime and bias
            result = self._loss(zimg, ztxt, float(params.views["t_prime"]), float(params.views["bias"]))
            # both towers backward
            if "image" not in self.locked:
                self._image.backward(normalize_gradient(zimg, image_norm, result.d_zimg))
            if "text" not in self.locked:
                self._text.backward(normalize_gradient(ztxt, text_norm, result.d_ztxt))
            grads.views["t_prime"][...], grads.views["bias"][...] = result.d_t_prime, result.d_bias
            return float(result.loss)

    def _loss(self, zimg: NDArray[np.float64], ztxt: NDArray[np.float64], t_prime: float, bias: float) -> Any:
        """The loss of zimg and ztxt [B, D], and its gradients, by `sigmoid_loss` or `softmax_loss`."""
        if self.loss == "sigmoid":
            return sigmoid_loss(zimg, ztxt, t_prime, bias)
        return softmax_loss(zimg, ztxt, t_prime)

    def _check(self, params: Flat, images: Array, ids: NDArray[np.integer], grads: Flat) -> None:
        """Check what kernels rely on: they read and write wherever shapes and ids say; arguments as for `step`."""
        image, text = self.config.image, self.config.text
        assert image is not None and text is not None
        shape: tuple[int, ...] = self.batch, 3, image.image_size, image.image_size
        made = self.batch, image.width
        if "image" in self.locked and images.ndim == len(made):
            shape = made
        if images.shape != shape or images.dtype != np.float32 or not images.flags.c_contiguous:
            what, size = ("embeddings", "width") if shape == made else ("pixels", "image size")
            raise InputError(
                f"{what} must be float32 {list(shape)} in C order, by the batch that was announced and the {size} "
                f"of this model; got {images.dtype} {list(images.shape)}"
            )
        if ids.shape != (self.batch, self.text_len) or ids.dtype.kind not in "iu":
            raise InputError(
                f"ids must be whole numbers [{self.batch}, {self.text_len}], by the batch and the length that "
                f"were announced; got {ids.dtype} {list(ids.shape)}"
            )
        if ids.min() < 0 or ids.max() >= text.vocab_size:
            raise InputError(
                f"ids must be from 0 to {text.vocab_size - 1}, the vocabulary of this model; got {ids.min()} to "
                f"{ids.max()}: was another tokenizer used?"
            )
        shapes = param_shapes(self.config)
        for name, flat in (("params", params), ("grads", grads)):
            if flat.shapes != shapes:
                raise InputError(f"{name} must have the parameters of this model: Flat(param_shapes(config))")

    @staticmethod
    def memory(
        config: SigLIPConfig,
        batch: int,
        text_len: int,
        loss: str = "sigmoid",
        blocks: int | None = None,
        lock: str = "",
    ) -> int:
        """Bytes that layers and work arrays take at most, what the backward pass needs above all."""
        assert config.image is not None and config.text is not None
        image = config.image
        tapes = rows = 0
        for name, tower, length in (("image", image, image.seq_len), ("text", config.text, text_len)):
            width, mlp_dim = tower.width, tower.mlp_dim
            a_block = 8 * width + 2 * mlp_dim  # x, ln1, qkv, mix, +attn, ln2; fc1 and gelu
            trained = 0 if name == lock else blocks
            depth = tower.depth if trained is None else min(tower.depth, trained + 2)  # frozen ones take turns with two
            a_token, an_input = depth * a_block + 2 * width + 1, 2 * width
            if name == "image":
                a_token += 3 * image.patch_size**2 + 2 * width + image.num_heads
                an_input = 6 * width + 2 * mlp_dim
            part = min(batch, part_size(length))
            kept = batch if name != lock else min(batch, 2 * part)  # of a locked tower one part, and a last one
            tapes += kept * (length * a_token + an_input)
            rows = max(rows, part * length * (2 * mlp_dim + 12 * width))  # of layers' gradients, which all parts share
        weights = {name: shape for name, shape in param_shapes(config).items() if name.endswith(".w")}
        copies = sum(  # w, packed; d_w, and packed for the way back
            k * n + k * padded(n) + (0 if lock and name.startswith(lock) else k * n + n * padded(k))
            for name, (k, n) in weights.items()
        )
        pairs = batch**2 * (1 if loss == "sigmoid" else 12) + 24 * batch * image.width
        return 4 * (tapes + rows + copies + pairs) + (1 << 20)
