"""The backward pass as operations: what each hands back to the taps that it reads, and the gradients of its parameters.

As `operations` has the forward pass: an operation at a time, in any of the arithmetics of `arithmetic`, and one of them
can be replaced by a mistake (`mistakes_gradients`). `npsiglip.reference.backward` is the same on one page, and what
this is held to. The loss is the sigmoid loss of N images with N texts, text i belonging to image i.

A function takes the operation, all taps of the forward pass, and d, the gradient of the operation's own tap; it returns
the gradients of the taps that it reads, and those of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.reference import backward as reference
from npsiglip.reference.loss import softplus
from npsiglip.reference.model import extract_patches, merge_heads, sigmoid, split_heads
from npsiglip.verify.operations import IDS, PIXELS, Context, Op, forward

Array = NDArray[Any]
Env = Mapping[str, Array]
Grads = dict[str, Array]
Backward = Callable[[Context, Op, Env, Array], tuple[Grads, Grads]]
LOSS, GRAD = "loss", "grad."  # the name of the loss, and what is before a parameter's name


def layer(c: Context, name: str, x: Array, d: Array) -> Grads:
    """y = x w + b: d_w = x^T d, d_b = sum d, over all tokens."""
    rows, d_rows = x.reshape(-1, x.shape[-1]), d.reshape(-1, d.shape[-1])
    return {f"{name}.w": c.matmul(rows.T, d_rows), f"{name}.b": d_rows.sum(axis=0)}


def linear(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """y = x w + b: d_x = d w^T."""
    tap = op.inputs[0]
    return {tap: c.matmul(d, c.param(f"{op.name}.w").T)}, layer(c, op.name, env[tap], d)


def patch_embed(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """Pixels get no gradient."""
    return {}, layer(c, op.name, extract_patches(env[PIXELS], c.image.patch_size), d)


def image_embed(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """The images share the positions, so theirs is a sum."""
    return {op.inputs[0]: d}, {"image.pos_embed": d.sum(axis=0)}


def text_embed(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """Rows of the table get the sum over all places where they stand; positions as `image_embed`."""
    table, positions = (
        np.zeros(c.params[f"text.{name}"].shape, c.arithmetic.dtype) for name in ("token_embed", "pos_embed")
    )
    np.add.at(table, env[IDS], d)
    positions[: d.shape[1]] = d.sum(axis=0)
    return {}, {"text.token_embed": table, "text.pos_embed": positions}


def layer_norm(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """See `npsiglip.reference.backward.layer_norm`."""
    tap = op.inputs[0]
    scale, eps = c.param(f"{op.name}.scale"), c.number(c.tower(op).layer_norm_eps)
    d_x, d_scale, d_b = reference.layer_norm(env[tap], scale, eps, d)
    return {tap: d_x}, {f"{op.name}.scale": d_scale, f"{op.name}.b": d_b}


def probe_query(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """The images share one probe."""
    probe = np.broadcast_to(c.param("image.map_head.probe"), (len(d), 1, d.shape[-1]))
    d_probe = c.matmul(d, c.param(f"{op.name}.w").T).sum(axis=(0, 1))
    return {}, layer(c, op.name, probe, d) | {"image.map_head.probe": d_probe}


def probs(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """Through the softmax, and through q k^T / sqrt(Dh)."""
    return through_scores(c, op, env, reference.softmax(env[op.tap], d))


def through_scores(c: Context, op: Op, env: Env, d: Array, factor: float = 1.0) -> tuple[Grads, Grads]:
    """d_q = d k / sqrt(Dh), d_k = d^T q / sqrt(Dh), times a factor."""
    heads = c.tower(op).num_heads
    q, k = (split_heads(env[tap], heads) for tap in op.inputs)
    d = c.arithmetic.store(d * c.number(factor / np.sqrt(q.shape[-1])))
    d_q, d_k = c.matmul(d, k), c.matmul(d.transpose(0, 1, 3, 2), q)
    return {op.inputs[0]: merge_heads(d_q), op.inputs[1]: merge_heads(d_k)}, {}


def mix(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """d_probs = d v^T, d_v = probs^T d."""
    heads, weights = c.tower(op).num_heads, env[op.inputs[0]]
    d, v = split_heads(d, heads), split_heads(env[op.inputs[1]], heads)
    d_v = merge_heads(c.matmul(weights.transpose(0, 1, 3, 2), d))
    return {op.inputs[0]: c.matmul(d, v.transpose(0, 1, 3, 2)), op.inputs[1]: d_v}, {}


def residual(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """d goes both ways, unchanged."""
    return dict.fromkeys(op.inputs, d), {}


def gelu(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """The derivative of the tower's form of GELU."""
    return activated(c, op, env, d, reference.GELU[c.tower(op).activation])


