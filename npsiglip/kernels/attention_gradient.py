"""The gradient of multi-head attention (attention.py), from q, k, v and the gradient of the mix; nothing else is kept.

As in the forward pass, queries lie in the lanes, 48 at a time (on AVX-512), against all keys; a task is one head of one
image. S, P, dP and dS are [keys, queries]:

    S = K Q^T / sqrt(Dh)    P = softmax of each query's column    dP = V dO^T    dS = P (dP - sum over keys of P dP)
    dQ^T = K^T dS           dK += dS Q                            dV += P dO     (dQ, dK times 1 / sqrt(Dh))

Sums along keys are vertical; no sum goes across lanes. [keys, 48] arrays are all the memory that a thread needs.

Dimensions: N images, L tokens, H heads, Dh head width, D = H Dh.
"""

import functools
from typing import NamedTuple

import numpy as np

from npsiglip.element_types import LANES, STEP_SIZE
from npsiglip.kernels.attention import SCORE_CHAIN
from npsiglip.kernels.gemm import CHAIN, PANEL_STEP
from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.pack import transpose
from npsiglip.kernels.rows import read
from npsiglip.kernels.steps import PANEL, ROWS, UNITS
from npsiglip.kernels.tasks import array_at, launch, scratch, take, worker_address
from npsiglip.kernels.tile import add_product, product
from npsiglip.kernels.vector import fma, load, load_n, maximum, splat, store, store_n
from npsiglip.kernels.vector_math import LOG2_E, exp2_below

SLACK = 2 * LANES  # numbers behind qkv that the transposed product may read


class Rows(NamedTuple):
    """Some rows of Dh numbers in a flat array: of one head in [N * L, D] or [N * L, 3 D]."""

    array: object
    start: int  # of the first row
    stride: int  # from row to row


@inline
def transpose_queries(source, rows, units, head_dim, panels):
    """panels [units, Dh, 16] of 16 rows each."""
    lanes, start, stride = source.array.view(np.uint32), source.start, source.stride
    for u in range(units):
        transpose(
            lanes, start + u * LANES * stride, stride, min(LANES, rows - u * LANES), head_dim, panels,
            u * head_dim * LANES, LANES,
        )  # fmt: skip


@inline
def pack_rows(source, rows, head_dim, panels):
    """panels [ceil(Dh / 16), rows, 16] of rows as they lie."""
    array, start, stride = source.array, source.start, source.stride
    for d in range(0, head_dim, LANES):
        for i in range(rows):
            store(panels, d * rows + i * LANES, load_n(array, start + i * stride + d, head_dim - d))


@inline
def softmax_of_keys(scores, units, length, factor):
    """Scores [L, PANEL] become the probabilities of each query; as in `attention.weight`, the difference comes first.

    Maxima and sums are made in four chains, of every fourth key: none waits for the last addition, and short ones are
    more exact (docs/numerics.md).
    """
    whole = length - length % 4
    for c in range(0, units * LANES, LANES):
        a = load(scores, c)
        b, d, e = a, a, a
        for j in range(0, whole, 4):
            place = j * PANEL + c
            a, b = maximum(a, load(scores, place)), maximum(b, load(scores, place + PANEL))
            d, e = maximum(d, load(scores, place + 2 * PANEL)), maximum(e, load(scores, place + 3 * PANEL))
        for j in range(whole, length):
            a = maximum(a, load(scores, j * PANEL + c))
        top = maximum(maximum(a, b), maximum(d, e))
        a = splat(np.float32(0))
        b, d, e = a, a, a
        for j in range(0, whole, 4):
            place = j * PANEL + c
            p = exp2_below((load(scores, place) - top) * factor)
            q = exp2_below((load(scores, place + PANEL) - top) * factor)
            r = exp2_below((load(scores, place + 2 * PANEL) - top) * factor)
            s = exp2_below((load(scores, place + 3 * PANEL) - top) * factor)
            store(scores, place, p)
            store(scores, place + PANEL, q)
            store(scores, place + 2 * PANEL, r)
            store(scores, place + 3 * PANEL, s)
            a, b, d, e = a + p, b + q, d + r, e + s
        for j in range(whole, length):
            p = exp2_below((load(scores, j * PANEL + c) - top) * factor)
            store(scores, j * PANEL + c, p)
            a = a + p
        inverse = np.float32(1.0) / ((a + b) + (d + e))
        for j in range(length):
            store(scores, j * PANEL + c, load(scores, j * PANEL + c) * inverse)


