"""What all kernels have in common: the same bits on any threads, and nothing touched beyond their arrays."""

import subprocess
import sys

import numpy as np
import pytest

from npsiglip.kernels import (
    attention,
    gemm,
    layer_norm,
)
from npsiglip.kernels.jit import max_threads, thread_count
from tests.helpers.arrays import (
    NO_MASK,
    NO_PROBS,
    NONE,
    normal,
    panels_of,
)
from tests.helpers.golden_data import ROOT


def test_the_kernels_of_a_block_give_the_same_bits_on_any_threads():
    m, length = 600, 150  # several blocks of rows and of queries
    x, w, b = normal(0, m, 130), normal(1, 130, 192), normal(2, 192)
    panels, results = panels_of(w, "float32"), []
    for threads in range(1, max_threads() + 1):
        hidden, normed = np.empty((m, 192), np.float32), np.empty((m, 192), np.float32)
        mixed = np.empty((m, 64), np.float32)
        with thread_count(threads):
            gemm.linear(x, panels, "float32", gemm.NO_SCALES, b, gemm.GELU_TANH, NONE, NONE, hidden)
            layer_norm.layer_norm(hidden, b, b, 1e-6, normed)
            attention.attention(normed, length, 4, 0, NO_MASK, NO_PROBS, mixed)
        results.append((hidden, normed, mixed))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


# -- memory -----------------------------------------------------------------------------------------------------------

# Every array, read or written, ends where memory that nobody may touch begins, but for the slack that is documented.
AT_THE_END_OF_MEMORY = """
import ctypes, mmap, sys
sys.path.insert(0, ".")
import numpy as np
from tests.helpers.arrays import NO_MASK, NO_PROBS, NONE, normal, panels_of, read_only, stored, to_bits, whole_steps
from npsiglip.kernels import attention, attention_gradient, gemm, layer_norm, layer_norm_gradient, map_pool
from npsiglip.kernels import map_pool_gradient, pack, quantize, sums, top_k
from npsiglip.kernels.steps import ROWS

def at_end(a, slack=0):
    size = -(-(a.nbytes + 4 * slack) // mmap.PAGESIZE) * mmap.PAGESIZE
    region = np.frombuffer(mmap.mmap(-1, size + mmap.PAGESIZE), np.uint8)
    forbidden = ctypes.c_void_p(region.ctypes.data + size)
    assert ctypes.CDLL(None).mprotect(forbidden, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    end = size - 4 * slack
    view = region[end - a.nbytes : end].view(a.dtype).reshape(a.shape)
    view[:] = a
    return view

def new(*shape, dtype=np.float32):
    return at_end(np.zeros(shape, dtype))
"""

FORWARD = """
for m, k, n in ((1, 1, 1), (3, 5, 17), (9, 66, 47), (21, 130, 50)):
    x, w, b, residual = (at_end(normal(i, *shape)) for i, shape in enumerate(((m, k), (k, n), (n,), (m, n))))
    q, scale, zero = at_end(whole_steps(np.zeros((m, k), np.uint8), "int8")), new(m), new(m, dtype=np.int32)
    quantize.quantize_rows(x, q, scale, zero)
    q_w, scale_w, total = new(n, q.shape[1], dtype=np.uint8), new(n), new(n, dtype=np.int32)
    quantize.quantize_weights(read_only(at_end(np.ascontiguousarray(w.T))), q_w, scale_w, total)
    bits, bits_w = new(m, k + k % 2, dtype=np.uint16), new(n, k + k % 2, dtype=np.uint16)
    pack.to_bf16(x, bits)
    pack.to_bf16(read_only(at_end(np.ascontiguousarray(w.T))), bits_w)
    for dtype, values, lanes in (
        ("float32", x, at_end(np.ascontiguousarray(w.T))), ("bfloat16", bits, bits_w), ("int8", q, q_w)
    ):
        panels = new(*pack.panels_shape(k, n, dtype), dtype=np.uint32)
        pack.pack(read_only(lanes.view(np.uint32)), 0, panels)
        scales = (scale, zero, scale_w, total) if dtype == "int8" else gemm.NO_SCALES
        for out_dtype in (np.float32, np.uint16):
            for rest in ((NONE, NONE), (residual, new(m, n))):
                weights = read_only(panels), dtype, scales, b
                gemm.linear(values, *weights, gemm.GELU_TANH, *rest, new(m, n, dtype=out_dtype))
    layer_norm.layer_norm(x, at_end(x[0]), at_end(x[0]), 1e-6, new(m, k))

for length, heads, head_dim in ((1, 1, 2), (17, 2, 6), (131, 1, 20)):
    for dtype in (np.float32, np.uint16):
        qkv, valid = at_end(stored(normal(0, length, 3 * heads * head_dim), dtype)), new(1, length, dtype=np.uint8)
        valid[:, 0] = 1
        first = length // 2
        for first, mask, probs in ((0, NO_MASK, NO_PROBS), (first, valid, new(1, heads, length - first, length))):
            out = new(length - first, heads * head_dim, dtype=dtype)
            attention.attention(qkv, length, heads, first, mask, probs, out)
    width = heads * head_dim
    kv = at_end(normal(0, length, 2 * width))
    map_pool.map_pool(at_end(normal(1, width)), kv, length, heads, new(1, heads, 1, length), new(1, width))

for r, d, q in ((1, 1, 1), (5, 17, 2), (67, 40, 8)):
    queries = at_end(top_k.padded(normal(0, q, d)))
    best, numbers = map(at_end, top_k.no_rows(q, 3))
    for dtype in (np.float32, np.float16, np.int8):
        rows, scales, skip = at_end(normal(1, r, d).astype(dtype)), new(r), new(r, dtype=np.uint8)
        top_k.top_k(rows, scales, skip, 0, q, queries, best, numbers)
        top_k.scores(rows, scales, q, queries, new(q, r))
print("done")
"""

