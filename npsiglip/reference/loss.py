"""The sigmoid loss of arXiv:2303.15343 (section 3.1, algorithm 1) and its gradients, in float64 NumPy.

Every image-text pair is a binary question of its own: does this text belong to this image? The diagonal says yes,
everything else says no.

    z_ij = t zimg_i . ztxt_j + bias,  t = exp(t_prime)        y_ij = +1 on the diagonal, -1 elsewhere
    loss = -1/B sum_ij log sigmoid(y_ij z_ij)                 (a sum over B x B pairs divided by B, not by B^2)

Left out on purpose: the normalisation of the embeddings, which belongs to the model.
"""

from typing import NamedTuple

import numpy as np

from npsiglip.reference.model import sigmoid


class SigmoidLoss(NamedTuple):
    """The loss and its gradients: scalars, but for `d_zimg` and `d_ztxt` [B, D]."""

    loss: float
    d_zimg: np.ndarray
    d_ztxt: np.ndarray
    d_t_prime: float
    d_bias: float


def softplus(x):
    """log(1 + exp(x)), written so that exp cannot overflow; -log sigmoid(x) = softplus(-x)."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid_loss(zimg, ztxt, t_prime, bias):
    """Loss and gradients of B matched pairs: zimg [B, D], ztxt [B, D], unit rows; t_prime, bias scalars.

    With q = sigmoid(z) and the target 1 on the diagonal, 0 elsewhere, d loss / d z = (q - target) / B; the rest is
    the chain rule through z = exp(t_prime) zimg ztxt^T + bias.
    """
    zimg, ztxt = np.asarray(zimg, np.float64), np.asarray(ztxt, np.float64)
    size, t = len(zimg), np.exp(t_prime)
    similarity = zimg @ ztxt.T
    z = t * similarity + bias
    y = 2.0 * np.eye(size) - 1.0
    loss = softplus(-y * z).sum() / size
    g = -y * sigmoid(-y * z) / size  # = (sigmoid(z) - target) / B without cancellation
    return SigmoidLoss(loss, t * g @ ztxt, t * g.T @ zimg, (g * similarity).sum() * t, g.sum())
