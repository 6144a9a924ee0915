"""Packed layers and the matrices between them: every dtype, from weights of every float type."""

import weakref
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npsiglip.element_types import DTYPES
from npsiglip.kernels import gemm, layer_norm, pack, patch_embed, quantize
from npsiglip.metrics import relative_l2
from npsiglip.params import StoredParams
from npsiglip.reference import model
from npsiglip.towers.image import by_channel
from npsiglip.towers.layers import NO_RESIDUAL, LayerNorm, Layers, Matrix, Packer, Room, padded
from npsiglip.trace import FORGET, Trace, widen
from tests.helpers.arrays import STORED, UNIT, UNIT_BF16, normal, panels_of, read_only, to_bits

FLOATS = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]  # that checkpoints hold
dtypes = pytest.mark.parametrize("dtype", DTYPES)
seeds = st.integers(0, 2**32 - 1)


def quantized(w):
    """Weights [N, K] float32 as int8, their scales and totals."""
    w = np.ascontiguousarray(w)
    n, k = w.shape
    q, scale, total = np.zeros((n, padded(k, "int8")), np.uint8), np.empty(n, np.float32), np.empty(n, np.int32)
    quantize.quantize_weights(read_only(w), q, scale, total)
    return q[:, :k].view(np.int8), scale, total


def filled(x, dtype, **options):
    """A matrix that holds x, ready."""
    matrix = Matrix(*x.shape, dtype, **options)
    matrix.fill(x)
    return matrix


# -- matrices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 16, 37])
@pytest.mark.parametrize("from_float32", [False, True])
@dtypes
def test_matrix(dtype, from_float32, k):
    """Whole steps in a row, the rest of the last one zero; what was written is what a trace keeps."""
    x = normal(k, 5, k)
    matrix = filled(x, dtype, from_float32=from_float32)
    assert matrix.values.shape == (5, padded(k, dtype))
    assert matrix.values.dtype == STORED[dtype]
    expected = to_bits(x) if dtype == "bfloat16" else x
    if dtype != "int8":
        np.testing.assert_array_equal(matrix.values, np.pad(expected, ((0, 0), (0, padded(k, dtype) - k))))
    else:
        scale, zero = matrix.scales
        back = (matrix.values[:, :k].astype(int) - zero[:, None]) * scale[:, None].astype(np.float64)
        assert np.all(np.abs(back - x) <= 0.5001 * scale[:, None])
    trace = Trace()
    trace["x"] = matrix
    direct = dtype == "bfloat16" and k % 2 == 0 and not from_float32  # written by kernels in bfloat16
    assert np.shares_memory(matrix.out, matrix.values) == (direct or dtype == "float32")
    np.testing.assert_array_equal(trace["x"], widen(to_bits(x)) if direct else x)
    np.testing.assert_array_equal(np.asarray(matrix), trace["x"])
    assert trace["x"].dtype == np.float32
    matrix.fill(np.zeros_like(x))
    assert trace["x"].any()


@pytest.mark.parametrize("k", [4, 37])
@pytest.mark.parametrize("floats", [np.float64, np.float32, ml_dtypes.bfloat16])
@dtypes
def test_python_fills_a_matrix_with_numbers_only(dtype, floats, k):
    """Floats assigned to the bits of bfloat16 would be cast to whole numbers, in silence; whole numbers are none."""
    x = normal(k, 6, k).astype(floats)
    matrix, kernels_own = Matrix(6, k, dtype), Matrix(6, k, dtype)
    with pytest.raises(ValueError, match="read-only"):
        matrix.out[:] = x
    with pytest.raises(TypeError, match="filled with floats, got uint16"):
        matrix.fill(to_bits(x))
    matrix.fill(np.ascontiguousarray(x.T).T.reshape(2, 3, k))  # in any order, of any shape
    layer_norm.layer_norm(x.astype(np.float32), np.zeros(k, np.float32), np.ones(k, np.float32), 1.0, kernels_own.out)
    kernels_own.ready()  # which writes by address
    np.testing.assert_array_equal(np.asarray(kernels_own), 1)
    kernels_own.fill(x)
    np.testing.assert_array_equal(kernels_own.values, matrix.values)
    assert relative_l2(np.asarray(matrix), x.astype(np.float64)) <= (0 if floats != np.float64 else UNIT) + UNIT_BF16


