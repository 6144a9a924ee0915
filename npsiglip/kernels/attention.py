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

Dimensions: N images, L tokens, H heads, Dh head width, D = H Dh.
"""

import functools
from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import overload

from npsiglip.element_types import LANES, STEP_SIZE, of_memory
from npsiglip.kernels.gemm import CHAIN, PANEL_STEP
from npsiglip.kernels.jit import inline
from npsiglip.kernels.pack import transpose
from npsiglip.kernels.rows import read
from npsiglip.kernels.steps import PANEL, ROWS, UNITS
from npsiglip.kernels.tasks import array_at, launch, optional, scratch, take, worker_address, workers
from npsiglip.kernels.tile import add_product, product
from npsiglip.kernels.vector import load, load_n, maximum, splat, store, store_n, store_pairs, to_f32, to_f64
from npsiglip.kernels.vector_math import LOG2_E, exp2_below

KEY_TILE = 128
SCORE_CHAIN = 16  # of float32: the error of a score is what sharp attention suffers from (docs/numerics.md)
TASKS_PER_THREAD = 4
LOWEST = np.finfo(np.float32).min  # instead of -inf, which less -inf is no number


class Sizes(NamedTuple):
    """Of all heads of a call."""

    length: int  # L
    head_dim: int  # Dh
    row_width: int  # numbers from one token of qkv to the next, 3 D
    per_step: int  # numbers in a step of 32 bits
    stride: int  # steps from one token of qkv to the next
    steps: int  # of Dh numbers
    width: int  # of a token's packed values: Dh, with room for whole tiles
    factor: float  # log2(e) / sqrt(Dh): scores go into powers of 2
    shrink: float  # a power of two: values times it, each with a weight of up to 1, sum up to what float32 can hold


class Room(NamedTuple):
    """Arrays that a thread works in; flat."""

    queries: object  # uint32 [UNITS, steps, 16], a tile of queries, transposed
    values: object  # uint32 [ceil(L / per_step), width], of a head
    scores: object  # float32 [KEY_TILE, PANEL]
    weights: object  # uint32 [UNITS, KEY_TILE, 16]
    mix: object  # float32 [Dh, PANEL]
    turned: object  # float32 [16, width]
    tops: object  # float32 [PANEL], the largest score of each query so far
    sums: object  # float64 [PANEL], the sum of its weights so far


class Keys(NamedTuple):
    """The keys of one head of one image."""

    start: int  # in qkv, in steps
    valid: object  # uint8 [L], or none: all are


# -- what depends on the element type --------------------------------------------------------------------------------


@inline
def pack_values_f32(qkv, start, sizes, values):
    """values [L, width] of one head from qkv.flat[start] on, times `shrink`; float32."""
    packed, head_dim = values.view(np.float32), sizes.head_dim
    for i in range(sizes.length):
        for d in range(0, head_dim, LANES):
            v = load_n(qkv, start + i * sizes.row_width + d, head_dim - d) * sizes.shrink
            store(packed, i * sizes.width + d, v)


@inline
def pack_values_bf16(qkv, start, sizes, values):
    """values [ceil(L / 2), width] of one head, times `shrink`: those of two tokens beside each other in a lane."""
    length, head_dim, shrink = sizes.length, sizes.head_dim, sizes.shrink
    for i in range(0, length, 2):
        for d in range(0, head_dim, LANES):
            place, left, second = start + i * sizes.row_width + d, head_dim - d, splat(np.float32(0))
            if i + 1 < length:
                second = load_n(qkv, place + sizes.row_width, left)
            store_pairs(values, i // 2 * sizes.width + d, load_n(qkv, place, left) * shrink, second * shrink)


@inline
def weight(scores, place, factor, top):
    """exp of 16 scores, each less the maximum of its query; `factor` is in units of log 2.

    The difference comes first: near the maximum it is exact, and however large the scores are, none of their own
    rounding is left in it. A fused s factor - top factor would keep that of top factor, which from 2^31 on is more
    than all that `exp2` can take.
    """
    return exp2_below((load(scores, place) - top) * factor)


@inline
def weigh_f32(scores, column, keys, factor, top, weights):
    """weights [keys, 16] of 16 queries, exp of their scores less `top`, and their sum."""
    panel, start, total = weights.view(np.float32), column * KEY_TILE, splat(np.float32(0))
    for j in range(keys):
        w = weight(scores, j * PANEL + column, factor, top)
        store(panel, start + j * LANES, w)
        total = total + w
    return total


@inline
def weigh_bf16(scores, column, keys, factor, top, weights):
    """The same, as pairs of keys in bfloat16, weights [ceil(keys / 2), 16]; summed before they are rounded."""
    start, total = column * KEY_TILE, splat(np.float32(0))
    for j in range(0, keys, 2):
        w, w1 = weight(scores, j * PANEL + column, factor, top), splat(np.float32(0))
        if j + 1 < keys:
            w1 = weight(scores, (j + 1) * PANEL + column, factor, top)
        store_pairs(weights, start + j // 2 * LANES, w, w1)
        total = total + (w + w1)
    return total


def pack_values(qkv, start, sizes, values):
    """The values of one head in the order in which the product reads them; only inside compiled code."""
    raise NotImplementedError


def weigh(qkv, scores, column, keys, factor, top, weights):
    """The weights of 16 queries, and their sum; only inside compiled code."""
    raise NotImplementedError


@overload(pack_values)
def _overload_pack_values(qkv, start, sizes, values):
    function = pack_values_bf16 if qkv.dtype == types.uint16 else pack_values_f32
    return lambda qkv, start, sizes, values: function(qkv, start, sizes, values)


@overload(weigh)
def _overload_weigh(qkv, scores, column, keys, factor, top, weights):
    function = weigh_bf16 if qkv.dtype == types.uint16 else weigh_f32
    return lambda qkv, scores, column, keys, factor, top, weights: function(scores, column, keys, factor, top, weights)


# -- one tile of queries ---------------------------------------------------------------------------------------------


@inline
def key_tile(length):
    """Keys of a tile: tiles of equal size, of an even number of keys, none larger than `KEY_TILE`."""
    tiles = -(-length // KEY_TILE)
    return -(-length // (2 * tiles)) * 2


@inline
def score(product, qkv, keys, first, count, sizes, units, room):
    """Scores [count, PANEL] of the keys [first, first + count), for a tile of queries; -inf where `valid` is 0."""
    scores, valid = room.scores, keys.valid
    size = STEP_SIZE * sizes.stride
    chain = SCORE_CHAIN if qkv.itemsize == STEP_SIZE else CHAIN
    add_product(
        product, count, units, qkv.ctypes.data + STEP_SIZE * keys.start + first * size, size,
        room.queries.ctypes.data, PANEL_STEP * sizes.steps, sizes.steps, chain, True,
        scores.ctypes.data, STEP_SIZE * PANEL, 0, 0,
    )  # fmt: skip
    if valid.size > 0:
        for j in range(count):
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
def attend(product, product_t, qkv, keys, sizes, units, room):
    """A tile of queries: mix = sum_j exp(s_j - top) v_j, and tops and sums of each query."""
    scores, weights, mix, tops, sums = room.scores, room.weights, room.mix, room.tops, room.sums
    values, factor = room.values, sizes.factor
    keys_each = key_tile(sizes.length)
    for c in range(0, PANEL, LANES):
        store(tops, c, splat(np.float32(LOWEST)))
        store(sums, c, splat(0.0))
    for first in range(0, sizes.length, keys_each):
        count = min(keys_each, sizes.length - first)
        score(product, qkv, keys, first, count, sizes, units, room)
        # Scores become weights; where a larger maximum comes up, what earlier keys gave fades.
        for c in range(0, units * LANES, LANES):
            before = load(tops, c)
            top = maximum(before, largest(scores, c, count))
            store(tops, c, top)
            total = weigh(qkv, scores, c, count, factor, top, weights)
            faded = exp2_below((before - top) * factor)
            store(sums, c, load(sums, c) * to_f64(faded) + to_f64(total))
            if first > 0:
                for d in range(sizes.head_dim):
                    store(mix, d * PANEL + c, load(mix, d * PANEL + c) * faded)
        # mix [Dh, queries] += transposed values times the weights
        add_product(
            product_t, sizes.head_dim, units,
            values.ctypes.data + STEP_SIZE * sizes.width * (first // sizes.per_step), STEP_SIZE * sizes.width,
            weights.ctypes.data, PANEL_STEP * KEY_TILE, -(-count // sizes.per_step), CHAIN, first == 0,
            mix.ctypes.data, STEP_SIZE * PANEL, 0, 0,
        )  # fmt: skip


@inline
def write_mix(sizes, units, rows, room, out, start, stride):
    """out rows [rows, Dh] from `start` on = mix / (sums shrink), transposed back."""
    mix, sums, turned, head_dim, width = room.mix, room.sums, room.turned, sizes.head_dim, sizes.width
    for u in range(units):
        inverse = to_f32(1.0 / (load(sums, u * LANES) * np.float64(sizes.shrink)))
        for d in range(head_dim):
            place = d * PANEL + u * LANES
            store(mix, place, load(mix, place) * inverse)
        transpose(mix.view(np.uint32), u * LANES, PANEL, head_dim, LANES, turned.view(np.uint32), 0, width)
        for q in range(min(LANES, rows - u * LANES)):
            for d in range(0, head_dim, LANES):
                store_n(out, start + (u * LANES + q) * stride + d, load(turned, q * width + d), head_dim - d)


@inline
def write_probs(product, qkv, keys, sizes, units, rows, room, probs, start):
    """probs rows [rows, L] from `start` on: of a tile of queries, from scores computed once more."""
    scores, tops, sums, length = room.scores, room.tops, room.sums, sizes.length
    keys_each = key_tile(length)
    for first in range(0, length, keys_each):
        count = min(keys_each, length - first)
        score(product, qkv, keys, first, count, sizes, units, room)
        for j in range(count):
            for c in range(0, units * LANES, LANES):
                w = weight(scores, j * PANEL + c, sizes.factor, load(tops, c))
                store(scores, j * PANEL + c, to_f32(to_f64(w) / load(sums, c)))
            for q in range(rows):
                probs[start + q * length + first + j] = scores[j * PANEL + q]


# -- all of them -----------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    """What `attention` is told; arrays by their addresses."""

    product: int  # the machine code of the tile for the scores
    product_t: int  # and for the mix, its left side transposed
    images: int
    length: int
    num_heads: int
    head_dim: int
    first_query: int
    qkv: int
    out: int
    valid: int
    valid_size: int
    probs: int
    probs_size: int


@inline
def attention_tasks(address, threads, qkv_like, out_like):
    """Tasks of `attention`, until none is left; two numbers have the types of `qkv` and `out`."""
    row = read(address, Row)
    images, length, num_heads, head_dim = row.images, row.length, row.num_heads, row.head_dim
    first_query, product = row.first_query, row.product
    out_width = head_dim * num_heads
    row_width, queries_each = 3 * out_width, length - first_query
    qkv = array_at(row.qkv, images * length * row_width, qkv_like)
    out = array_at(row.out, images * queries_each * out_width, out_like)
    all_valid = array_at(row.valid, row.valid_size, np.uint8(0))
    probs = array_at(row.probs, row.probs_size, np.float32(0))
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
    sizes = Sizes(length, head_dim, row_width, per_step, stride, steps, width, factor, shrink)
    # A task is a part of one head's tiles of queries: all of them where there are heads enough for all threads.
    units = -(-queries_each // LANES)
    tiles = -(-units // UNITS)
    parts = min(tiles, -(-TASKS_PER_THREAD * threads // (images * num_heads)))
    queries, values = scratch(steps * PANEL), scratch(-(-length // per_step) * width)
    queries[:] = 0  # lanes beyond the last query, and what is beyond Dh, are never anything strange
    values[:] = 0
    room = Room(
        queries, values, scratch((KEY_TILE + ROWS) * PANEL).view(np.float32), scratch(KEY_TILE * PANEL),
        scratch((head_dim + ROWS) * PANEL).view(np.float32), scratch(LANES * width).view(np.float32),
        np.empty(PANEL, np.float32), np.empty(PANEL, np.float64),
    )  # fmt: skip
    task = take(address)
    while task < images * num_heads * parts:
        head, part = task // parts, task % parts
        image, column = head // num_heads, head % num_heads * head_dim
        q_start = image * length * row_width + column
        k_start, v_start = q_start + row_width // 3, q_start + row_width // 3 * 2
        pack_values(qkv, v_start, sizes, values)
        keys_valid = all_valid[image * length : (image + 1) * length] if all_valid.size > 0 else all_valid
        keys = Keys(k_start // per_step, keys_valid)
        for tile in range(part * tiles // parts, (part + 1) * tiles // parts):
            first_unit = tile * units // tiles
            count = (tile + 1) * units // tiles - first_unit
            query = first_query + first_unit * LANES
            rows = min(count * LANES, length - query)
            # queries into the lanes
            for u in range(count):
                transpose(
                    lanes, q_start // per_step + (query + u * LANES) * stride, stride, min(LANES, rows - u * LANES),
                    steps, queries, u * steps * LANES, LANES,
                )  # fmt: skip
            attend(product, row.product_t, qkv, keys, sizes, count, room)
            out_row = image * queries_each + query - first_query
            write_mix(sizes, count, rows, room, out, out_row * out_width + column, out_width)
            if probs.size > 0:
                start = (head * queries_each + query - first_query) * length
                write_probs(product, qkv, keys, sizes, count, rows, room, probs, start)
        task = take(address)


WORKERS = workers(attention_tasks, "ff fH HH Hf")  # of qkv and out


@functools.cache
def _worker(qkv, out):
    kind = of_memory(qkv).name
    return worker_address(WORKERS[qkv + out]), product(kind), product(kind, transposed=True)


def attention(qkv, length, num_heads, first_query, valid, probs, out):
    """softmax(q k^T / sqrt(Dh)) v; qkv [N * L, 3 D] holds q, k and v beside each other, float32 or bfloat16 (uint16).

    `out` [N * (L - first_query), D], float32 or bfloat16: queries before `first_query` are left out. `valid` [N, L]
    uint8: keys with 0 are left out, at least one is not; without elements all are valid. Scores and weighted sums are
    accumulated in float32, the sum of exponentials in float64 from one tile of keys to the next. `probs`
    [N, H, L - first_query, L] float32 is filled for traces, or has no elements. With bfloat16, Dh is even.
    """
    worker, tile, tile_t = _worker(qkv.dtype.char, out.dtype.char)
    images, head_dim = len(qkv) // length, out.shape[1] // num_heads
    row = Row(
        product=tile, product_t=tile_t, images=images, length=length, num_heads=num_heads, head_dim=head_dim,
        first_query=first_query, qkv=qkv.ctypes.data, out=out.ctypes.data, valid=optional(valid),
        valid_size=valid.size, probs=optional(probs), probs_size=probs.size,
    )  # fmt: skip
    launch(worker, images * num_heads, row, (qkv, valid, probs, out))
