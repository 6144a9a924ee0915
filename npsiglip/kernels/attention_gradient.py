"""The gradient of multi-head attention (attention.py), from q, k, v and the gradient of the mix; nothing else is kept.

As in the forward pass, queries lie in the lanes, 48 at a time (on AVX-512), against all keys; a task is one head of one
image. S, P, dP and dS are [keys, queries]:

    S = K Q^T / sqrt(Dh)    P = softmax of each query's column    dP = V dO^T    dS = P (dP - sum over keys of P dP)
    dQ^T = K^T dS           dK += dS Q                            dV += P dO     (dQ, dK times 1 / sqrt(Dh))

Sums along keys are vertical; no sum goes across lanes. [keys, 48] arrays are all the memory that a thread needs.
"""

import functools

import numpy as np

from npsiglip.kernels.attention import SCORE_CHAIN
from npsiglip.kernels.gemm import CHAIN, PANEL_STEP, STEP_SIZE
from npsiglip.kernels.jit import callback, inline
from npsiglip.kernels.pack import transpose
from npsiglip.kernels.tasks import array_at, launch, number, scratch, take, worker_address
from npsiglip.kernels.tile import PANEL, ROWS, UNITS, add_product, product
from npsiglip.kernels.vector import LANES, fma, load, load_n, maximum, splat, store, store_n
from npsiglip.kernels.vector_math import LOG2_E, exp2_below

SLACK = 2 * LANES  # numbers behind qkv that the transposed product may read


@inline
def transpose_queries(source, start, stride, rows, units, head_dim, panels):
    """Panels [units, Dh, 16] of 16 rows each."""
    for u in range(units):
        transpose(
            source, start + u * LANES * stride, stride, min(LANES, rows - u * LANES), head_dim, panels,
            u * head_dim * LANES, LANES,
        )  # fmt: skip


