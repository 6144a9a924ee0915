"""Multi-head attention in one pass over tiles of keys; no [L, L] array exists at any length.

Queries lie in the lanes. A tile of 48 queries (on AVX-512) is transposed once; then every step is a vertical one:

    scores [keys, queries]    keys, as they lie, times the transposed queries
    weights                   exp of them, with a running maximum and a running sum in each lane
    mix [Dh, queries]         transposed values times the weights, added to what came before, which is scaled down
                              whenever a larger maximum comes up (Milakov and Gimelshein, arXiv:1805.02867)

So softmax needs no sum across lanes, and a mask is one number for a row of scores. Keys are never packed; values are,
in pairs of keys where the element type is bfloat16. A task is one head of one image, or a part of its queries.

A query's result depends on its own row and on its image's keys in their order, on nothing else: the same bits in any
batch and on any number of threads.
"""

import functools

import numpy as np
from numba import from_dtype, get_num_threads, prange, types
from numba.extending import overload

from npsiglip.kernels.gemm import CHAIN, PANEL_STEP, STEP_SIZE
from npsiglip.kernels.jit import address, call_address, callback, inline, parallel_kernel
from npsiglip.kernels.pack import transpose
from npsiglip.kernels.tasks import take
from npsiglip.kernels.tile import PANEL, ROWS, UNITS, add_product, product
from npsiglip.kernels.vector import (
    LANES,
    load,
    load_n,
    maximum,
    splat,
    store,
    store_n,
    store_pairs,
    to_f32,
    to_f64,
)
from npsiglip.kernels.vector_math import exp

KEY_TILE = 128
TASKS_PER_THREAD = 8
LOWEST = np.finfo(np.float32).min  # instead of -inf: the difference of two maxima is a number


# -- what depends on the element type -----------------------------------------------------------------------------------


@inline
def pack_values_f32(qkv, start, stride, length, head_dim, values, width):
    """Values [L, width] of one head, as they are."""
    packed = values.view(np.float32)
    for i in range(length):
        for d in range(0, head_dim, LANES):
            store(packed, i * width + d, load_n(qkv, start + i * stride + d, head_dim - d))


