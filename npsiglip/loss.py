"""The sigmoid loss of arXiv:2303.15343 for training-sized batches: value and gradients, in bounded memory.

The plain form is `npsiglip.reference.sigmoid_loss`; the kernels are in `npsiglip.kernels.sigmoid_loss`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npsiglip.describe import describe_fields
from npsiglip.element_types import LANES
from npsiglip.errors import InputError
from npsiglip.kernels import sigmoid_loss as kernels
from npsiglip.kernels.jit import computing
from npsiglip.kernels.steps import ROWS

Array = NDArray[np.float32]
MAX_T_PRIME = 80.0  # beyond, gradients leave float32


class SigmoidLoss(NamedTuple):
    """The loss and its gradients."""

    loss: float
    d_zimg: Array
    """[B, D]."""
    d_ztxt: Array
    """[B, D]."""
    d_t_prime: float
    d_bias: float

    def __repr__(self) -> str:
        return describe_fields(self)


def sigmoid_loss(
    zimg: ArrayLike, ztxt: ArrayLike, t_prime: float, bias: float, chunk: int | None = None
) -> SigmoidLoss:
    """-1/B sum_ij log sigmoid(y_ij (exp(t_prime) zimg_i . ztxt_j + bias)), y = +1 on the diagonal, -1 elsewhere.

    Args:
        zimg: [B, D] embeddings of the images, unit rows; taken as float32.
        ztxt: [B, D] embeddings of the texts, row i matching image i.
        t_prime: log of the temperature t.
        bias: added to every logit.
        chunk: images and texts are compared in blocks of so many by so many, which is what the extra memory grows
            with: about 4 chunk^2 + 40 chunk D bytes. None: the whole batch in one block.

    Returns:
        The loss and its gradients. Logits and sums over pairs are computed in float64, the gradients' products in
        float32. Dense and chunked differ by the order of additions only (docs/numerics.md).

    Raises:
        InputError: shapes that do not fit, a value that is not finite, a chunk below 1; embeddings so far from unit
            norm that the loss or a gradient leaves float32.
    """
    x, y = (_embeddings(name, value) for name, value in (("zimg", zimg), ("ztxt", ztxt)))
    if x.shape != y.shape:
        raise InputError(f"zimg and ztxt must have one shape [B, D], got {list(x.shape)} and {list(y.shape)}")
    if not np.isfinite([t_prime, bias]).all() or t_prime > MAX_T_PRIME:
        raise InputError(
            f"t_prime and bias must be finite numbers, t_prime at most {MAX_T_PRIME}; got {t_prime} and {bias}: "
            "t_prime is the logarithm of the temperature, log 10 at the start of training"
        )
    if chunk is not None and (not isinstance(chunk, int | np.integer) or chunk < 1):
        raise InputError(f"chunk must be a whole number of at least 1, or None for the whole batch; got {chunk!r}")
    with np.errstate(all="ignore"):  # what is not finite is reported below
        result = _run(x, y, float(t_prime), float(bias), min(int(chunk or len(x)), len(x)))
    for name, found in result._asdict().items():
        if not np.isfinite(found).all():
            raise InputError(
                f"{name} leaves float32: expected embeddings of unit norm, got numbers up to {np.abs(x).max():g} in "
                f"zimg and {np.abs(y).max():g} in ztxt, with t_prime {t_prime} and bias {bias}"
            )
    return result


def _embeddings(name: str, value: ArrayLike) -> Array:
    """The argument `name` as float32 [B, D], checked."""
    z = np.ascontiguousarray(value, np.float32)
    if z.ndim != 2 or not z.size:
        raise InputError(f"{name} must be [B, D] with at least one row and column, got {list(z.shape)}")
    if not np.isfinite(z.sum(dtype=np.float64)) and not np.isfinite(z).all():
        raise InputError(f"{name} has a value that is NaN or infinite in row {int(np.argmin(np.isfinite(z).all(1)))}")
    return z


def _run(zimg: Array, ztxt: Array, t_prime: float, bias: float, chunk: int) -> SigmoidLoss:
    """The dense loss and gradients of zimg [B, D] and ztxt [B, D], unchecked, in blocks of `chunk` by `chunk` pairs."""
    batch, width = zimg.shape
    t = float(np.exp(t_prime))
    d_zimg, d_ztxt = np.zeros_like(zimg), np.zeros_like(ztxt)
    loss = sum_g = sum_gs = 0.0
    for j in range(0, batch, chunk):
        # the texts of a column of blocks: in panels for the logits, in rows for the gradients of the images
        texts = ztxt[j : j + chunk]
        with computing(None):
            text_panels = np.empty(-(-len(texts) // LANES) * LANES * width, np.float64)
            kernels.pack_f64(texts.astype(np.float64), text_panels)
            text_rows = np.empty(len(texts) * -(-width // LANES) * LANES, np.float32)
            kernels.pack_rows(texts, text_rows)
        for i in range(0, batch, chunk):
            images = zimg[i : i + chunk]
            size = len(images) * len(texts)
            g = np.empty(size + ROWS, np.float32)[:size].reshape(len(images), -1)  # its product reads whole tiles
            sums = np.empty((-(-len(images) // kernels.ROWS_EACH), 3), np.float64)
            images64 = images.astype(np.float64)
            with computing(None):  # others, and Ctrl-C, have their turn between two blocks
                # g = d loss / d z of the block's logits, and its part of the loss and of the scalars' gradients
                kernels.block_gradient(images64, text_panels, len(texts), i - j, t, bias, float(batch), g, sums)
                # d_zimg += t g ztxt, d_ztxt += t g^T zimg
                image_rows = np.empty(len(images) * -(-width // LANES) * LANES, np.float32)
                kernels.pack_rows(images, image_rows)
                kernels.add_gradient(g, False, text_rows, np.float32(t), d_zimg[i : i + chunk])
                kernels.add_gradient(g, True, image_rows, np.float32(t), d_ztxt[j : j + chunk])
            loss, sum_g, sum_gs = (total + part for total, part in zip((loss, sum_g, sum_gs), sums.sum(0), strict=True))
    return SigmoidLoss(loss / batch, d_zimg, d_ztxt, t * sum_gs / batch, sum_g / batch)
