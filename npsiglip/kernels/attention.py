"""Multi-head attention in one pass over tiles of keys; no [L, L] array exists at any length.

First every head's keys and values are packed into panels (as weights are, see gemm.py), then tasks of `QUERY_BLOCK`
queries of one head run on their own. A task takes a tile of queries (8 rows on AVX-512) and goes over the keys in
tiles of `KEY_TILE`: scores, running maximum, exp, running sum, and the sum of values weighted so far, which is scaled
down whenever a larger maximum comes up (Milakov and Gimelshein, arXiv:1805.02867).

A query's result depends on its own row and on its image's keys in their order, on nothing else: the same bits in
any batch and on any number of threads.
"""

import numpy as np
from numba import prange

from npsiglip.kernels.gemm import K_BLOCK
from npsiglip.kernels.jit import inline, parallel_kernel
from npsiglip.kernels.tile import PANEL_F32, ROWS_F32, add_product
from npsiglip.kernels.vector import (
    LANES,
    first_lanes,
    load,
    max_lanes,
    maximum,
    splat,
    store,
    store_n,
    sum_lanes,
    to_f64,
)
from npsiglip.kernels.vector_math import exp

KEY_TILE = 8 * 48  # scores of a tile of queries: 8 x 384 float32 = 12 KB, a quarter of the first-level cache
QUERY_BLOCK = 8 * ROWS_F32
MINUS_INF = np.float32(-np.inf)