BACKWARD = """
for m, k, n in ((1, 1, 1), (3, 5, 17), (9, 66, 47), (21, 130, 50)):
    x, w, b, residual = (at_end(normal(i, *shape)) for i, shape in enumerate(((m, k), (k, n), (n,), (m, n))))
    x_t = at_end(np.ascontiguousarray(x.T), slack=-m % ROWS)
    panels = new(*pack.panels_shape(k, n, "float32"))
    sums.pack_and_sum(w, panels, new(n))
    bits, pairs = at_end(to_bits(w)), new(*pack.panels_shape(k, n, "bfloat16"), dtype=np.uint32)
    for values in (w, bits):
        sums.pack_pairs_and_sum(values, pairs, new(n))
    x_bits, x_pairs = at_end(to_bits(x.T)), at_end(np.zeros((-(-k // 2), m), np.uint32), slack=-m % ROWS)
    sums.pair_rows(x_bits, x_pairs)
    arguments = pairs, "bfloat16", gemm.NO_SCALES, b, gemm.NO_ACTIVATION, NONE, NONE
    gemm.linear(x_pairs.view(np.uint16), *arguments, new(m, n), transposed=True)
    for rest in (NONE, residual):
        arguments = panels.view(np.uint32), "float32", gemm.NO_SCALES, b
        gemm.linear(x_t, *arguments, gemm.NO_ACTIVATION, rest, NONE, new(m, n), transposed=True)
        gemm.linear(x, *arguments, gemm.GELU_TANH_GRADIENT, rest, at_end(normal(4, m, n)), new(m, n))
    sums.add_rows(x, at_end(np.zeros(m, np.int32)), new(1, k))
    parts = new(*layer_norm_gradient.sums_shape(m, k), dtype=np.float64)
    layer_norm_gradient.layer_norm_gradient(x, at_end(normal(5, m, k)), at_end(x[0]), 1e-6, new(m, k), parts)

for length, heads, head_dim in ((1, 1, 1), (1, 1, 2), (17, 2, 7), (131, 1, 20), (49, 1, 64)):
    width = heads * head_dim
    qkv = at_end(normal(0, length, 3 * width), attention_gradient.SLACK)
    attention_gradient.attention_gradient(
        qkv, at_end(normal(1, length, width)), length, heads, new(length, 3 * width)
    )
    arrays = (at_end(normal(i, *shape)) for i, shape in enumerate(((width,), (1, width), (length, 2 * width))))
    probs, out = at_end(np.ones((1, heads, 1, length), np.float32)), new(length, 2 * width)
    map_pool_gradient.map_pool_gradient(*arrays, heads, probs, out, new(1, width, dtype=np.float64))
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect")
@pytest.mark.parametrize("calls", [FORWARD, BACKWARD], ids=["forward", "backward"])
def test_nothing_is_read_or_written_behind_an_array(calls):
    command = [sys.executable, "-c", AT_THE_END_OF_MEMORY + calls]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
