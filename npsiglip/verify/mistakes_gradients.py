"""Mistakes of backward passes that were written by hand, or that a stray `detach` cuts: each a small change.

They read as `mistakes` says, but that functions take and give what those of `backward` do. The forward pass is right.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.reference import backward as reference
from npsiglip.reference.loss import cross_entropy
from npsiglip.verify import backward as right
from npsiglip.verify.backward import BACKWARD, LOSS, Backward, Env, Grads
from npsiglip.verify.mistakes_blocks import BLOCK_SUMS, LINEAR, MAP_SUM, NORMS, PROBS
from npsiglip.verify.operations import Context, Op

Array = NDArray[Any]


class Slip(NamedTuple):
    """What is wrong, in a few words; and how which operations go backwards."""

    name: str
    summary: str
    changes: dict[str, Backward]

    def change(self, op: Op) -> Backward | None:
        """The operation as the port has it, if this mistake is in it."""
        return next((backward for taps, backward in self.changes.items() if fnmatchcase(op.tap, taps)), None)


SLIPS: list[Slip] = []
# The same factor on all gradients: found by a fit, and so with any factor. N is the number of pairs.
FACTORS = {
    "gradients_of_the_sum": "all gradients are N times too large: the loss is summed, not divided by N",
    "gradients_of_the_mean": "all gradients are N times too small: the loss is divided by N N, a mean over pairs",
    "gradients_negated": "all gradients have the other sign",
    "gradients_scaled": "all gradients have one factor too many, as clipping or a scaled loss leaves it",
}


def add(name: str, summary: str, changes: dict[str, Backward]) -> None:
    """Enter a mistake."""
    SLIPS.append(Slip(name, summary, changes))


def _as_it_is(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    return BACKWARD[op.kind](c, op, env, d)


def _parameters(change: Callable[[Context, Op, Env, Array, Grads], Grads]) -> Backward:
    """An operation of which only the gradients of parameters are wrong."""

    def backward(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
        taps, own = _as_it_is(c, op, env, d)
        return taps, own | change(c, op, env, d, own)

    return backward


def _only(number: int) -> Backward:
    """A sum of which one side gets nothing."""

    def backward(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
        return {tap: d if i == number else np.zeros_like(d) for i, tap in enumerate(op.inputs)}, {}

    return backward


# -- the loss, temperature and bias, unit vectors ---------------------------------------------------------------------


def _of_clip(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    z = np.asarray(env[op.inputs[0]], np.float64)
    found = (cross_entropy(z)[1] + cross_entropy(z.T)[1].T) / (2 * len(z))
    return {op.inputs[0]: np.asarray(found, c.arithmetic.dtype)}, {}


def _pairs_alone(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
    taps, _ = right.pair_loss(c, op, env, d)
    return {tap: x * np.eye(len(x), dtype=x.dtype) for tap, x in taps.items()}, {}


add("loss_of_clip", "the gradients are those of CLIP's loss, a softmax", {LOSS: _of_clip})
add("loss_of_the_pairs_alone", "pairs that do not match have no part in the loss", {LOSS: _pairs_alone})
add(
    "t_gradient_without_exp",
    "logit_scale gets the gradient of t = exp(logit_scale), which lacks a factor t",
    {"logits": _parameters(lambda c, op, env, d, own: {"t_prime": own["t_prime"] / np.exp(c.param("t_prime"))})},
)
add(
    "logit_bias_gradient_missing",
    "logit_bias gets no gradient",
    {"logits": _parameters(lambda c, op, env, d, own: {"bias": np.zeros_like(own["bias"])})},
)
add(
    "unit_norm_constant",
    "the norm of an embedding is taken for a constant",
    {
        tap: lambda c, op, env, d: (
            {op.inputs[0]: d / np.sqrt((env[op.inputs[0]] ** 2).sum(axis=-1, keepdims=True))},
            {},
        )
        for tap in ("zimg", "ztxt")
    },
)
add(
    "tower_without_gradient",
    "nothing goes back into a tower",
    {tap: lambda c, op, env, d: ({op.inputs[0]: np.zeros_like(d)}, {}) for tap in ("zimg", "ztxt")},
)


# -- activations, LayerNorm, softmax ----------------------------------------------------------------------------------


def _activation(function: Callable[..., Array]) -> dict[str, Backward]:
    return {"*.mlp.gelu": lambda c, op, env, d: right.activated(c, op, env, d, function)}


def _first_term(x: Array, d: Array) -> Array:
    return np.asarray(d * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))))


add("gelu_gradient_erf", "the derivative of GELU's erf form, where the model has tanh", _activation(reference.gelu_erf))
add(
    "gelu_gradient_tanh",
    "the derivative of GELU's tanh form, where the model has erf",
    _activation(reference.gelu_tanh),
)
add("gelu_gradient_first_term", "GELU's derivative is the first of its two terms", _activation(_first_term))
add("gelu_gradient_relu", "the derivative of ReLU for that of GELU", _activation(lambda x, d: d * (x > 0)))


def _constant(mean: bool) -> Backward:
    """LayerNorm whose deviation, and whose mean if asked for, do not depend on x."""

    def backward(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
        x, d_n = env[op.inputs[0]], d * c.param(f"{op.name}.scale")
        s = np.sqrt(x.var(axis=-1, keepdims=True) + c.number(c.tower(op).layer_norm_eps))
        d_x = (d_n if mean else d_n - d_n.mean(axis=-1, keepdims=True)) / s
        return {op.inputs[0]: d_x}, right.layer_norm(c, op, env, d)[1]

    return backward


add(
    "layer_norm_constant",
    "LayerNorm's mean and deviation are taken for constants",
    dict.fromkeys(NORMS, _constant(True)),
)
add(
    "layer_norm_deviation_constant",
    "LayerNorm's deviation is taken for a constant",
    dict.fromkeys(NORMS, _constant(False)),
)
add(
    "softmax_gradient_diagonal",
    "the softmax of attention has the derivative p alone, without its sum",
    {PROBS: lambda c, op, env, d: right.through_scores(c, op, env, env[op.tap] * d)},
)


def _scaled(factor: Callable[[int], float]) -> dict[str, Backward]:
    def backward(c: Context, op: Op, env: Env, d: Array) -> tuple[Grads, Grads]:
        width = env[op.inputs[0]].shape[-1] // c.tower(op).num_heads
        return right.through_scores(c, op, env, reference.softmax(env[op.tap], d), factor(width))

    return {PROBS: backward}


add("attention_gradient_scale_missing", "1 / sqrt(Dh) is left out on the way back", _scaled(lambda d: d**0.5))
add("attention_gradient_scale_twice", "1 / sqrt(Dh) is there twice on the way back", _scaled(lambda d: d**-0.5))


# -- sums and branches ------------------------------------------------------------------------------------------------

add("residual_detached", "a block's residual hands nothing back", dict.fromkeys(BLOCK_SUMS, _only(1)))
add("branch_detached", "nothing goes back into what a block computes", dict.fromkeys(BLOCK_SUMS, _only(0)))
add("map_residual_detached", "the MAP head's residual hands nothing back", {MAP_SUM: _only(1)})
add("map_mlp_detached", "nothing goes back into the MAP head's MLP", {MAP_SUM: _only(0)})


# -- parameters -------------------------------------------------------------------------------------------------------


def _bias(change: Callable[[Array, int], Array]) -> dict[str, Backward]:
    """The gradient of a linear layer's bias, by the number of tokens."""

    def own(c: Context, op: Op, env: Env, d: Array, grads: Grads) -> Grads:
        return {f"{op.name}.b": change(grads[f"{op.name}.b"], d.size // d.shape[-1])}

    return dict.fromkeys(LINEAR, _parameters(own))


def _last_counts(c: Context, op: Op, env: Env, d: Array, grads: Grads) -> Grads:
    table = np.zeros_like(grads["text.token_embed"])
    table[env[op.inputs[0]]] = d
    return {"text.token_embed": table}


add("bias_gradient_missing", "a linear layer's bias gets no gradient", _bias(lambda x, tokens: np.zeros_like(x)))
add(
    "bias_gradient_averaged",
    "a linear layer's bias gets the mean over the tokens, not the sum",
    _bias(lambda x, tokens: x / x.dtype.type(tokens)),
)
add(
    "probe_gradient_averaged",
    "the probe gets the mean over the images, not the sum",
    {
        "image.map_head.attn.q": _parameters(
            lambda c, op, env, d, own: {
                "image.map_head.probe": own["image.map_head.probe"] / own["image.map_head.probe"].dtype.type(len(d))
            }
        )
    },
)
add(
    "positions_gradient_averaged",
    "positions get the mean over images or texts, not the sum",
    {
        f"{tower}.embed": _parameters(
            lambda c, op, env, d, own: {
                name: x / x.dtype.type(len(d)) for name, x in own.items() if name.endswith("pos_embed")
            }
        )
        for tower in ("image", "text")
    },
)
add(
    "token_gradient_overwritten",
    "where a token id repeats, its last place counts, not the sum over all",
    {"text.embed": _parameters(_last_counts)},
)

GRADIENT_SUMMARIES = {slip.name: slip.summary for slip in SLIPS} | FACTORS