def activated(c: Context, op: Op, env: Env, d: Array, function: Callable[..., Array]) -> tuple[Grads, Grads]:
    """function(x, d) in double precision, rounded."""
    x = np.asarray(env[op.inputs[0]], np.float64)
    return {op.inputs[0]: np.asarray(function(x, np.asarray(d, np.float64)), c.arithmetic.dtype)}, {}


def first_token(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """To the one token that the MAP head gives."""
    return {op.inputs[0]: d[:, None]}, {}


def mean(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """To all tokens alike."""
    x = env[op.inputs[0]]
    return {op.inputs[0]: np.broadcast_to(d[:, None] / c.number(x.shape[1]), x.shape)}, {}


def last_token(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """To the last position alone."""
    d_x = np.zeros_like(env[op.inputs[0]])
    d_x[:, -1] = d
    return {op.inputs[0]: d_x}, {}


def unit(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """z = x / |x|: what d has along z is lost."""
    return {op.inputs[0]: reference.l2_normalize(env[op.inputs[0]], d)}, {}


def logits(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """t zimg ztxt^T + bias, t = exp(t_prime): d_t_prime = t sum d zimg ztxt^T, d_bias = sum d."""
    zimg, ztxt = (env[tap] for tap in op.inputs)
    t = c.arithmetic.store(np.exp(c.param("t_prime")))
    cosines = c.arithmetic.store(c.matmul(zimg, ztxt.T))
    d_cosines = c.arithmetic.store(t * d)
    taps = {op.inputs[0]: c.matmul(d_cosines, ztxt), op.inputs[1]: c.matmul(d_cosines.T, zimg)}
    return taps, {"t_prime": t * (d * cosines).sum(), "bias": d.sum()}


def pair_loss(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    """(sigmoid(z) - target) / N, without cancellation; d is 1."""
    z = np.asarray(env[op.inputs[0]], np.float64)
    y = 2.0 * np.eye(len(z)) - 1.0
    return {op.inputs[0]: np.asarray(-y * sigmoid(-y * z) / len(z) * d, c.arithmetic.dtype)}, {}


BACKWARD: dict[str, Backward] = {
    function.__name__: function
    for function in (
        linear, patch_embed, image_embed, text_embed, layer_norm, probe_query, probs, mix, residual, gelu, first_token,
        mean, last_token, unit, logits, pair_loss,
    )
}  # fmt: skip
LOSS_OP = Op(LOSS, "pair_loss", ("logits",), "")


class Gradients(NamedTuple):
    """The loss, the gradients of parameters in the order in which they are found, and which operation each is of."""

    loss: float
    grads: Grads
    owner: dict[str, Op]


def loss_of(z: Array) -> float:
    """-1/N sum_ij log sigmoid(y_ij z_ij), y = 1 on the diagonal and -1 elsewhere."""
    z = np.asarray(z, np.float64)
    return float(softplus(-(2.0 * np.eye(len(z)) - 1.0) * z).sum() / len(z))


def check_pairs(c: Context, inputs: Mapping[str, Array]) -> None:
    """Raise InputError unless there are as many texts as images, and positions are those that are stored."""
    if PIXELS not in inputs or IDS not in inputs:
        raise InputError("gradients need images and texts: give as many labels as images, label i for image i")
    n, k = len(inputs[PIXELS]), len(inputs[IDS])
    if n != k:
        raise InputError(f"gradients need as many labels as images, label i for image i; got {n} images, {k} labels")
    size = c.image.image_size
    if inputs[PIXELS].shape[2:] != (size, size):
        raise InputError(f"gradients need images of the model's own size, {size}; got {list(inputs[PIXELS].shape[2:])}")


def taps_of(c: Context, ops: Sequence[Op], inputs: Mapping[str, Array]) -> dict[str, Array]:
    """All taps in the arithmetic, with the inputs."""
    given = {tap: x if tap == IDS else np.asarray(x, c.arithmetic.dtype) for tap, x in inputs.items()}
    return given | dict(forward(c, ops, given))


def gradients(
    c: Context, ops: Sequence[Op], env: Env, change: Callable[[Op], Backward | None] = lambda op: None
) -> Gradients:
    """One backward pass.

    Args:
        c: the model, and the arithmetic.
        ops: all operations of both towers.
        env: all taps, see `taps_of`.
        change: what an operation does instead, or None.
    """
    store = c.arithmetic.store if not c.arithmetic.keeps else (lambda x: x)
    loss = float(store(np.asarray(loss_of(env["logits"]))))
    back: Grads = {LOSS: np.asarray(1.0)}
    grads: Grads = {}
    owner: dict[str, Op] = {}
    for op in (LOSS_OP, *reversed(ops)):
        if op.tap not in back:  # nothing of the loss comes by here
            continue
        taps, own = (change(op) or BACKWARD[op.kind])(c, op, env, back.pop(op.tap))
        for tap, d in taps.items():
            back[tap] = store(back[tap] + store(d)) if tap in back else store(d)
        for name, gradient in own.items():
            grads[name], owner[name] = store(np.asarray(gradient)), op
    return Gradients(loss, grads, owner)
