"""A catalogue of mistakes that ports of SigLIP make, each a small change to the forward pass.

A mistake replaces one operation or some: the left side says at which taps, `*` stands for anything. Functions take what
those of `operations` take, and further taps where the entry says `reads`. Mistakes before the towers, in pixels and
token ids, are in `preprocessing`.

To add one: write the operation as the port has it, and a test that plants it (tests/verify/test_mistakes.py does so
for all that are here).
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.params import block_name
from npsiglip.reference.model import extract_patches, gelu_erf, gelu_tanh, split_heads
from npsiglip.reference.positions import interpolate_antialias, interpolate_bicubic
from npsiglip.verify import operations as right
from npsiglip.verify.operations import IDS, Context, Forward, Op

Array = NDArray[Any]


class Mistake(NamedTuple):
    """What is wrong, in a few words; which operations are how; and what these read beside their inputs."""

    name: str
    summary: str
    changes: dict[str, Forward]
    reads: tuple[str, ...] = ()

    def change(self, op: Op) -> Forward | None:
        """The operation as the port has it, if this mistake is in it."""
        return next((forward for taps, forward in self.changes.items() if fnmatchcase(op.tap, taps)), None)


CATALOGUE: list[Mistake] = []


def add(name: str, summary: str, changes: dict[str, Forward], reads: tuple[str, ...] = ()) -> None:
    """Enter a mistake."""
    CATALOGUE.append(Mistake(name, summary, changes, reads))


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
add("branch_missing", "what a block computes is not added", dict.fromkeys(BLOCK_SUMS, lambda c, op, x, y: x))
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


# -- patches and positions --------------------------------------------------------------------------------------------

EMBED = "image.patch_embed"


def _patches(c: Context, op: Op, pixels: Array, order: tuple[int, int, int]) -> Array:
    """Patches whose numbers, (row, column, channel), come in another order before they meet the weight."""
    size = c.image.patch_size
    x = extract_patches(pixels, size)
    n, length, _ = x.shape
    x = x.reshape(n, length, size, size, 3).transpose(0, 1, *(axis + 2 for axis in order)).reshape(x.shape)
    return c.linear(op.name, x)


def _grid_turned(c: Context, op: Op, x: Array, pixels: Array) -> Array:
    rows, columns = right.grid_of(c, pixels)
    return x.reshape(len(x), rows, columns, -1).swapaxes(1, 2).reshape(x.shape)


add(
    "patch_kernel_transposed",
    "a patch's rows and columns are exchanged",
    {EMBED: lambda c, op, pixels: _patches(c, op, pixels, (1, 0, 2))},
)
add(
    "patch_channels_first",
    "a patch is read as (channel, row, column), the weight as (row, column, channel)",
    {EMBED: lambda c, op, pixels: _patches(c, op, pixels, (2, 0, 1))},
)
add(
    "patch_channels_reversed",
    "the weight of patches has blue, green, red",
    {EMBED: lambda c, op, pixels: right.patch_embed(c, op, pixels[:, ::-1])},
)
add(
    "patches_column_major",
    "patches go down the columns",
    {EMBED: lambda c, op, pixels: _grid_turned(c, op, right.patch_embed(c, op, pixels), pixels)},
)


def _positions(change: Callable[[Context, Array, int, int], Array]) -> dict[str, Forward]:
    """Positions [L, D] that were changed; the grid comes with them."""

    def forward(c: Context, op: Op, x: Array, pixels: Array) -> Array:
        rows, columns = right.grid_of(c, pixels)
        zero = np.zeros((1, rows * columns, x.shape[-1]), c.arithmetic.dtype)
        return x + change(c, right.image_embed(c, op, zero, pixels)[0], rows, columns)

    return {"image.embed": forward}


def _interpolated(function: Callable[..., Array]) -> dict[str, Forward]:
    def change(c: Context, table: Array, rows: int, columns: int) -> Array:
        stored = np.asarray(c.params["image.pos_embed"], np.float64)
        return np.asarray(function(stored, rows, columns), c.arithmetic.dtype)

    return _positions(change)


def _turned(table: Array, rows: int, columns: int) -> Array:
    if rows != columns:
        return table
    return table.reshape(rows, columns, -1).swapaxes(0, 1).reshape(table.shape)


add("positions_missing", "image positions are left out", _positions(lambda c, table, *grid: table * c.number(0)))
add("positions_twice", "image positions are added twice", _positions(lambda c, table, *grid: table + table))
add(
    "positions_shifted",
    "the table of positions is shifted by one, as behind a class token",
    _positions(lambda c, table, *grid: np.roll(table, -1, axis=0)),
)
add(
    "positions_shifted_back",
    "the table of positions is shifted back by one",
    _positions(lambda c, table, *grid: np.roll(table, 1, axis=0)),
)
add(
    "positions_transposed",
    "the grid of positions is transposed",
    _positions(lambda c, table, *grid: _turned(table, *grid)),
)
add(
    "positions_antialiased",
    "positions are interpolated with antialias, where the model has bicubic without it",
    _interpolated(interpolate_antialias),
)
add(
    "positions_not_antialiased",
    "positions are interpolated bicubic without antialias",
    _interpolated(interpolate_bicubic),
)
add(
    "text_positions_missing",
    "text positions are left out",
    {"text.embed": lambda c, op, ids: right.text_embed(c, op, ids) - c.param("text.pos_embed")[: ids.shape[1]]},
)
add(
    "text_positions_shifted",
    "text positions begin with the second",
    {
        "text.embed": lambda c, op, ids: (
            right.text_embed(c, op, ids) + (np.roll(p := c.param("text.pos_embed"), -1, axis=0) - p)[: ids.shape[1]]
        )
    },
)
add(
    "embeddings_scaled",
    "token embeddings are multiplied by sqrt(D), as Gemma's are",
    {
        "text.embed": lambda c, op, ids: (
            right.text_embed(c, op, ids)
            + np.asarray(c.params["text.token_embed"][ids], c.arithmetic.dtype) * c.number(c.text.width**0.5 - 1)
        )
    },
)


# -- pooling ----------------------------------------------------------------------------------------------------------

TOKENS = ("image.final_ln",)

add(
    "mean_pooling",
    "the mean of the tokens, where the model has the MAP head",
    {"image.pooled": lambda c, op, x, tokens: tokens.mean(axis=1)},
    TOKENS,
)
add(
    "first_token_pooled",
    "the first token, where the model has the MAP head",
    {"image.pooled": lambda c, op, x, tokens: tokens[:, 0]},
    TOKENS,
)
add(
    "last_token_pooled",
    "the last token, where the model has the MAP head",
    {"image.pooled": lambda c, op, x, tokens: tokens[:, -1]},
    TOKENS,
)
add(
    "max_pooling",
    "the maximum of the tokens, where the model has the MAP head",
    {"image.pooled": lambda c, op, x, tokens: tokens.max(axis=1)},
    TOKENS,
)
add(
    "text_first_token_pooled",
    "the text's first position is pooled, not the last",
    {"text.pooled": lambda c, op, x: x[:, 0]},
)
add("text_mean_pooled", "the mean of the text's positions is pooled", {"text.pooled": lambda c, op, x: x.mean(axis=1)})
add(
    "text_end_pooled",
    "the first end of the text is pooled, as in CLIP, not the last position",
    {"text.pooled": lambda c, op, x, ids: x[np.arange(len(x)), (ids == ids[:, -1:]).argmax(axis=1)]},
    (IDS,),
)
add("text_head_missing", "the text tower's projection is left out", {"text.head": lambda c, op, x: x})
add(
    "tanh_pooler",
    "tanh behind the pooled vector, as BERT's pooler has",
    {
        "image.pooled": lambda c, op, x: np.tanh(right.first(c, op, x)),
        "text.head": lambda c, op, x: np.tanh(right.linear(c, op, x)),
    },
)


# -- the end ----------------------------------------------------------------------------------------------------------

add(
    "not_normalised", "embeddings are not scaled to unit norm", {"zimg": lambda c, op, x: x, "ztxt": lambda c, op, x: x}
)
add(
    "logit_scale_without_exp",
    "logit_scale is taken as the temperature, without exp",
    {"logits": lambda c, op, zimg, ztxt: c.param("t_prime") * c.matmul(zimg, ztxt.T) + c.param("bias")},
)
add(
    "logit_scale_missing",
    "cosines are not multiplied by the temperature",
    {"logits": lambda c, op, zimg, ztxt: c.matmul(zimg, ztxt.T) + c.param("bias")},
)
add(
    "logit_bias_missing",
    "logit_bias is left out",
    {"logits": lambda c, op, zimg, ztxt: right.logits(c, op, zimg, ztxt) - c.param("bias")},
)
add(
    "logit_bias_negated",
    "logit_bias is subtracted",
    {"logits": lambda c, op, zimg, ztxt: right.logits(c, op, zimg, ztxt) - c.number(2) * c.param("bias")},
)
add(
    "logits_of_clip",
    "logits have CLIP's temperature of 100, and no bias",
    {"logits": lambda c, op, zimg, ztxt: c.number(100) * c.matmul(zimg, ztxt.T)},
)
add("softmax_for_sigmoid", "probabilities are a softmax over the texts", {"probs": lambda c, op, x: right.softmax(x)})
add(
    "softmax_over_images",
    "probabilities are a softmax over the images",
    {"probs": lambda c, op, x: right.softmax(x.T).T},
)

BY_NAME = {mistake.name: mistake for mistake in CATALOGUE}