@inline
def scores_gradient(probs, d_probs, units, length, scale, panels):
    """d_probs [L, PANEL] become dS / sqrt(Dh), which is also written as panels [units, L, 16]; sums in four chains."""
    whole = length - length % 4
    for c in range(0, units * LANES, LANES):
        a = splat(np.float32(0))
        b, d, e = a, a, a
        for j in range(0, whole, 4):
            place = j * PANEL + c
            a = fma(load(probs, place), load(d_probs, place), a)
            b = fma(load(probs, place + PANEL), load(d_probs, place + PANEL), b)
            d = fma(load(probs, place + 2 * PANEL), load(d_probs, place + 2 * PANEL), d)
            e = fma(load(probs, place + 3 * PANEL), load(d_probs, place + 3 * PANEL), e)
        for j in range(whole, length):
            a = fma(load(probs, j * PANEL + c), load(d_probs, j * PANEL + c), a)
        mean = (a + b) + (d + e)
        for j in range(length):
            place = j * PANEL + c
            v = load(probs, place) * (load(d_probs, place) - mean) * scale
            store(d_probs, place, v)
            store(panels, c * length + j * LANES, v)


@inline
def add_key_rows(product, weights, rows, source, length, head_dim, fresh, out):
    """out [L, width] (+)= weights [L, rows] source [rows, Dh]; `source` in panels, `width` that of whole tiles."""
    size, width = PANEL_STEP * rows, whole_tiles(head_dim)
    for d in range(0, head_dim, PANEL):
        add_product(
            product, length, min(UNITS, -(-(head_dim - d) // LANES)), weights.ctypes.data, STEP_SIZE * PANEL,
            source.ctypes.data + d // LANES * size, size, rows, CHAIN, fresh,
            out.ctypes.data + STEP_SIZE * d, STEP_SIZE * width, 0, 0,
        )  # fmt: skip


@inline
def whole_tiles(head_dim):
    """Room for Dh numbers in whole tiles."""
    return -(-head_dim // PANEL) * PANEL


@inline
def write_rows(source, rows, head_dim, target):
    """Rows [rows, width] of a buffer, `width` that of whole tiles, to where they belong."""
    width, array, start, stride = whole_tiles(head_dim), target.array, target.start, target.stride
    for i in range(rows):
        for d in range(0, head_dim, LANES):
            store_n(array, start + i * stride + d, load(source, i * width + d), head_dim - d)


class Room(NamedTuple):
    """Arrays that a thread works in; flat, float32 if nothing else is said."""

    q_panels: object  # uint32 [UNITS, Dh, 16], a tile of queries, transposed
    mix_panels: object  # the same of d_mix
    q_rows: object  # [ceil(Dh / 16), 48, 16], a tile of queries as they lie
    mix_rows: object  # the same of d_mix
    probs: object  # [L, PANEL]
    d_probs: object  # [L, PANEL]
    panels: object  # [UNITS, L, 16], the scores' gradient
    dq: object  # uint32 [Dh, PANEL]
    turned: object  # uint32 [16, width]
    dk: object  # [L, width]
    dv: object  # [L, width]


@inline
def make_room(length, head_dim):
    """The arrays of a thread; lanes beyond the last query are never anything strange."""
    width = whole_tiles(head_dim)
    q_panels, mix_panels = scratch(width * PANEL), scratch(width * PANEL)
    q_panels[:] = 0
    mix_panels[:] = 0
    return Room(
        q_panels, mix_panels,
        scratch(PANEL * width).view(np.float32), scratch(PANEL * width).view(np.float32),
        scratch((length + ROWS) * PANEL).view(np.float32), scratch((length + ROWS) * PANEL).view(np.float32),
        scratch(length * PANEL).view(np.float32), scratch((head_dim + ROWS) * PANEL), scratch(LANES * width),
        scratch((length + ROWS) * width).view(np.float32), scratch((length + ROWS) * width).view(np.float32),
    )  # fmt: skip


class Row(NamedTuple):
    """What `attention_gradient` is told; arrays by their addresses."""

    product: int  # the machine code of the tile
    product_t: int  # and with its left side transposed
    images: int
    length: int
    num_heads: int
    head_dim: int
    qkv: int
    d_mix: int
    d_qkv: int


@callback
def worker(address, threads):
    """Tasks of `attention_gradient`, until none is left."""
    row = read(address, Row)
    product, images, length, num_heads, head_dim = row.product, row.images, row.length, row.num_heads, row.head_dim
    width = num_heads * head_dim
    stride, size = 3 * width, images * length * width
    qkv, d_mix = array_at(row.qkv, 3 * size, np.float32(0)), array_at(row.d_mix, size, np.float32(0))
    d_qkv = array_at(row.d_qkv, 3 * size, np.float32(0))
    scale = np.float32(1.0 / np.sqrt(head_dim))
    factor = np.float32(LOG2_E / np.sqrt(head_dim))
    room = make_room(length, head_dim)
    probs, d_probs = room.probs, room.d_probs
    task = take(address)
    while task < images * num_heads:
        image, column = task // num_heads, task % num_heads * head_dim
        q_start = image * length * stride + column
        mix_start = image * length * width + column
        k_address = qkv.ctypes.data + STEP_SIZE * (q_start + width)
        for query in range(0, length, PANEL):
            rows = min(PANEL, length - query)
            units = -(-rows // LANES)
            # a tile of queries and of their gradients, both transposed and as they lie
            queries = Rows(qkv, q_start + query * stride, stride)
            mixes = Rows(d_mix, mix_start + query * width, width)
            transpose_queries(queries, rows, units, head_dim, room.q_panels)
            transpose_queries(mixes, rows, units, head_dim, room.mix_panels)
            pack_rows(queries, rows, head_dim, room.q_rows)
            pack_rows(mixes, rows, head_dim, room.mix_rows)
            # S = K Q^T, dP = V dO^T
            panel_size = PANEL_STEP * head_dim
            add_product(
                product, length, units, k_address, STEP_SIZE * stride, room.q_panels.ctypes.data, panel_size, head_dim,
                SCORE_CHAIN, True, probs.ctypes.data, STEP_SIZE * PANEL, 0, 0,
            )  # fmt: skip
            add_product(
                product, length, units, k_address + STEP_SIZE * width, STEP_SIZE * stride, room.mix_panels.ctypes.data,
                panel_size, head_dim, CHAIN, True, d_probs.ctypes.data, STEP_SIZE * PANEL, 0, 0,
            )  # fmt: skip
            # P, dS
            softmax_of_keys(probs, units, length, factor)
            scores_gradient(probs, d_probs, units, length, scale, room.panels)
            # dQ^T = K^T dS, transposed back
            add_product(
                row.product_t, head_dim, units, k_address, STEP_SIZE * stride, room.panels.ctypes.data,
                PANEL_STEP * length, length, CHAIN, True, room.dq.ctypes.data, STEP_SIZE * PANEL, 0, 0,
            )  # fmt: skip
            for u in range(units):
                transpose(room.dq, u * LANES, PANEL, head_dim, LANES, room.turned, 0, whole_tiles(head_dim))
                target = Rows(d_qkv, q_start + (query + u * LANES) * stride, stride)
                write_rows(room.turned.view(np.float32), min(LANES, rows - u * LANES), head_dim, target)
            # dK += dS Q, dV += P dO
            add_key_rows(product, d_probs, rows, room.q_rows, length, head_dim, query == 0, room.dk)
            add_key_rows(product, probs, rows, room.mix_rows, length, head_dim, query == 0, room.dv)
        write_rows(room.dk, length, head_dim, Rows(d_qkv, q_start + width, stride))
        write_rows(room.dv, length, head_dim, Rows(d_qkv, q_start + 2 * width, stride))
        task = take(address)


@functools.cache
def _worker():
    return worker_address(worker), product("float32"), product("float32", transposed=True)


def attention_gradient(qkv, d_mix, length, num_heads, d_qkv):
    """Gradients of `attention` without mask: d_mix [N * L, D] of its result, qkv [N * L, 3 D]; fills d_qkv; float32.

    d_qkv [N * L, 3 D]; `SLACK` numbers behind qkv are read, whatever they hold. Sums are accumulated in float32.
    """
    tasks, tile, tile_t = _worker()
    images, head_dim = len(qkv) // length, d_mix.shape[1] // num_heads
    row = Row(
        product=tile, product_t=tile_t, images=images, length=length, num_heads=num_heads, head_dim=head_dim,
        qkv=qkv.ctypes.data, d_mix=d_mix.ctypes.data, d_qkv=d_qkv.ctypes.data,
    )  # fmt: skip
    launch(tasks, images * num_heads, row, (qkv, d_mix, d_qkv))
