"""Small kernels against their plain twins in float64, on awkward sizes; and what all kernels have in common.

Products, attention and quantisation have files of their own (test_tile.py, test_gemm.py, test_attention.py,
test_quantize.py), as have the operations that kernels are written in (test_vector.py, test_vector_math.py).
"""

import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from npsiglip.kernels import attention, gemm, layer_norm, map_pool, patch_embed, rows, similarity, tasks
from npsiglip.kernels.jit import max_threads, thread_count
from npsiglip.reference import model
from tests.helpers.arrays import NO_MASK, NO_PROBS, NONE, UNIT, guarded, normal, panels_of, to_bits
from tests.helpers.golden_data import ROOT

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 40), st.integers(2, 300), seeds, st.sampled_from([0.0, 100.0]))
def test_layer_norm(m, d, seed, offset):
    x, scale, b = normal(seed, m, d) + np.float32(offset), normal(seed + 1, d), normal(seed + 2, d)
    out, check = guarded(m, d)
    layer_norm.layer_norm(x, scale, b, 1e-6, out)
    check()
    reference = model.layer_norm(x.astype(np.float64), scale.astype(np.float64), b.astype(np.float64), 1e-6)
    # One rounding at the end; the variance loses 2^-52 (1 + mean^2 / var), and var of few values may be small.
    np.testing.assert_allclose(out, reference, rtol=2 * UNIT, atol=1e-5 * UNIT * offset**2 + 1e-30)
    narrow, check = guarded(m, d, dtype=np.uint16)
    layer_norm.layer_norm(x, scale, b, 1e-6, narrow)
    check()
    np.testing.assert_array_equal(narrow, to_bits(out))


@given(st.integers(1, 4), st.integers(1, 60), st.integers(1, 4), st.integers(1, 40), seeds)
def test_map_pool(n, length, num_heads, head_dim, seed):
    width = num_heads * head_dim
    q, kv = 2 * normal(seed, width), normal(seed + 1, n * length, 2 * width)
    probs, check_probs = guarded(n, num_heads, 1, length)
    out, check = guarded(n, width)
    map_pool.map_pool(q, kv, length, num_heads, probs, out)
    check()
    check_probs()
    k, v = (
        model.split_heads(part.reshape(n, length, width), num_heads)
        for part in np.split(kv.astype(np.float64), 2, axis=1)
    )
    queries = model.split_heads(np.broadcast_to(q.astype(np.float64), (n, 1, width)), num_heads)
    reference = model.softmax(queries @ k.transpose(0, 1, 3, 2) / np.sqrt(head_dim))
    np.testing.assert_allclose(probs, reference, rtol=2 * UNIT, atol=1e-30)
    # Rounded once, but for cancellation in the weighted sum.
    assert np.abs(out - model.merge_heads(reference @ v)[:, 0]).max() <= 2 * UNIT * np.abs(v).max()
    narrow, check = guarded(n, width, dtype=np.uint16)
    map_pool.map_pool(q, kv, length, num_heads, probs, narrow)
    check()
    np.testing.assert_array_equal(narrow, to_bits(out))


@pytest.mark.parametrize("largest", [0, 7, 19])
def test_map_pool_of_scores_that_exp_cannot_take(largest):
    """From -1e5 to 1e5, the largest first, in the middle and last: it is the one that others are shifted by."""
    length, width = 20, 8
    q, kv = np.full(width, 100.0, np.float32), normal(0, length, 2 * width)
    kv[:, :width] = np.roll(np.linspace(300, -300, length), largest)[:, None]
    probs, out = np.empty((1, 1, 1, length), np.float32), np.empty((1, width), np.float32)
    map_pool.map_pool(q, kv, length, 1, probs, out)
    np.testing.assert_array_equal(probs[0, 0, 0], np.arange(length) == largest)
    np.testing.assert_array_equal(out[0], kv[largest, width:])