@inline
def keys_size(length, head_dim):
    """Float32 elements of one head's packed keys."""
    return -(-length // LANES) * LANES * head_dim


@inline
def head_size(length, head_dim):
    """Float32 elements of one head's packed keys and values."""
    return -(-length // LANES) * LANES * head_dim + length * -(-head_dim // LANES) * LANES


def scratch_size(n, length, num_heads, head_dim):
    """Float32 elements of `scratch` for `attention`: packed keys and values of all heads."""
    return n * num_heads * head_size.py_func(length, head_dim)


@inline
def pack_keys(qkv, start, stride, length, head_dim, scratch, base):
    """Panels [Dh, 48 keys] of the transposed keys of one head; key i is qkv.flat[start + i * stride :]."""
    for first in range(0, length, PANEL_F32):
        keys = min(PANEL_F32, length - first)
        width = -(-keys // LANES) * LANES
        panel = base + first * head_dim
        for d in range(head_dim):
            for j in range(keys):
                scratch[panel + d * width + j] = qkv[start + (first + j) * stride + d]
            for j in range(keys, width):
                scratch[panel + d * width + j] = np.float32(0)


@inline
def pack_values(qkv, start, stride, length, head_dim, scratch, base):
    """Panels [L, 48 columns] of the values of one head."""
    for first in range(0, head_dim, PANEL_F32):
        columns = min(PANEL_F32, head_dim - first)
        width = -(-columns // LANES) * LANES
        panel = base + first * length
        for i in range(length):
            for j in range(columns):
                scratch[panel + i * width + j] = qkv[start + i * stride + first + j]
            for j in range(columns, width):
                scratch[panel + i * width + j] = np.float32(0)


@inline
def score_tile(rows, qkv, q_start, stride, scratch, base, head_dim, first, keys, scores):
    """Scores [rows, KEY_TILE] = q k^T of a tile of queries and the keys [first, first + keys)."""
    scores[:] = np.float32(0)
    for j in range(0, keys, PANEL_F32):
        units = -(-min(PANEL_F32, keys - j) // LANES)
        panel = base + (first + j) * head_dim
        add_product(
            rows, units, qkv, q_start, stride, 1, scratch, panel, head_dim, K_BLOCK, scores, j, KEY_TILE
        )  # fmt: skip


@inline
def row_maximum(scores, row, keys):
    """The largest of the first `keys` scores of a row."""
    top = splat(MINUS_INF)
    for j in range(0, keys, LANES):
        v = load(scores, row * KEY_TILE + j)
        if keys - j < LANES:
            v = first_lanes(v, keys - j, MINUS_INF)
        top = maximum(top, v)
    return max_lanes(top)


@inline
def exponentiate_row(scores, row, keys, top, scale):
    """Scores = exp((scores - top) scale) in place, for the first `keys` of a row; the float64 sum of them."""
    total = splat(0.0)
    for j in range(0, keys, LANES):
        v = exp((load(scores, row * KEY_TILE + j) - top) * scale)
        if keys - j < LANES:
            v = first_lanes(v, keys - j, np.float32(0))
        store(scores, row * KEY_TILE + j, v)
        total = total + to_f64(v)
    return sum_lanes(total)


@inline
def fade(mix, row, padded_dim, factor):
    """Scale down what a row has summed so far."""
    for d in range(row * padded_dim, (row + 1) * padded_dim, LANES):
        store(mix, d, load(mix, d) * factor)


@inline
def attend(
    rows, flat, q_start, stride, scratch, keys_base, values_base, length, head_dim, scale, scores, mix, tops, sums
):
    """A tile of queries at flat[q_start]: mix = sum_j exp(s_j - top) v_j, tops and sums, one of each per row."""
    padded_dim = -(-head_dim // LANES) * LANES
    mix[:] = np.float32(0)
    tops[:] = MINUS_INF
    sums[:] = 0.0
    for first in range(0, length, KEY_TILE):
        keys = min(KEY_TILE, length - first)
        score_tile(rows, flat, q_start, stride, scratch, keys_base, head_dim, first, keys, scores)
        for r in range(rows):
            top = max(tops[r], row_maximum(scores, r, keys))
            if first > 0:
                factor = max_lanes(exp(splat((tops[r] - top) * scale)))
                sums[r] *= factor
                fade(mix, r, padded_dim, factor)
            tops[r] = top
            sums[r] += exponentiate_row(scores, r, keys, top, scale)
        for d in range(0, head_dim, PANEL_F32):
            units = -(-min(PANEL_F32, head_dim - d) // LANES)
            panel = values_base + d * length + first * units * LANES
            add_product(rows, units, scores, 0, KEY_TILE, 1, scratch, panel, keys, K_BLOCK, mix, d, padded_dim)


@inline
def write_mix(mix, sums, rows, head_dim, out, start, stride):
    """Out rows = mix / sums."""
    padded_dim = -(-head_dim // LANES) * LANES
    for r in range(rows):
        inverse = np.float32(1.0 / sums[r])
        for d in range(0, head_dim, LANES):
            v = load(mix, r * padded_dim + d) * inverse
            if head_dim - d >= LANES:
                store(out, start + r * stride + d, v)
            else:
                store_n(out, start + r * stride + d, v, head_dim - d)


@inline
def write_probs(
    rows, flat, q_start, stride, scratch, keys_base, length, head_dim, scale, scores, tops, sums, probs, start
):
    """The probabilities of a tile of queries, from scores computed once more."""
    for first in range(0, length, KEY_TILE):
        keys = min(KEY_TILE, length - first)
        score_tile(rows, flat, q_start, stride, scratch, keys_base, head_dim, first, keys, scores)
        for r in range(rows):
            exponentiate_row(scores, r, keys, tops[r], scale)
            for j in range(keys):
                probs[start + r * length + first + j] = np.float32(scores[r * KEY_TILE + j] / sums[r])


@inline
def attention_task(task, flat, length, num_heads, head_dim, scratch, probs, out):
    """One block of queries of one head of one image."""
    width = num_heads * head_dim
    stride, scale = 3 * width, np.float32(1.0 / np.sqrt(head_dim))
    query_blocks = -(-length // QUERY_BLOCK)
    head = task // query_blocks
    image, column = head // num_heads, head % num_heads * head_dim
    keys_base = head * head_size(length, head_dim)
    values_base = keys_base + keys_size(length, head_dim)
    scores = np.empty(ROWS_F32 * KEY_TILE, np.float32)
    mix = np.empty(ROWS_F32 * -(-head_dim // LANES) * LANES, np.float32)
    tops = np.empty(ROWS_F32, np.float32)
    sums = np.empty(ROWS_F32, np.float64)
    block = task % query_blocks * QUERY_BLOCK
    for query in range(block, min(block + QUERY_BLOCK, length), ROWS_F32):
        rows = min(ROWS_F32, length - query)
        row = image * length + query
        q_start = row * stride + column
        attend(
            rows, flat, q_start, stride, scratch, keys_base, values_base, length, head_dim, scale,
            scores, mix, tops, sums,
        )  # fmt: skip
        write_mix(mix, sums, rows, head_dim, out, row * width + column, width)
        if probs.size > 0:
            start = (head * length + query) * length
            write_probs(
                rows, flat, q_start, stride, scratch, keys_base, length, head_dim, scale,
                scores, tops, sums, probs, start,
            )  # fmt: skip


@inline
def pack_task(head, flat, length, num_heads, head_dim, scratch):
    """The keys and values of one head of one image."""
    width = num_heads * head_dim
    start = head // num_heads * length * 3 * width + width + head % num_heads * head_dim
    base = head * head_size(length, head_dim)
    pack_keys(flat, start, 3 * width, length, head_dim, scratch, base)
    pack_values(flat, start + width, 3 * width, length, head_dim, scratch, base + keys_size(length, head_dim))


@parallel_kernel
def attention(qkv, length, num_heads, scratch, probs, out):
    """softmax(q k^T / sqrt(Dh)) v; qkv [N * L, 3 D] holds q, k and v beside each other, out [N * L, D]; float32.

    Scores and weighted sums are accumulated in float32, the sum of exponentials in float64. `probs` [N, H, L, L] is
    filled for traces, or has no elements. `scratch`: see `scratch_size`.
    """
    n, head_dim = qkv.shape[0] // length, qkv.shape[1] // 3 // num_heads
    flat, flat_probs = qkv.reshape(-1), probs.reshape(-1)
    for head in prange(n * num_heads):
        pack_task(head, flat, length, num_heads, head_dim, scratch)
    for task in prange(n * num_heads * -(-length // QUERY_BLOCK)):
        attention_task(task, flat, length, num_heads, head_dim, scratch, flat_probs, out)
