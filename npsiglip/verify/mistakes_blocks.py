"""Mistakes within blocks and the MAP head: activations, LayerNorm, attention, linear layers, residuals.

They read as `mistakes` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.params import block_name
from npsiglip.reference.model import gelu_erf, gelu_tanh, merge_heads, split_heads
from npsiglip.verify import operations as right
from npsiglip.verify.catalogue import add
from npsiglip.verify.operations import IDS, Context, Forward, Op

Array = NDArray[Any]


# -- activations ------------------------------------------------------------------------------------------------------


def _activation(function: Callable[[Array], Array]) -> dict[str, Forward]:
    return {"*.mlp.gelu": lambda c, op, x: right.activated(c, x, function)}


add("erf_gelu", "GELU in the erf form, where the model has the tanh form", _activation(gelu_erf))
add("tanh_gelu", "GELU in the tanh form, where the model has the erf form", _activation(gelu_tanh))
add(
    "quick_gelu", "x sigmoid(1.702 x) for GELU", _activation(lambda x: x / (1 + np.exp(-1.702 * np.clip(x, -400, 400))))
)
add("relu", "ReLU for GELU", _activation(lambda x: np.maximum(x, 0)))
add("silu", "SiLU for GELU", _activation(lambda x: x / (1 + np.exp(-np.clip(x, -700, 700)))))
add("no_activation", "no activation in the MLP", _activation(lambda x: x))


# -- LayerNorm --------------------------------------------------------------------------------------------------------

NORMS = ("*.ln1", "*.ln2", "*.final_ln", "*.map_head.ln")


def _norms(forward: Forward) -> dict[str, Forward]:
    return dict.fromkeys(NORMS, forward)


add("layer_norm_eps_1e-5", "LayerNorm's epsilon is 1e-5", _norms(lambda c, op, x: right.normalised(c, op, x, 1e-5)))
add("layer_norm_eps_1e-12", "LayerNorm's epsilon is 1e-12", _norms(lambda c, op, x: right.normalised(c, op, x, 1e-12)))
add(
    "unbiased_variance",
    "LayerNorm divides the squares by D - 1",
    _norms(lambda c, op, x: right.normalised(c, op, x, c.tower(op).layer_norm_eps, ddof=1)),
)
add(
    "rms_norm",
    "LayerNorm does not subtract the mean",
    _norms(lambda c, op, x: right.normalised(c, op, x, c.tower(op).layer_norm_eps, centre=False)),
)
add(
    "eps_outside_the_root",
    "LayerNorm adds epsilon to the deviation, not to the variance",
    _norms(lambda c, op, x: _eps_outside(c, op, x)),
)
add(
    "layer_norm_bias_missing",
    "a LayerNorm's bias is left out",
    _norms(lambda c, op, x: right.layer_norm(c, op, x) - c.param(f"{op.name}.b")),
)
add(
    "layer_norm_scale_missing",
    "a LayerNorm's scale is left out",
    _norms(
        lambda c, op, x: (right.layer_norm(c, op, x) - (b := c.param(f"{op.name}.b"))) / c.param(f"{op.name}.scale") + b
    ),
)
add("layer_norm_missing", "a LayerNorm is left out", _norms(lambda c, op, x: x))
add(
    "layer_norm_twice",
    "a LayerNorm is applied twice",
    _norms(lambda c, op, x: right.layer_norm(c, op, right.layer_norm(c, op, x))),
)


def _eps_outside(c: Context, op: Op, x: Array) -> Array:
    mean, deviation = x.mean(axis=-1, keepdims=True), x.std(axis=-1, keepdims=True)
    eps = c.number(c.tower(op).layer_norm_eps)
    return np.asarray((x - mean) / (deviation + eps) * c.param(f"{op.name}.scale") + c.param(f"{op.name}.b"))


# -- attention --------------------------------------------------------------------------------------------------------

PROBS = "*.attn.probs"


def _scaled(factor: Callable[[Context, Op, int], float]) -> dict[str, Forward]:
    """Scores times a factor that depends on the head's width."""

    def forward(c: Context, op: Op, q: Array, k: Array) -> Array:
        head_dim = q.shape[-1] // c.tower(op).num_heads
        return right.softmax(right.scores(c, op, q, k) * c.number(factor(c, op, head_dim)))

    return {PROBS: forward}


add("attention_scale_missing", "scores are not divided by sqrt(Dh)", _scaled(lambda c, op, d: d**0.5))
add("attention_scale_twice", "scores are divided by sqrt(Dh) twice", _scaled(lambda c, op, d: d**-0.5))
add(
    "attention_scale_of_width",
    "scores are divided by sqrt(D), the model's width",
    _scaled(lambda c, op, d: c.tower(op).num_heads ** -0.5),
)


def _masked(mask: Callable[[Context, Array, Array], Array]) -> Forward:
    """Keys of a text that are not attended to where `mask` [N, 1, Lq, L] is False."""

    def forward(c: Context, op: Op, q: Array, k: Array, ids: Array) -> Array:
        found = right.scores(c, op, q, k)
        return right.softmax(np.where(mask(c, ids, found), found, c.number(-1e30)))

    return forward


