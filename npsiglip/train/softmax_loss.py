"""CLIP's loss (arXiv:2103.00020, figure 3) with its gradients, to train with in comparison to the sigmoid loss.

    z = t zimg ztxt^T,  t = exp(t_prime)
    loss = -1/2B sum_i (log softmax_j(z_ij) at j = i  +  log softmax_j(z_ji) at j = i)

The texts compete for an image, and the images for a text. Both softmaxes lose a constant that is added to all logits:
there is no bias, and its gradient is zero.

In float64 NumPy, and in several matrices [B, B]: it is there for comparisons, not for speed. The plain form is
`npsiglip.reference.softmax_loss`; the fast sigmoid loss is `npsiglip.loss`.

Dimensions: B pairs, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Wide = NDArray[np.float64]


class SoftmaxLoss(NamedTuple):
    """The loss and its gradients."""

    loss: float
    d_zimg: Wide
    """[B, D]."""
    d_ztxt: Wide
    """[B, D]."""
    d_t_prime: float
    d_bias: float
    """Zero."""


def sigmoid(x: Wide) -> Wide:
    """1 / (1 + exp(-x)) of any shape, without overflow."""
    small = np.exp(-np.abs(x))
    result: Wide = np.where(x >= 0, 1.0, small) / (1.0 + small)
    return result


def softmax_loss(zimg: Wide, ztxt: Wide, t_prime: float) -> SoftmaxLoss:
    """The loss of B pairs and its gradients.

    Args:
        zimg: [B, D] embeddings of the images, unit rows.
        ztxt: [B, D] embeddings of the texts, row i matching image i.
        t_prime: log of the temperature t.
    """
    batch, t = len(zimg), np.exp(t_prime)
    z = t * zimg @ ztxt.T
    loss_of_images, d_z_of_images = _competition(z)
    loss_of_texts, d_z_of_texts = _competition(z.T)
    d_z = (d_z_of_images + d_z_of_texts.T) / (2 * batch)
    return SoftmaxLoss(
        loss=float((loss_of_images + loss_of_texts) / (2 * batch)),
        d_zimg=t * d_z @ ztxt,
        d_ztxt=t * d_z.T @ zimg,
        d_t_prime=float((d_z * z).sum()),
        d_bias=0.0,
    )


def _competition(z: Wide) -> tuple[float, Wide]:
    """sum_i -log softmax(z_i) at i, of z [B, B], and its gradient [B, B].

    With lead = z_ii - log sum_{j != i} exp z_ij, by which a match is ahead of all others together, a term is
    log(1 + exp(-lead)), and its gradient at the match -sigmoid(-lead). Nothing cancels there, as it would in
    z_ii - log sum_j exp z_ij and in softmax - 1 once a match is far ahead.
    """
    # all but the matches, shifted so that exp cannot overflow; of a single pair nothing is left, whose log is -inf
    others = z.copy()
    np.fill_diagonal(others, -np.inf)
    top = others.max(axis=1).clip(min=-1e300)
    with np.errstate(divide="ignore"):
        behind = top + np.log(np.exp(others - top[:, None]).sum(axis=1)) - z.diagonal()
    # the gradient: softmax, but for the matches
    d_z = np.exp(z - z.max(axis=1)[:, None])
    d_z /= d_z.sum(axis=1)[:, None]
    np.fill_diagonal(d_z, -sigmoid(behind))
    return float((np.maximum(behind, 0.0) + np.log1p(np.exp(-np.abs(behind)))).sum()), d_z