@dtypes
def test_matrix_is_used_again(dtype):
    """Nothing of the former contents is left."""
    x, y = normal(0, 3, 7), 100 * normal(1, 3, 7)
    matrix = filled(y, dtype)
    matrix.fill(x)
    fresh = filled(x, dtype)
    np.testing.assert_array_equal(matrix.values, fresh.values)
    for one, other in zip(matrix.scales, fresh.scales, strict=True):
        np.testing.assert_array_equal(one, other)


# -- packing ------------------------------------------------------------------------------------------------------


def as_dtype(w, dtype):
    """w [N, K] float32 as its element type holds it, for `panels_of`."""
    return {"float32": lambda: w, "bfloat16": lambda: to_bits(w), "int8": lambda: quantized(w)[0]}[dtype]()


@dtypes
@pytest.mark.parametrize("stored", FLOATS, ids=lambda dtype: np.dtype(dtype).name)
def test_packing(dtype, stored):
    """Layers beside each other, of any widths, in C order or transposed as checkpoints are: as if they were one."""

    @settings(max_examples=15)
    @given(st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 50), st.booleans(), seeds)
    def check(widths, k, transposed, seed):
        weights = [normal(seed + i, k, n).astype(stored) for i, n in enumerate(widths)]
        w = np.concatenate(weights, axis=1).astype(np.float32)
        if transposed:
            weights = [np.ascontiguousarray(weight.T).T for weight in weights]
        letters = "qkv"[: len(widths)]
        params = {f"{letter}.w": weight for letter, weight in zip(letters, weights, strict=True)}
        packer = Packer(params, list(params), dtype, Room())
        for keep in (False, True):
            _, panels, scale, total = packer(keep)
            assert panels.shape == pack.panels_shape(k, sum(widths), dtype)
            assert not panels.flags.writeable
            np.testing.assert_array_equal(panels, panels_of(as_dtype(w.T, dtype).T, dtype))
            if dtype == "int8":
                np.testing.assert_array_equal(scale, quantized(w.T)[1])
                np.testing.assert_array_equal(total, quantized(w.T)[2])
            else:
                assert scale.size == total.size == 0

    check()


@dtypes
def test_patch_embedding_reads_patches_in_the_order_of_their_kernel(dtype):
    """Parameters order a patch (row, column, channel), `patches_by_channel` (channel, row, column)."""
    pixels, w = normal(0, 2, 3, 10, 10), normal(1, 75, 20)
    weights = {"image.patch_embed.w": w, "image.patch_embed.b": normal(2, 20)}
    layer = Layers(weights, dtype).linear("image.patch_embed", dtype, order=by_channel)
    patches = Matrix(8, 75, dtype, from_float32=True)
    patch_embed.patches_by_channel(pixels, 5, patches.out)
    patches.ready()
    expected = model.extract_patches(pixels.astype(np.float64), 5).reshape(8, 75) @ w + normal(2, 20)
    assert relative_l2(layer(patches, np.empty((8, 20), np.float32), FORGET), expected) < ERRORS[dtype]


def test_packed_for_a_single_use_until_the_next_layer():
    """The next layer's weights lie in the same memory; those that are kept do not."""
    layers = Layers(params(30, 20), "float32")
    first, second = (layers.linear(name, "float32") for name in ("attn.q", "attn.k"))
    lent, kept = first.packed(keep=False).panels, first.packed(keep=True).panels
    copy = lent.copy()
    other = second.packed(keep=False).panels
    assert np.shares_memory(lent, other)
    assert not np.shares_memory(kept, other)
    np.testing.assert_array_equal(kept, copy)
    np.testing.assert_array_equal(first.packed(keep=False).panels, copy)


# -- where packed weights lie ---------------------------------------------------------------------------------------


def bounds(a):
    return a.ctypes.data, a.ctypes.data + a.nbytes