@inline
def pack_values_bf16(qkv, start, stride, length, head_dim, values, width):
    """Values [ceil(L / 2), width] of one head: those of two tokens beside each other in a lane."""
    for i in range(0, length, 2):
        for d in range(0, head_dim, LANES):
            place, left = start + i * stride + d, head_dim - d
            second = load_n(qkv, place + stride, left) if i + 1 < length else splat(np.float32(0))
            store_pairs(values, i // 2 * width + d, load_n(qkv, place, left), second)


@inline
def weigh_f32(scores, column, keys, top, scale, weights, start):
    """Weights = exp((scores - top) scale) for 16 queries, and their sum."""
    panel, total = weights.view(np.float32), splat(np.float32(0))
    for j in range(keys):
        w = exp((load(scores, j * PANEL + column) - top) * scale)
        store(panel, start + j * LANES, w)
        total = total + w
    return total


@inline
def weigh_bf16(scores, column, keys, top, scale, weights, start):
    """The same, as pairs of keys in bfloat16; summed before they are rounded."""
    total = splat(np.float32(0))
    for j in range(0, keys - 1, 2):
        w = exp((load(scores, j * PANEL + column) - top) * scale)
        w1 = exp((load(scores, (j + 1) * PANEL + column) - top) * scale)
        store_pairs(weights, start + j // 2 * LANES, w, w1)
        total = total + (w + w1)
    if keys % 2:
        w = exp((load(scores, (keys - 1) * PANEL + column) - top) * scale)
        store_pairs(weights, start + keys // 2 * LANES, w, splat(np.float32(0)))
        total = total + w
    return total


def pack_values(qkv, start, stride, length, head_dim, values, width):
    """The values of one head in the order in which the product reads them; only inside compiled code."""
    raise NotImplementedError


def weigh(qkv, scores, column, keys, top, scale, weights, start):
    """The weights of 16 queries, and their sum; only inside compiled code."""
    raise NotImplementedError


@overload(pack_values)
def _overload_pack_values(qkv, start, stride, length, head_dim, values, width):
    function = pack_values_bf16 if qkv.dtype == types.uint16 else pack_values_f32
    return lambda qkv, start, stride, length, head_dim, values, width: function(
        qkv, start, stride, length, head_dim, values, width
    )


@overload(weigh)
def _overload_weigh(qkv, scores, column, keys, top, scale, weights, start):
    function = weigh_bf16 if qkv.dtype == types.uint16 else weigh_f32
    return lambda qkv, scores, column, keys, top, scale, weights, start: function(
        scores, column, keys, top, scale, weights, start
    )


# -- one tile of queries --------------------------------------------------------------------------------------------------


@inline
def key_tile(length):
    """Keys of a tile: tiles of equal size, of an even number of keys, none larger than `KEY_TILE`."""
    tiles = -(-length // KEY_TILE)
    return -(-length // (2 * tiles)) * 2


@inline
def score(product, qkv, k_start, stride, valid, queries, units, steps, first, keys, scores):
    """Scores [keys, PANEL] of the keys [first, first + keys); -inf where `valid` is 0."""
    size = STEP_SIZE * stride
    add_product(
        product, keys, units, qkv.ctypes.data + STEP_SIZE * k_start + first * size, size,
        queries.ctypes.data, PANEL_STEP * steps, steps, CHAIN, True, scores.ctypes.data, STEP_SIZE * PANEL, 0, 0,
    )  # fmt: skip
    if valid.size > 0:
        for j in range(keys):
            if not valid[first + j]:
                for c in range(0, units * LANES, LANES):
                    store(scores, j * PANEL + c, splat(np.float32(-np.inf)))


@inline
def attend(
    product, product_t, qkv, k_start, stride, valid, queries, units, steps, length, head_dim, per_step, scale, values, width,
    scores, weights, mix, tops, sums,
):  # fmt: skip
    """A tile of queries: mix = sum_j exp(s_j - top) v_j, and tops and sums of each query."""
    keys_each = key_tile(length)
    for c in range(0, PANEL, LANES):
        store(tops, c, splat(np.float32(LOWEST)))
        store(sums, c, splat(0.0))
    for first in range(0, length, keys_each):
        keys = min(keys_each, length - first)
        score(product, qkv, k_start, stride, valid, queries, units, steps, first, keys, scores)
        for c in range(0, units * LANES, LANES):
            before = load(tops, c)
            top = before
            for j in range(keys):
                top = maximum(top, load(scores, j * PANEL + c))
            store(tops, c, top)
            total = weigh(qkv, scores, c, keys, top, scale, weights, c * KEY_TILE)
            faded = exp((before - top) * scale)
            store(sums, c, load(sums, c) * to_f64(faded) + to_f64(total))
            if first > 0:
                for d in range(head_dim):
                    store(mix, d * PANEL + c, load(mix, d * PANEL + c) * faded)
        add_product(
            product_t, head_dim, units, values.ctypes.data + STEP_SIZE * width * (first // per_step),
            STEP_SIZE * width, weights.ctypes.data, PANEL_STEP * KEY_TILE, -(-keys // per_step), CHAIN, first == 0,
            mix.ctypes.data, STEP_SIZE * PANEL, 0, 0,
        )  # fmt: skip


@inline
def write_mix(mix, sums, units, head_dim, rows, out, start, turned, width):
    """Out rows = mix / sums, transposed back."""
    stride = out.shape[1]
    for u in range(units):
        inverse = to_f32(1.0 / load(sums, u * LANES))
        for d in range(head_dim):
            place = d * PANEL + u * LANES
            store(mix, place, load(mix, place) * inverse)
        transpose(mix.view(np.uint32), u * LANES, PANEL, head_dim, LANES, turned.view(np.uint32), 0, width)
        for q in range(min(LANES, rows - u * LANES)):
            for d in range(0, head_dim, LANES):
                store_n(out, start + (u * LANES + q) * stride + d, load(turned, q * width + d), head_dim - d)


@inline
def write_probs(
    product, qkv, k_start, stride, valid, queries, units, steps, length, rows, scale, scores, tops, sums, probs, start
):
    """The probabilities of a tile of queries, from scores computed once more."""
    keys_each = key_tile(length)
    for first in range(0, length, keys_each):
        keys = min(keys_each, length - first)
        score(product, qkv, k_start, stride, valid, queries, units, steps, first, keys, scores)
        for j in range(keys):
            for c in range(0, units * LANES, LANES):
                w = exp((load(scores, j * PANEL + c) - load(tops, c)) * scale)
                store(scores, j * PANEL + c, to_f32(to_f64(w) / load(sums, c)))
            for q in range(rows):
                probs[start + q * length + first + j] = scores[j * PANEL + q]


# -- all of them ----------------------------------------------------------------------------------------------------------


@callback
def attention_worker(counter, threads, product, product_t, qkv, length, num_heads, first_query, valid, probs, out):
    """Tasks of `attention`, until none is left."""
    images, row_width = qkv.shape[0] // length, qkv.shape[1]
    head_dim = out.shape[1] // num_heads
    lanes, flat_valid, flat_probs = qkv.reshape(-1).view(np.uint32), valid.reshape(-1), probs.reshape(-1)
    per_step = STEP_SIZE // qkv.itemsize
    stride, steps = row_width // per_step, -(-head_dim // per_step)
    width = -(-head_dim // LANES) * LANES + LANES  # room for whole tiles
    scale = np.float32(1.0 / np.sqrt(head_dim))
    units = -(-(length - first_query) // LANES)
    tiles = -(-units // UNITS)
    parts = min(tiles, -(-TASKS_PER_THREAD * threads // (images * num_heads)))
    queries = np.zeros(steps * PANEL, np.uint32)
    values = np.zeros(-(-length // per_step) * width, np.uint32)
    scores = np.empty((KEY_TILE + ROWS) * PANEL, np.float32)
    weights = np.empty(KEY_TILE * PANEL, np.uint32)
    mix = np.empty((head_dim + ROWS) * PANEL, np.float32)
    turned = np.empty(LANES * width, np.float32)
    tops, sums = np.empty(PANEL, np.float32), np.empty(PANEL, np.float64)
    task = take(counter)
    while task < images * num_heads * parts:
        head, part = task // parts, task % parts
        image, column = head // num_heads, head % num_heads * head_dim
        q_start = image * length * row_width + column
        k_start, v_start = q_start + row_width // 3, q_start + row_width // 3 * 2
        pack_values(qkv, v_start, row_width, length, head_dim, values, width)
        keys_valid = flat_valid[image * length : (image + 1) * length]
        for tile in range(part * tiles // parts, (part + 1) * tiles // parts):
            first_unit, end_unit = tile * units // tiles, (tile + 1) * units // tiles
            query = first_query + first_unit * LANES
            rows = min((end_unit - first_unit) * LANES, length - query)
            for u in range(end_unit - first_unit):
                transpose(
                    lanes, q_start // per_step + (query + u * LANES) * stride, stride, min(LANES, rows - u * LANES), steps,
                    queries, u * steps * LANES, LANES,
                )  # fmt: skip
            attend(
                product, product_t, qkv, k_start // per_step, stride, keys_valid, queries, end_unit - first_unit, steps, length, head_dim,
                per_step, scale, values, width, scores, weights, mix, tops, sums,
            )  # fmt: skip
            row = image * (length - first_query) + query - first_query
            write_mix(mix, sums, end_unit - first_unit, head_dim, rows, out, row * out.shape[1] + column, turned, width)
            if probs.size > 0:
                write_probs(
                    product, qkv, k_start // per_step, stride, keys_valid, queries, end_unit - first_unit, steps, length, rows,
                    scale, scores, tops, sums, flat_probs, (head * (length - first_query) + query - first_query) * length,
                )  # fmt: skip
        task = take(counter)


@functools.cache
def _worker(dtype, out_dtype):
    """The addresses of the worker and of its two products."""
    flat, kind = types.Array(types.int64, 1, "C"), "float32" if dtype == np.float32 else "bfloat16"
    qkv, out = (types.Array(from_dtype(d), 2, "C") for d in (dtype, out_dtype))
    valid, probs = types.Array(types.uint8, 2, "C"), types.Array(types.float32, 4, "C")
    number = types.int64
    signature = types.void(flat, number, number, number, qkv, number, number, number, valid, probs, out)
    return address(attention_worker, signature), product(kind), product(kind, transposed=True)


@parallel_kernel
def _attention(threads, worker, product, product_t, qkv, length, num_heads, first_query, valid, probs, out):
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        call_address(
            worker, counter, threads, product, product_t, qkv, length, num_heads, first_query, valid, probs, out
        )


def attention(qkv, length, num_heads, first_query, valid, probs, out):
    """softmax(q k^T / sqrt(Dh)) v; qkv [N * L, 3 D] holds q, k and v beside each other, float32 or bfloat16 (uint16).

    `out` [N * (L - first_query), D], float32 or bfloat16: queries before `first_query` are left out. `valid` [N, L]
    uint8: keys with 0 are left out, at least one is not; without elements all are valid. Scores and weighted sums are
    accumulated in float32, the sum of exponentials in float64 from one tile of keys to the next. `probs`
    [N, H, L - first_query, L] float32 is filled for traces, or has no elements. With bfloat16, Dh is even.
    """
    workers = _worker(qkv.dtype, out.dtype)
    _attention(get_num_threads(), *workers, qkv, length, num_heads, first_query, valid, probs, out)
