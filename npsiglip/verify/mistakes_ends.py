"""Mistakes at both ends of the towers: patches, positions, pooling, unit norm, logits, probabilities.

They read as `mistakes` says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.reference.model import extract_patches
from npsiglip.reference.positions import interpolate_antialias, interpolate_bicubic
from npsiglip.verify import operations as right
from npsiglip.verify.catalogue import add
from npsiglip.verify.operations import IDS, Context, Forward, Op

Array = NDArray[Any]


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
    "text_positions_twice",
    "text positions are added twice",
    {"text.embed": lambda c, op, ids: right.text_embed(c, op, ids) + c.param("text.pos_embed")[: ids.shape[1]]},
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
        "image.pooled": lambda c, op, x: np.tanh(right.first_token(c, op, x)),
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