@given(st.integers(1, 3), st.integers(1, 9), st.integers(0, 8), st.integers(1, 3), seeds)
def test_extract_patches(n, patch_size, rest, grid, seed):
    """The reference's patches, (channel, row, column) instead of (row, column, channel)."""
    side = patch_size * grid + min(rest, patch_size - 1)
    pixels = normal(seed, n, 3, side, side)
    out, check = guarded(n * grid * grid, patch_size * patch_size * 3)
    patch_embed.extract_patches(pixels, patch_size, out)
    check()
    expected = model.extract_patches(pixels, patch_size).reshape(-1, patch_size, patch_size, 3)
    np.testing.assert_array_equal(out, expected.transpose(0, 3, 1, 2).reshape(out.shape))


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 100), seeds)
def test_unit_vectors_and_logits(n, k, d, seed):
    x, y = normal(seed, n, d), normal(seed + 1, k, d)
    unit_x, unit_y, out = np.empty_like(x), np.empty_like(y), np.empty((n, k), np.float32)
    similarity.l2_normalize(x, unit_x)
    similarity.l2_normalize(y, unit_y)
    np.testing.assert_allclose(unit_x, model.l2_normalize(x.astype(np.float64)), rtol=2 * UNIT)
    similarity.logits(unit_x, unit_y, np.log(117.0), -12.9, out)
    expected = 117.0 * unit_x.astype(np.float64) @ unit_y.astype(np.float64).T - 12.9
    np.testing.assert_allclose(out, expected, rtol=2 * UNIT, atol=1e-12)


# -- threads ------------------------------------------------------------------------------------------------------


class CountRow(NamedTuple):
    taken: int
    size: int


@njit(nogil=True, error_model="numpy")
def count_tasks(address, threads):
    row = rows.read(address, CountRow)
    taken = tasks.array_at(row.taken, row.size, np.int64(0))
    task = tasks.take(address)
    while task < taken.size:
        taken[task] += 1
        task = tasks.take(address)


@pytest.mark.parametrize("count", [0, 1, 2, 300_000])
def test_every_task_is_taken_once(count):
    """However often it is done: the counter starts anew, and threads that ask for it together get different numbers."""
    taken = np.zeros(count, np.int64)
    for times in range(1, 11):
        row = CountRow(taken=taken.ctypes.data, size=count)
        tasks.launch(tasks.worker_address(count_tasks), count, row, (taken,))
        assert np.all(taken == times)


def test_a_program_does_again_what_was_recorded():
    """In the order in which it was recorded, with whatever the arrays hold by then; nothing is done meanwhile."""
    x, w, b, scale = normal(0, 20, 33), normal(1, 33, 33), normal(2, 33), normal(3, 33)
    panels, out, normed = panels_of(w, "float32"), np.zeros((20, 33), np.float32), np.zeros((20, 33), np.float32)

    def block():
        gemm.linear(x, panels, "float32", gemm.NO_SCALES, b, gemm.GELU_TANH, NONE, NONE, out)
        layer_norm.layer_norm(out, scale, b, 1e-6, normed)
        gemm.linear(normed, panels, "float32", gemm.NO_SCALES, b, gemm.NO_ACTIVATION, out, NONE, out)

    program = tasks.Program()
    with tasks.recording(program):
        block()
    assert not out.any()
    for seed in (4, 5):
        x[:] = normal(seed, 20, 33)
        program.run()
        recorded = out.copy()
        block()
        np.testing.assert_array_equal(recorded, out)


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


# -- memory -------------------------------------------------------------------------------------------------------

# Every array, read or written, ends where memory that nobody may touch begins.
AT_THE_END_OF_MEMORY = """
import ctypes, mmap, sys
sys.path.insert(0, ".")
import numpy as np
from tests.helpers.arrays import NO_MASK, NO_PROBS, NONE, normal, panels_of, read_only, stored, whole_steps
from npsiglip.kernels import attention, gemm, layer_norm, map_pool, pack, quantize

def at_end(a):
    size = -(-a.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    region = np.frombuffer(mmap.mmap(-1, size + mmap.PAGESIZE), np.uint8)
    forbidden = ctypes.c_void_p(region.ctypes.data + size)
    assert ctypes.CDLL(None).mprotect(forbidden, ctypes.c_size_t(mmap.PAGESIZE), 0) == 0
    view = region[size - a.nbytes : size].view(a.dtype).reshape(a.shape)
    view[:] = a
    return view

def new(*shape, dtype=np.float32):
    return at_end(np.zeros(shape, dtype))

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
print("done")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="uses mprotect")
def test_nothing_is_read_or_written_behind_an_array():
    command = [sys.executable, "-c", AT_THE_END_OF_MEMORY]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr
