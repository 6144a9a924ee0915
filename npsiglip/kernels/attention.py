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
from numba import types
from numba.extending import overload

from npsiglip.kernels.gemm import CHAIN, PANEL_STEP, STEP_SIZE
from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.pack import transpose
from npsiglip.kernels.tasks import array_at, launch, number, scratch, take, worker_address
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
from npsiglip.kernels.vector_math import LOG2_E, exp2_below

KEY_TILE = 128
SCORE_CHAIN = 16  # of float32: the error of a score is what sharp attention suffers from (docs/numerics.md)
TASKS_PER_THREAD = 4
LOWEST = np.finfo(np.float32).min  # instead of -inf, which less -inf is no number


# -- what depends on the element type --------------------------------------------------------------------------------


@inline
def pack_values_f32(qkv, start, stride, length, head_dim, shrink, values, width):
    """Values [L, width] of one head, times `shrink`."""
    packed = values.view(np.float32)
    for i in range(length):
        for d in range(0, head_dim, LANES):
            store(packed, i * width + d, load_n(qkv, start + i * stride + d, head_dim - d) * shrink)


@inline
def pack_values_bf16(qkv, start, stride, length, head_dim, shrink, values, width):
    """Values [ceil(L / 2), width] of one head, times `shrink`: those of two tokens beside each other in a lane."""
    for i in range(0, length, 2):
        for d in range(0, head_dim, LANES):
            place, left, second = start + i * stride + d, head_dim - d, splat(np.float32(0))
            if i + 1 < length:
                second = load_n(qkv, place + stride, left)
            store_pairs(values, i // 2 * width + d, load_n(qkv, place, left) * shrink, second * shrink)


@inline
def weight(scores, place, factor, top):
    """exp of 16 scores, each less the maximum of its query; `factor` is in units of log 2.

    The difference comes first: near the maximum it is exact, and however large the scores are, none of their own
    rounding is left in it. A fused s factor - top factor would keep that of top factor, which from 2^31 on is more
    than all that `exp2` can take.
    """
    return exp2_below((load(scores, place) - top) * factor)


@inline
def weigh_f32(scores, column, keys, factor, top, weights, start):
    """The weights of 16 queries, and their sum."""
    panel, total = weights.view(np.float32), splat(np.float32(0))
    for j in range(keys):
        w = weight(scores, j * PANEL + column, factor, top)
        store(panel, start + j * LANES, w)
        total = total + w
    return total


@inline
def weigh_bf16(scores, column, keys, factor, top, weights, start):
    """The same, as pairs of keys in bfloat16; summed before they are rounded."""
    total = splat(np.float32(0))
    for j in range(0, keys, 2):
        w, w1 = weight(scores, j * PANEL + column, factor, top), splat(np.float32(0))
        if j + 1 < keys:
            w1 = weight(scores, (j + 1) * PANEL + column, factor, top)
        store_pairs(weights, start + j // 2 * LANES, w, w1)
        total = total + (w + w1)
    return total


def pack_values(qkv, start, stride, length, head_dim, shrink, values, width):
    """The values of one head in the order in which the product reads them; only inside compiled code."""
    raise NotImplementedError


def weigh(qkv, scores, column, keys, factor, top, weights, start):
    """The weights of 16 queries, and their sum; only inside compiled code."""
    raise NotImplementedError


@overload(pack_values)
def _overload_pack_values(qkv, start, stride, length, head_dim, shrink, values, width):
    function = pack_values_bf16 if qkv.dtype == types.uint16 else pack_values_f32
    return lambda qkv, start, stride, length, head_dim, shrink, values, width: function(
        qkv, start, stride, length, head_dim, shrink, values, width
    )


@overload(weigh)
def _overload_weigh(qkv, scores, column, keys, factor, top, weights, start):
    function = weigh_bf16 if qkv.dtype == types.uint16 else weigh_f32
    return lambda qkv, scores, column, keys, factor, top, weights, start: function(
        scores, column, keys, factor, top, weights, start
    )


# -- one tile of queries ---------------------------------------------------------------------------------------------


@inline
def key_tile(length):
    """Keys of a tile: tiles of equal size, of an even number of keys, none larger than `KEY_TILE`."""
    tiles = -(-length // KEY_TILE)
    return -(-length // (2 * tiles)) * 2


@inline
def score(product, qkv, k_start, stride, valid, queries, units, steps, first, keys, scores):
    """Scores [keys, PANEL] of the keys [first, first + keys); -inf where `valid` is 0."""
    size = STEP_SIZE * stride
    chain = SCORE_CHAIN if qkv.itemsize == STEP_SIZE else CHAIN
    add_product(
        product, keys, units, qkv.ctypes.data + STEP_SIZE * k_start + first * size, size,
        queries.ctypes.data, PANEL_STEP * steps, steps, chain, True, scores.ctypes.data, STEP_SIZE * PANEL, 0, 0,
    )  # fmt: skip
    if valid.size > 0:
        for j in range(keys):
            if not valid[first + j]:
                for c in range(0, units * LANES, LANES):
                    store(scores, j * PANEL + c, splat(np.float32(-np.inf)))


@inline
def largest(scores, column, keys):
    """The largest score of each of 16 queries; four chains, since one would wait for itself."""
    top0 = load(scores, column)
    top1, top2, top3 = top0, top0, top0
    for j in range(0, keys - 3, 4):
        top0 = maximum(top0, load(scores, j * PANEL + column))
        top1 = maximum(top1, load(scores, (j + 1) * PANEL + column))
        top2 = maximum(top2, load(scores, (j + 2) * PANEL + column))
        top3 = maximum(top3, load(scores, (j + 3) * PANEL + column))
    for j in range(keys - keys % 4, keys):
        top0 = maximum(top0, load(scores, j * PANEL + column))
    return maximum(maximum(top0, top1), maximum(top2, top3))


@inline
def attend(
    product, product_t, qkv, k_start, stride, valid, queries, units, steps, length, head_dim, per_step, factor,
    values, width, scores, weights, mix, tops, sums,
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
            top = maximum(before, largest(scores, c, keys))
            store(tops, c, top)
            total = weigh(qkv, scores, c, keys, factor, top, weights, c * KEY_TILE)
            faded = exp2_below((before - top) * factor)
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
def write_mix(mix, sums, shrink, units, head_dim, rows, out, start, stride, turned, width):
    """Out rows = mix / (sums shrink), transposed back."""
    for u in range(units):
        inverse = to_f32(1.0 / (load(sums, u * LANES) * np.float64(shrink)))
        for d in range(head_dim):
            place = d * PANEL + u * LANES
            store(mix, place, load(mix, place) * inverse)
        transpose(mix.view(np.uint32), u * LANES, PANEL, head_dim, LANES, turned.view(np.uint32), 0, width)
        for q in range(min(LANES, rows - u * LANES)):
            for d in range(0, head_dim, LANES):
                store_n(out, start + (u * LANES + q) * stride + d, load(turned, q * width + d), head_dim - d)


@inline
def write_probs(
    product, qkv, k_start, stride, valid, queries, units, steps, length, rows, factor, scores, tops, sums, probs, start
):
    """The probabilities of a tile of queries, from scores computed once more."""
    keys_each = key_tile(length)
    for first in range(0, length, keys_each):
        keys = min(keys_each, length - first)
        score(product, qkv, k_start, stride, valid, queries, units, steps, first, keys, scores)
        for j in range(keys):
            for c in range(0, units * LANES, LANES):
                w = weight(scores, j * PANEL + c, factor, load(tops, c))
                store(scores, j * PANEL + c, to_f32(to_f64(w) / load(sums, c)))
            for q in range(rows):
                probs[start + q * length + first + j] = scores[j * PANEL + q]


# -- all of them -----------------------------------------------------------------------------------------------------


@inline
def attention_tasks(op, threads, qkv_type, out_type):
    """Tasks of `attention`, until none is left; two numbers have the types of `qkv` and `out`."""
    product, product_t, images, length = number(op, 0), number(op, 1), number(op, 2), number(op, 3)
    num_heads, head_dim, first_query = number(op, 4), number(op, 5), number(op, 6)
    out_width = head_dim * num_heads
    row_width, queries_each = 3 * out_width, length - first_query
    qkv = array_at(number(op, 7), images * length * row_width, qkv_type)
    out = array_at(number(op, 8), images * queries_each * out_width, out_type)
    all_valid = array_at(number(op, 9), number(op, 10), np.uint8(0))
    probs = array_at(number(op, 11), number(op, 12), np.float32(0))
    lanes = qkv.view(np.uint32)
    per_step = STEP_SIZE // qkv.itemsize
    stride, steps = row_width // per_step, -(-head_dim // per_step)
    width = -(-head_dim // LANES) * LANES + LANES  # room for whole tiles
    factor = np.float32(LOG2_E / np.sqrt(head_dim))
    # A sum of so many values, each with a weight of up to 1, must not leave float32 before it is divided. By a power of
    # two: no bit changes.
    shrink = np.float32(1)
    while shrink * np.float32(length) > np.float32(1):
        shrink *= np.float32(0.5)
    units = -(-queries_each // LANES)
    tiles = -(-units // UNITS)
    parts = min(tiles, -(-TASKS_PER_THREAD * threads // (images * num_heads)))
    queries, values = scratch(steps * PANEL), scratch(-(-length // per_step) * width)
    queries[:] = 0  # lanes beyond the last query, and what is beyond Dh, are never anything strange
    values[:] = 0
    scores = scratch((KEY_TILE + ROWS) * PANEL).view(np.float32)
    weights = scratch(KEY_TILE * PANEL)
    mix = scratch((head_dim + ROWS) * PANEL).view(np.float32)
    turned = scratch(LANES * width).view(np.float32)
    tops, sums = np.empty(PANEL, np.float32), np.empty(PANEL, np.float64)
    task = take(op)
    while task < images * num_heads * parts:
        head, part = task // parts, task % parts
        image, column = head // num_heads, head % num_heads * head_dim
        q_start = image * length * row_width + column
        k_start, v_start = q_start + row_width // 3, q_start + row_width // 3 * 2
        pack_values(qkv, v_start, row_width, length, head_dim, shrink, values, width)
        keys_valid = all_valid[image * length : (image + 1) * length] if all_valid.size > 0 else all_valid
        for tile in range(part * tiles // parts, (part + 1) * tiles // parts):
            first_unit = tile * units // tiles
            count = (tile + 1) * units // tiles - first_unit
            query = first_query + first_unit * LANES
            rows = min(count * LANES, length - query)
            for u in range(count):
                transpose(
                    lanes, q_start // per_step + (query + u * LANES) * stride, stride, min(LANES, rows - u * LANES),
                    steps, queries, u * steps * LANES, LANES,
                )  # fmt: skip
            attend(
                product, product_t, qkv, k_start // per_step, stride, keys_valid, queries, count, steps, length,
                head_dim, per_step, factor, values, width, scores, weights, mix, tops, sums,
            )  # fmt: skip
            row = image * queries_each + query - first_query
            write_mix(mix, sums, shrink, count, head_dim, rows, out, row * out_width + column, out_width, turned, width)
            if probs.size > 0:
                write_probs(
                    product, qkv, k_start // per_step, stride, keys_valid, queries, count, steps, length, rows, factor,
                    scores, tops, sums, probs, (head * queries_each + query - first_query) * length,
                )  # fmt: skip
        task = take(op)


@callback
def worker_f32(op, threads):
    """Float32 to float32."""
    attention_tasks(op, threads, np.float32(0), np.float32(0))


@callback
def worker_f32_bf16(op, threads):
    """Float32 to bfloat16."""
    attention_tasks(op, threads, np.float32(0), np.uint16(0))


@callback
def worker_bf16(op, threads):
    """Bfloat16 to bfloat16."""
    attention_tasks(op, threads, np.uint16(0), np.uint16(0))


@callback
def worker_bf16_f32(op, threads):
    """Bfloat16 to float32."""
    attention_tasks(op, threads, np.uint16(0), np.float32(0))


WORKERS = {"ff": worker_f32, "fH": worker_f32_bf16, "HH": worker_bf16, "Hf": worker_bf16_f32}  # by dtypes' characters


@functools.cache
def _worker(qkv, out):
    kind = "float32" if qkv == "f" else "bfloat16"
    return worker_address(WORKERS[qkv + out]), product(kind), product(kind, transposed=True)


def attention(qkv, length, num_heads, first_query, valid, probs, out):
    """softmax(q k^T / sqrt(Dh)) v; qkv [N * L, 3 D] holds q, k and v beside each other, float32 or bfloat16 (uint16).

    `out` [N * (L - first_query), D], float32 or bfloat16: queries before `first_query` are left out. `valid` [N, L]
    uint8: keys with 0 are left out, at least one is not; without elements all are valid. Scores and weighted sums are
    accumulated in float32, the sum of exponentials in float64 from one tile of keys to the next. `probs`
    [N, H, L - first_query, L] float32 is filled for traces, or has no elements. With bfloat16, Dh is even.
    """
    worker, *products = _worker(qkv.dtype.char, out.dtype.char)
    images, head_dim = len(qkv) // length, out.shape[1] // num_heads
    numbers = (
        *products, images, length, num_heads, head_dim, first_query, qkv.ctypes.data, out.ctypes.data,
        valid.ctypes.data, valid.size, probs.ctypes.data, probs.size,
    )  # fmt: skip
    launch(worker, images * num_heads, numbers, (qkv, valid, probs, out))