def _after_the_text(c: Context, ids: Array, keep: int) -> Array:
    """[N, 1, 1, L]: False for the padding, which is what the last id of a row repeats, but for its first `keep`."""
    pad = ids[:, -1:]
    same = np.flip(np.logical_and.accumulate(np.flip(ids == pad, axis=1), axis=1), axis=1)
    length = (~same).sum(axis=1, keepdims=True) + keep
    return np.asarray(np.arange(ids.shape[1]) < np.maximum(length, 1))[:, None, None, :]


def _causal(c: Context, ids: Array, scores: Array) -> Array:
    return np.tril(np.ones(scores.shape[-2:], bool))


add("causal_mask", "the text tower has a causal mask", {f"text.{PROBS}": _masked(_causal)}, (IDS,))
add(
    "padding_masked",
    "the text tower does not attend to padding",
    {f"text.{PROBS}": _masked(lambda c, ids, s: _after_the_text(c, ids, 0))},
    (IDS,),
)
add(
    "padding_masked_but_the_first",
    "the text tower attends to the end of the text, and not to padding behind it",
    {f"text.{PROBS}": _masked(lambda c, ids, s: _after_the_text(c, ids, 1))},
    (IDS,),
)


def _interleaved(x: Array, heads: int) -> Array:
    n, length, width = x.shape
    return np.asarray(x.reshape(n, length, width // heads, heads).transpose(0, 3, 1, 2))


def _interleaved_probs(c: Context, op: Op, q: Array, k: Array) -> Array:
    heads = c.tower(op).num_heads
    q, k = _interleaved(q, heads), _interleaved(k, heads)
    return right.softmax(c.matmul(q, k.transpose(0, 1, 3, 2)) / c.number(np.sqrt(q.shape[-1])))


def _interleaved_mix(c: Context, op: Op, weights: Array, v: Array) -> Array:
    found = c.matmul(weights, _interleaved(v, c.tower(op).num_heads))
    n, heads, length, head_dim = found.shape
    return np.asarray(found.transpose(0, 2, 3, 1).reshape(n, length, heads * head_dim))


def _heads_not_turned(c: Context, op: Op, weights: Array, v: Array) -> Array:
    found = c.matmul(weights, split_heads(v, c.tower(op).num_heads))
    n, heads, length, head_dim = found.shape
    return np.asarray(found.reshape(n, length, heads * head_dim))


add(
    "heads_interleaved",
    "heads take every H-th channel, not Dh channels in a row",
    {PROBS: _interleaved_probs, "*.attn.mix": _interleaved_mix},
)


def _heads(number: Callable[[int, int], int]) -> dict[str, Forward]:
    """Another number of heads, by the right one and the width, where it divides the width."""

    def of(c: Context, op: Op, x: Array) -> int:
        wrong, width = number(c.tower(op).num_heads, x.shape[-1]), x.shape[-1]
        return wrong if 0 < wrong <= width and width % wrong == 0 else c.tower(op).num_heads

    def probs(c: Context, op: Op, q: Array, k: Array) -> Array:
        q, k = split_heads(q, of(c, op, q)), split_heads(k, of(c, op, k))
        return right.softmax(c.matmul(q, k.transpose(0, 1, 3, 2)) / c.number(np.sqrt(q.shape[-1])))

    def mix(c: Context, op: Op, weights: Array, v: Array) -> Array:
        return np.asarray(merge_heads(c.matmul(weights, split_heads(v, weights.shape[1]))))

    return {PROBS: probs, "*.attn.mix": mix}


add("heads_12", "12 heads, the default of transformers", _heads(lambda heads, width: 12))
add("heads_of_64", "heads of 64 channels", _heads(lambda heads, width: width // 64))
add("heads_doubled", "twice as many heads", _heads(lambda heads, width: 2 * heads))
add("heads_halved", "half as many heads", _heads(lambda heads, width: heads // 2))
add("heads_not_merged", "heads are reshaped without being transposed back", {"*.attn.mix": _heads_not_turned})
add(
    "softmax_over_queries",
    "softmax runs over the queries",
    {PROBS: lambda c, op, q, k: right.softmax(right.scores(c, op, q, k).swapaxes(2, 3)).swapaxes(2, 3)},
)
add(
    "values_not_weighted",
    "every query gets the mean of all values",
    {
        "*.attn.mix": lambda c, op, weights, v: np.broadcast_to(
            v.mean(axis=1, keepdims=True), (len(v), weights.shape[2], v.shape[2])
        )
    },
)


def _of(letter: str) -> Forward:
    """A projection with the weights of q, k or v."""

    def forward(c: Context, op: Op, x: Array) -> Array:
        name = op.name[:-1] + letter
        if op.kind == "probe_query":
            return right.probe_query(c, op._replace(name=name), x)
        return c.linear(name, x)

    return forward


for _order in ("kqv", "qvk", "vkq", "kvq", "vqk"):
    add(
        f"qkv_order_{_order}",
        f"the fused projection is cut as {', '.join(_order)}, not q, k, v",
        {f"*.attn.{place}": _of(letter) for place, letter in zip("qkv", _order, strict=True) if place != letter},
    )


# -- linear layers ----------------------------------------------------------------------------------------------------

LINEAR = ("*.attn.q", "*.attn.k", "*.attn.v", "*.attn.out", "*.mlp.fc1", "*.mlp.fc2", "text.head", "image.patch_embed")


def _without_bias(c: Context, op: Op, *x: Array) -> Array:
    return right.FORWARD[op.kind](c, op, *x) - c.param(f"{op.name}.b")


def _transposed(c: Context, op: Op, x: Array) -> Array:
    w, b = c.param(f"{op.name}.w"), c.param(f"{op.name}.b")
    if w.shape[0] != w.shape[1]:
        return right.linear(c, op, x)
    if op.kind == "probe_query":
        return np.broadcast_to(
            c.matmul(c.param("image.map_head.probe").reshape(1, 1, -1), w.T) + b, (len(x), 1, len(w))
        )
    return np.asarray(c.matmul(x, w.T) + b)


def _bias_twice(c: Context, op: Op, *x: Array) -> Array:
    return right.FORWARD[op.kind](c, op, *x) + c.param(f"{op.name}.b")


add("bias_twice", "a linear layer's bias is added twice", dict.fromkeys(LINEAR, _bias_twice))
add("attention_out_missing", "attention's output projection is left out", {"*.attn.out": lambda c, op, x: x})
add("bias_missing", "a linear layer's bias is left out", dict.fromkeys(LINEAR, _without_bias))
add("weight_transposed", "a square weight is transposed", dict.fromkeys((*LINEAR[:4], "text.head"), _transposed))


def _block_before(c: Context, op: Op, *x: Array) -> Array:
    """The operation with the parameters of the block before."""
    tower, _, number, *rest = op.name.split(".")
    name = ".".join([block_name(tower, max(int(number) - 1, 0)), *rest])
    return right.FORWARD[op.kind](c, op._replace(name=name), *x)


add(
    "weights_of_the_block_before",
    "a layer has the weights of the block before",
    {
        f"*.blocks.*.{part}": _block_before
        for part in ("ln1", "ln2", "attn.q", "attn.k", "attn.v", "attn.out", "mlp.fc1", "mlp.fc2")
    },
)


# -- residuals --------------------------------------------------------------------------------------------------------

BLOCK_SUMS, MAP_SUM = ("*.blocks.*.+attn", "*.blocks.*.+mlp"), "image.map_head.+mlp"

add("residual_missing", "a block's residual is left out", dict.fromkeys(BLOCK_SUMS, lambda c, op, x, y: y))
add("residual_twice", "a block's residual is added twice", dict.fromkeys(BLOCK_SUMS, lambda c, op, x, y: x + x + y))
add("attention_missing", "a block's attention is not added", {BLOCK_SUMS[0]: lambda c, op, x, y: x})
add("mlp_missing", "a block's MLP is not added", {BLOCK_SUMS[1]: lambda c, op, x, y: x})
add("block_missing", "a whole block is left out", dict.fromkeys(BLOCK_SUMS, lambda c, op, x, y: x))


def _block_again(c: Context, op: Op, x: Array, y: Array) -> Array:
    """The block's result, which goes through the block once more."""
    env: dict[str, Array] = {"stream": x + y}
    for again in right.block(op.name, "stream"):
        env[again.tap] = right.run(c, again, env)
    return env[op.tap]


add("block_twice", "a block is applied twice", {BLOCK_SUMS[1]: _block_again})
add("map_residual_missing", "the MAP head's residual is left out", {MAP_SUM: lambda c, op, x, y: y})
add("map_residual_twice", "the MAP head's residual is added twice", {MAP_SUM: lambda c, op, x, y: x + x + y})
add("map_mlp_missing", "the MAP head's MLP is left out", {MAP_SUM: lambda c, op, x, y: x})
add(
    "probe_added",
    "the probe is added to what it attended to",
    {"image.map_head.attn.out": lambda c, op, x: right.linear(c, op, x) + c.param("image.map_head.probe")},
)
add(
    "map_residual_after_layer_norm",
    "the MAP head's residual is taken behind its LayerNorm",
    {MAP_SUM: lambda c, op, x, y: right.layer_norm(c, op._replace(name="image.map_head.ln"), x) + y},
)


def _normalised_stream(c: Context, op: Op, x: Array, y: Array) -> Array:
    norm = "ln1" if op.tap.endswith("+attn") else "ln2"
    return right.layer_norm(c, op._replace(name=f"{op.name}.{norm}"), x) + y


add(
    "residual_after_layer_norm",
    "a block's residual is taken behind its LayerNorm",
    dict.fromkeys(BLOCK_SUMS, _normalised_stream),
)
