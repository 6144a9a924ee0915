"""The sigmoid loss of arXiv:2303.15343 (section 3.1, algorithm 1) and its gradients, in float64 NumPy.

Every image-text pair is a binary question of its own: does this text belong to this image? The diagonal says yes,
everything else says no.

    z_ij = t zimg_i . ztxt_j + bias,  t = exp(t_prime)        y_ij = +1 on the diagonal, -1 elsewhere
    loss = -1/B sum_ij log sigmoid(y_ij z_ij)                 (a sum over B x B pairs divided by B, not by B^2)

Beside it CLIP's loss (arXiv:2103.00020, figure 3), for comparison, in which the texts compete for an image, and the
images for a text:

    loss = -1/2B sum_i (log softmax_j(z_ij) at j = i  +  log softmax_j(z_ji) at j = i)

A term of the first needs its own pair only, so the first can be computed in blocks: `chunked_sigmoid_loss` here,
across devices in `ring.py`.

Left out on purpose: the normalisation of the embeddings, which belongs to the model.
"""

from typing import NamedTuple

import numpy as np

from npsiglip.reference.model import sigmoid, softmax


class PairLoss(NamedTuple):
    """The loss of B pairs and its gradients: scalars, but for `d_zimg` and `d_ztxt` [B, D]."""

    loss: float
    d_zimg: np.ndarray
    d_ztxt: np.ndarray
    d_t_prime: float
    d_bias: float


def check_pairs(zimg, ztxt):
    """Raise ValueError unless both are [B, D] of one shape: row i of one matches row i of the other."""
    if zimg.shape != ztxt.shape or zimg.ndim != 2:
        raise ValueError(
            f"zimg and ztxt must both be [B, D], text i belonging to image i; got {list(zimg.shape)} and "
            f"{list(ztxt.shape)}"
        )


def softplus(x):
    """log(1 + exp(x)), written so that exp cannot overflow; -log sigmoid(x) = softplus(-x)."""
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid_block(zimg, ztxt, t_prime, bias, matched, batch):
    """What images [I, D] against texts [J, D] add to the loss of a batch -> loss, g [I, J], d_t_prime, d_bias.

    `matched`: text i belongs to image i (I = J, a block on the diagonal); otherwise none belongs to any.

    With q = sigmoid(z) and the target 1 or 0, g = d loss / d z = (q - target) / batch; the rest is the chain rule
    through z = exp(t_prime) zimg ztxt^T + bias. The gradients of the embeddings are t g ztxt and t g^T zimg.
    """
    t = np.exp(t_prime)
    similarity = zimg @ ztxt.T
    z = t * similarity + bias
    y = 2.0 * np.eye(*z.shape) - 1.0 if matched else -np.ones(z.shape)
    g = -y * sigmoid(-y * z) / batch  # = (sigmoid(z) - target) / batch without cancellation
    return softplus(-y * z).sum() / batch, g, (g * similarity).sum() * t, g.sum()


def sigmoid_loss(zimg, ztxt, t_prime, bias):
    """Loss and gradients of B matched pairs: zimg [B, D], ztxt [B, D], unit rows; t_prime, bias scalars."""
    zimg, ztxt = np.asarray(zimg, np.float64), np.asarray(ztxt, np.float64)
    check_pairs(zimg, ztxt)
    loss, g, d_t_prime, d_bias = sigmoid_block(zimg, ztxt, t_prime, bias, True, len(zimg))
    t = np.exp(t_prime)
    return PairLoss(loss, t * g @ ztxt, t * g.T @ zimg, d_t_prime, d_bias)


def chunked_sigmoid_loss(zimg, ztxt, t_prime, bias, chunk):
    """`sigmoid_loss`, `chunk` images by `chunk` texts at a time: B x B becomes chunk x chunk."""
    zimg, ztxt = np.asarray(zimg, np.float64), np.asarray(ztxt, np.float64)
    check_pairs(zimg, ztxt)
    if chunk < 1:
        raise ValueError(f"chunk must be a whole number of at least 1; got {chunk}")
    t, sums, d_zimg, d_ztxt = np.exp(t_prime), np.zeros(3), np.zeros_like(zimg), np.zeros_like(ztxt)
    parts = [slice(start, start + chunk) for start in range(0, len(zimg), chunk)]
    for i in parts:
        for j in parts:
            loss, g, d_t_prime, d_bias = sigmoid_block(zimg[i], ztxt[j], t_prime, bias, i == j, len(zimg))
            sums += loss, d_t_prime, d_bias
            d_zimg[i] += t * g @ ztxt[j]
            d_ztxt[j] += t * g.T @ zimg[i]
    return PairLoss(sums[0], d_zimg, d_ztxt, sums[1], sums[2])


def log_sum_exp(x):
    """log sum exp(x) over the last axis, shifted so that exp cannot overflow; of nothing but -inf it is -inf."""
    top = x.max(axis=-1, initial=-1e300)
    with np.errstate(divide="ignore"):
        return top + np.log(np.exp(x - top[..., None]).sum(axis=-1))


def cross_entropy(z, first=0):
    """sum_i -log softmax(z_i) at j = first + i, of z [I, J], and its gradient: softmax(z), at the matches less 1.

    -log softmax(z_i) at the match m is softplus(log sum_{j != m} exp z_ij - z_im): the sigmoid loss of a single
    question, the match against all others together. Written so, neither it nor its gradient cancels.
    """
    rows = np.arange(len(z))
    matches = first + rows
    others = z.copy()
    others[rows, matches] = -np.inf
    excess = log_sum_exp(others) - z[rows, matches]  # [I]
    g = softmax(z)
    g[rows, matches] = -sigmoid(excess)
    return softplus(excess).sum(), g


def softmax_loss(zimg, ztxt, t_prime, bias=0.0):
    """CLIP's loss and gradients, arguments and results as `sigmoid_loss` has them.

    Both softmaxes lose a constant that is added to all logits: `bias` has no influence, and its gradient is zero.
    """
    zimg, ztxt = np.asarray(zimg, np.float64), np.asarray(ztxt, np.float64)
    check_pairs(zimg, ztxt)
    t = np.exp(t_prime)
    z = t * zimg @ ztxt.T
    (of_images, g_images), (of_texts, g_texts) = cross_entropy(z), cross_entropy(z.T)
    g = (g_images + g_texts.T) / (2 * len(z))
    return PairLoss((of_images + of_texts) / (2 * len(z)), t * g @ ztxt, t * g.T @ zimg, (g * z).sum(), 0.0)