@settings(max_examples=30)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), min_size=1, max_size=40))
def test_room_never_gives_the_same_memory_twice(requests):
    """Kept arrays of any size, small blocks, and scratch in between: none overlaps, all begin with a cache line."""
    room = Room()
    room.BLOCK = 2048
    kept, scratch = [], {}
    for keep, size in requests:
        purpose = "even" if size % 2 == 0 else "odd"
        room_for_it = room.give(size)[:size] if keep else room.lend(purpose, size)
        assert len(room_for_it) == size
        if size:
            assert room_for_it.ctypes.data % 64 == 0
        if keep:
            kept.append(room_for_it)
        else:
            scratch[purpose] = room_for_it
    regions = sorted(bounds(a) for a in [*kept, *scratch.values()] if a.size)
    for (_, end), (start, _) in pairwise(regions):
        assert end <= start


def test_room_lends_the_same_memory_again():
    room = Room()
    first = room.lend("panels", 100)
    assert bounds(room.lend("panels", 60))[0] == bounds(first)[0]
    assert not np.shares_memory(room.lend("lanes", 60), first)
    assert len(room.lend("panels", 1000)) == 1000


# -- linear layers --------------------------------------------------------------------------------------------------


def params(*widths, k=37):
    """Linear layers q, k, v of a block; weights [K, N]."""
    result = {}
    for i, (letter, n) in enumerate(zip("qkv", widths, strict=False)):
        result |= {f"attn.{letter}.w": normal(i, k, n), f"attn.{letter}.b": normal(9 + i, n)}
    return result


# The error of a product relative to its result, for normal numbers: roundings of both factors, or half steps of
# 2 max / 255 and max / 127 with a maximum of 2 to 3 deviations. Measured 1.5 u, 0.4 units of bfloat16, and 0.01.
ERRORS = {"float32": 4 * UNIT, "bfloat16": UNIT_BF16, "int8": 0.03}


@dtypes
def test_layers_beside_each_other_are_one_layer(dtype):
    """Widths that are no multiples of a panel: each part has the bits that it has alone."""
    widths, x = (20, 33, 7), normal(50, 11, 37)
    p = params(*widths)
    matrix = filled(x, dtype)
    together = Layers(p, dtype).linear("attn", dtype, ("q", "k", "v"))
    out = together(matrix, np.empty((11, sum(widths)), np.float32), FORGET)
    parts = np.split(out, np.cumsum(widths)[:-1], axis=1)
    for letter, part in zip("qkv", parts, strict=True):
        alone = Layers(p, dtype).linear(f"attn.{letter}", dtype)
        np.testing.assert_array_equal(alone(matrix, np.empty(part.shape, np.float32), FORGET), part)
        expected = x.astype(np.float64) @ p[f"attn.{letter}.w"] + p[f"attn.{letter}.b"]
        assert relative_l2(part, expected) < ERRORS[dtype]


class Weights(dict, StoredParams):
    """Parameters that note what is let go, as a checkpoint's can be."""

    def __init__(self, params):
        super().__init__(params)
        self.released = []

    def rows(self, name, rows):
        raise NotImplementedError

    def release(self, name):
        self.released.append(name)


@dtypes
def test_packed_weights_that_are_kept(dtype):
    """The same bits as before; whatever was read is released, and nothing is held once the weights are kept."""
    weights, x = Weights(params(20, 33)), filled(normal(2, 5, 37), dtype)
    original = weakref.ref(weights)
    layer = Layers(weights, dtype).linear("attn", dtype, ("q", "k"))
    first = layer(x, np.empty((5, 53), np.float32), FORGET)
    assert weights.released == ["attn.q.w", "attn.k.w"]
    del weights
    assert original() is not None
    kept = layer.packed(keep=True)
    assert original() is None
    for _ in range(2):
        np.testing.assert_array_equal(layer(x, np.empty((5, 53), np.float32), FORGET), first)
        assert layer.packed(keep=False).panels is kept.panels