@inline
def pack_rows(source, start, stride, rows, head_dim, panels):
    """Panels [ceil(Dh / 16), rows, 16] of rows as they lie."""
    for d in range(0, head_dim, LANES):
        for i in range(rows):
            store(panels, d * rows + i * LANES, load_n(source, start + i * stride + d, head_dim - d))


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
def add_key_rows(product, weights, rows, source, length, head_dim, fresh, out, out_width):
    """Out [L, out_width] (+)= weights [L, rows] source [rows, Dh]; `source` in panels."""
    size = PANEL_STEP * rows
    for d in range(0, head_dim, PANEL):
        add_product(
            product, length, min(UNITS, -(-(head_dim - d) // LANES)), weights.ctypes.data, STEP_SIZE * PANEL,
            source.ctypes.data + d // LANES * size, size, rows, CHAIN, fresh,
            out.ctypes.data + STEP_SIZE * d, STEP_SIZE * out_width, 0, 0,
        )  # fmt: skip


@inline
def write_rows(source, width, rows, head_dim, out, start, stride):
    """Rows [rows, width] of a buffer to where they belong."""
    for i in range(rows):
        for d in range(0, head_dim, LANES):
            store_n(out, start + i * stride + d, load(source, i * width + d), head_dim - d)


@callback
def worker(op, threads):
    """Tasks of `attention_gradient`, until none is left."""
    product, product_t = number(op, 0), number(op, 1)
    images, length, num_heads, head_dim = number(op, 2), number(op, 3), number(op, 4), number(op, 5)
    width = num_heads * head_dim
    stride, size = 3 * width, images * length * width
    qkv, d_mix = array_at(number(op, 6), 3 * size, np.float32(0)), array_at(number(op, 7), size, np.float32(0))
    d_qkv = array_at(number(op, 8), 3 * size, np.float32(0))
    scale = np.float32(1.0 / np.sqrt(head_dim))
    factor = np.float32(LOG2_E / np.sqrt(head_dim))
    head_width = -(-head_dim // PANEL) * PANEL  # room for whole tiles
    q_panels, mix_panels = scratch(head_width * PANEL), scratch(head_width * PANEL)
    q_panels[:] = 0  # lanes beyond the last query are never anything strange
    mix_panels[:] = 0
    q_rows, mix_rows = scratch(PANEL * head_width).view(np.float32), scratch(PANEL * head_width).view(np.float32)
    probs, d_probs = (
        scratch((length + ROWS) * PANEL).view(np.float32),
        scratch((length + ROWS) * PANEL).view(np.float32),
    )
    panels = scratch(length * PANEL).view(np.float32)
    dq = scratch((head_dim + ROWS) * PANEL)
    turned = scratch(LANES * head_width)
    dk, dv = (
        scratch((length + ROWS) * head_width).view(np.float32),
        scratch((length + ROWS) * head_width).view(np.float32),
    )
    task = take(op)
    while task < images * num_heads:
        image, column = task // num_heads, task % num_heads * head_dim
        q_start = image * length * stride + column
        mix_start = image * length * width + column
        k_address = qkv.ctypes.data + STEP_SIZE * (q_start + width)
        for query in range(0, length, PANEL):
            rows = min(PANEL, length - query)
            units = -(-rows // LANES)
            transpose_queries(qkv.view(np.uint32), q_start + query * stride, stride, rows, units, head_dim, q_panels)
            transpose_queries(
                d_mix.view(np.uint32), mix_start + query * width, width, rows, units, head_dim, mix_panels
            )
            pack_rows(qkv, q_start + query * stride, stride, rows, head_dim, q_rows)
            pack_rows(d_mix, mix_start + query * width, width, rows, head_dim, mix_rows)
            panel_size = PANEL_STEP * head_dim
            add_product(
                product, length, units, k_address, STEP_SIZE * stride, q_panels.ctypes.data, panel_size, head_dim,
                SCORE_CHAIN, True, probs.ctypes.data, STEP_SIZE * PANEL, 0, 0,
            )  # fmt: skip
            add_product(
                product, length, units, k_address + STEP_SIZE * width, STEP_SIZE * stride, mix_panels.ctypes.data,
                panel_size, head_dim, CHAIN, True, d_probs.ctypes.data, STEP_SIZE * PANEL, 0, 0,
            )  # fmt: skip
            softmax_of_keys(probs, units, length, factor)
            scores_gradient(probs, d_probs, units, length, scale, panels)
            add_product(
                product_t, head_dim, units, k_address, STEP_SIZE * stride, panels.ctypes.data, PANEL_STEP * length,
                length, CHAIN, True, dq.ctypes.data, STEP_SIZE * PANEL, 0, 0,
            )  # fmt: skip
            for u in range(units):
                transpose(dq, u * LANES, PANEL, head_dim, LANES, turned, 0, head_width)
                write_rows(
                    turned.view(np.float32), head_width, min(LANES, rows - u * LANES), head_dim, d_qkv,
                    q_start + (query + u * LANES) * stride, stride,
                )  # fmt: skip
            add_key_rows(product, d_probs, rows, q_rows, length, head_dim, query == 0, dk, head_width)
            add_key_rows(product, probs, rows, mix_rows, length, head_dim, query == 0, dv, head_width)
        write_rows(dk, head_width, length, head_dim, d_qkv, q_start + width, stride)
        write_rows(dv, head_width, length, head_dim, d_qkv, q_start + 2 * width, stride)
        task = take(op)


@functools.cache
def _worker():
    return worker_address(worker), product("float32"), product("float32", transposed=True)


def attention_gradient(qkv, d_mix, length, num_heads, d_qkv):
    """Gradients of `attention` without mask: d_mix [N * L, D] of its result, qkv [N * L, 3 D]; fills d_qkv; float32.

    `SLACK` numbers behind qkv are read, whatever they hold.
    """
    width = d_mix.shape[1]
    address, *products = _worker()
    arrays = qkv, d_mix, d_qkv
    images = len(qkv) // length
    numbers = *products, images, length, num_heads, width // num_heads, *(a.ctypes.data for a in arrays)
    launch(address, images * num_heads, numbers, arrays)
