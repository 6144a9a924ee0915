"""Arrays for tests of kernels: guarded on both sides, in the layouts that kernels read; sums in a known order."""

import ml_dtypes
import numpy as np

from npsiglip.element_types import ELEMENT_TYPES, LANES
from npsiglip.kernels import pack
from npsiglip.kernels.jit import thread_count
from npsiglip.reference import backward
from npsiglip.trace import widen

UNIT = 2.0**-24  # the largest relative error of rounding to float32
UNIT_F64 = 2.0**-53  # and to float64
UNIT_BF16 = 2.0**-8  # and to bfloat16, which has 8 significant bits
STORED = {name: kind.memory for name, kind in ELEMENT_TYPES.items()}  # dtype of x in a product

NONE = np.empty((0, 0), np.float32)
NO_MASK = np.empty((0, 0), np.uint8)
NO_PROBS = np.empty((0, 0, 0, 0), np.float32)


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def to_bits(x):
    """The bits of bfloat16 of float32 numbers, by ml_dtypes."""
    return np.asarray(x, np.float32).astype(ml_dtypes.bfloat16).view(np.uint16)


def number(x):
    """What an array of float32, or of the bits of bfloat16, stands for, in float64."""
    return (widen(x) if x.dtype == np.uint16 else x).astype(np.float64)


def stored(x, dtype):
    """Float32 numbers as an array of float32, or of uint16 for bfloat16."""
    return to_bits(x) if dtype == np.uint16 else x


def read_only(a):
    view = a.view()
    view.flags.writeable = False
    return view


def guarded(*shape, dtype=np.float32):
    """An array inside a larger one filled with a sentinel, and a check that the surroundings are untouched."""
    size, sentinel = int(np.prod(shape)), np.array(117).astype(dtype)
    whole = np.full(size + 128, sentinel, dtype)
    view = whole[64 : 64 + size].reshape(shape)

    def check():
        assert np.all(whole[:64] == sentinel), "written before the array"
        assert np.all(whole[64 + size :] == sentinel), "written behind the array"

    return view, check


def whole_steps(x, dtype):
    """The columns of x rounded up to whole steps, with zeros."""
    return np.pad(x, ((0, 0), (0, -x.shape[1] % ELEMENT_TYPES[dtype].per_step)))


def panels_of(w, dtype):
    """w [K, N], float32, bits of bfloat16 or int8, in the layout that pack.py describes."""
    per, (k, n) = ELEMENT_TYPES[dtype].per_step, w.shape
    shape = pack.panels_shape(k, n, dtype)
    padded = np.zeros((shape[1] * per, shape[0] * LANES), w.dtype)
    padded[:k, :n] = w
    lanes = padded.reshape(shape[1], per, shape[0], LANES).transpose(2, 0, 3, 1)
    return read_only(np.ascontiguousarray(lanes).view(np.uint32).reshape(shape))


def fma32(a, b, c):
    """A b + c in float64 numbers that are float32 numbers, rounded once to float32.

    The product is exact in float64. The sum is rounded to odd there, which keeps a second rounding from doing harm.
    """
    p = a * b
    s = c + p
    part = s - c
    error = (c - (s - part)) + (p - part)
    even = (s.view(np.int64) & 1) == 0
    odd = np.where((error != 0) & even, np.nextafter(s, np.copysign(np.inf, error)), s)
    return odd.astype(np.float32).astype(np.float64)


def in_chains(x, w, dtype, chain=None):
    """x w of float32 or bfloat16 numbers (float64 arrays) in the order that tile.py describes, float32.

    In chains of so many steps, of those of a linear layer if it is not said.
    """
    per, chain = ELEMENT_TYPES[dtype].per_step, chain or ELEMENT_TYPES[dtype].chain
    x, w = whole_steps(x, dtype), whole_steps(w.T, dtype).T
    total = np.zeros((len(x), w.shape[1]), np.float32)
    for start in range(0, len(w), chain * per):
        sums = np.zeros(total.shape)
        for step in range(start, min(start + chain * per, len(w)), per):
            for k in reversed(range(step, step + per)):
                sums = fma32(x[:, k, None], w[k], sums)
        total += sums.astype(np.float32)
    return total


def chain_bound(k, dtype="float32"):
    """4 times the random relative error of a sum of k products: of one chain, the sum of chains, the last rounding.

    A chain of n fused multiply-adds has a random error of about 2^-25 sqrt(n / 3) of the result (docs/numerics.md).
    Products of bfloat16 are exact in float32, so the same holds for them.
    """
    chain = ELEMENT_TYPES[dtype].per_step * ELEMENT_TYPES[dtype].chain
    return 4 * UNIT * (1 + np.sqrt(min(k, chain) / 3) + np.sqrt(k / chain))


def close(value, expected, rtol=1e-12, atol=0.0):
    """Whether all elements agree, relative to the largest expected one."""
    scale = np.abs(expected).max() if np.size(expected) else 0.0
    np.testing.assert_allclose(value, expected, rtol=0, atol=rtol * scale + atol)


def wide(*arrays):
    """Float64 copies."""
    return [a.astype(np.float64) for a in arrays]


def with_nan_behind(x, size):
    """A copy of x, and NaN behind it."""
    whole = np.full(x.size + size, np.nan, np.float32)
    whole[: x.size] = x.reshape(-1)
    return whole[: x.size].reshape(x.shape)


def on_threads(run):
    """What `run` returns, which must be the same bits on one thread and on two."""
    results = []
    for threads in (1, 2):
        with thread_count(threads):
            results.append(run())
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)
    return results[0]


def in_pairs(x):
    """x [M, K] of bfloat16 as lanes [ceil(M / 2), K] of two rows."""
    rows = np.pad(x, ((0, -len(x) % 2), (0, 0)))
    return rows[::2] | (rows[1::2].astype(np.uint32) << 16)


def attention_gradients(q, k, v, probs, d_mix, num_heads):
    """The reference's gradients of q, k and v [N, L, D]: its `attention` with linear layers that do nothing.

    Keys and values are the two halves of one input, so that their gradients come apart.
    """
    width = q.shape[-1]
    one, zero = np.eye(width), np.zeros((width, width))
    params = {"out.w": one, "q.w": one, "k.w": np.concatenate([one, zero]), "v.w": np.concatenate([zero, one])}
    trace = {"q": q, "k": k, "v": v, "probs": probs, "mix": np.zeros_like(d_mix)}
    params, trace = ({f"a.{name}": value for name, value in of.items()} for of in (params, trace))
    d_q, d_kv = backward.attention(params, "a", q, np.concatenate([k, v], -1), num_heads, trace, d_mix, {})
    return d_q, d_kv[..., :width], d_kv[..., width:]