@dtypes
def test_layers_that_share_scratch_memory(dtype):
    """Passes one after the other, of different shapes, until all weights are kept: nobody sees those of the others."""
    p = params(30, 50) | {"fc.w": normal(5, 61, 20), "fc.b": normal(6, 20)}
    layers = Layers(p, dtype)
    linears = [layers.linear("attn", dtype, ("q", "k")), layers.linear("fc", dtype), layers.linear("attn.k", dtype)]
    inputs = [filled(normal(i, 3, k), dtype) for i, k in enumerate((37, 61, 37))]
    results = [
        [layer(x, np.empty((3, len(layer.b)), np.float32), FORGET) for layer, x in zip(linears, inputs, strict=True)]
        for _ in range(2)
    ]
    for layer in linears:
        layer.packed(keep=True)
        results.append(
            [
                layer(x, np.empty((3, len(layer.b)), np.float32), FORGET)
                for layer, x in zip(linears, inputs, strict=True)
            ]
        )
    for again in results[1:]:
        for one, other in zip(results[0], again, strict=True):
            np.testing.assert_array_equal(one, other)
    expected = normal(1, 3, 61).astype(np.float64) @ p["fc.w"] + p["fc.b"]
    assert relative_l2(results[0][1], expected) < ERRORS[dtype]


FUNCTIONS = {
    gemm.NO_ACTIVATION: lambda x: x,
    gemm.GELU_TANH: model.gelu_tanh,
    gemm.GELU_ERF: model.gelu_erf,
}


@dtypes
def test_what_a_layer_leaves_in_a_trace(dtype):
    """x w + b, before activation and residual; and tracing changes no bit."""
    p, x, stream = params(33), filled(normal(50, 11, 37), dtype), normal(51, 11, 33)
    layers = Layers(p, dtype)
    plain = layers.linear("attn.q", dtype)(x, np.empty((11, 33), np.float32), FORGET)
    for activation, function in FUNCTIONS.items():
        layer = layers.linear("attn.q", dtype, activation=activation)
        for residual in (NO_RESIDUAL, stream):
            trace = Trace()
            out = layer(x, np.empty((11, 33), np.float32), trace, residual=residual)
            assert list(trace) == ["attn.q"]
            np.testing.assert_array_equal(trace["attn.q"], plain)
            quiet = layer(x, np.empty((11, 33), np.float32), FORGET, residual=residual)
            np.testing.assert_array_equal(quiet, out)
            expected = function(plain.astype(np.float64))
            assert relative_l2(out, expected + (residual if residual.size else 0)) < 4 * UNIT


@dtypes
def test_stored_panels_give_the_bits_of_packed_weights(dtype):
    """What a quantised checkpoint stores, under the name of all parts, in place of the weights."""
    p, x = params(20, 33, 7), filled(normal(50, 11, 37), dtype)
    layer = Layers(p, dtype).linear("attn", dtype, ("q", "k", "v"))
    _, panels, scale, total = layer.packed(keep=True)
    element = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "int8": np.int8}[dtype]
    stored = {"attn.qkv.panels": panels.view(element).reshape(*panels.shape, -1), "attn.qkv.b": layer.b}
    if dtype == "int8":
        stored |= {"attn.qkv.scale": scale, "attn.qkv.total": total}
    layers = Layers(stored, dtype)
    other = layers.linear("attn", dtype, ("q", "k", "v"))
    assert list(layers.linears) == ["attn.qkv"]
    for _ in range(3):
        out = layer(x, np.empty((11, 60), np.float32), FORGET)
        np.testing.assert_array_equal(other(x, np.empty((11, 60), np.float32), FORGET), out)


@pytest.mark.parametrize(("dtype", "outer"), [("float32", "float32"), ("bfloat16", "bfloat16"), ("int8", "bfloat16")])
def test_dtype_of_layers_outside_of_blocks(dtype, outer):
    assert Layers({}, dtype).outer == outer


# -- LayerNorm ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [36, 37])
@dtypes
def test_layer_norm_fills_a_matrix(dtype, k):
    """Rounded once to what the next layer reads, and traced as it was written."""
    x, scale, b = normal(0, 6, k), normal(1, k), normal(2, k)
    plain = np.empty_like(x)
    layer_norm.layer_norm(x, scale, b, 1e-6, plain)
    out, trace = Matrix(6, k, dtype), Trace()
    assert LayerNorm("ln", scale, b, 1e-6)(x, out, trace) is out
    np.testing.assert_array_equal(out.values, filled(plain, dtype).values)
    rounds = dtype == "bfloat16" and k % 2 == 0
    np.testing.assert_array_equal(trace["ln"], widen(to_bits(plain)) if rounds else plain)
