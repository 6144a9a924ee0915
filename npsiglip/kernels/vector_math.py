"""exp, both forms of GELU, softplus and the logistic function on 16 lanes at a time.

Numba without Intel's SVML turns `math.exp` in a loop into one libm call an element. These are polynomials instead;
docs/numerics.md derives their bounds, `tests/kernels/test_vector_math.py` measures them.

    exp, float32     <= 1.04 ULP derived, 1.01 ULP the worst of all float32 inputs; subnormal results, inf and NaN kept
    exp, float64     <= 2 ULP derived
    gelu_tanh        x / (1 + exp(-2 u)): the tanh form without a tanh
    gelu_erf         x Phi(x), Phi(-|x|) = exp(-x^2 / 2) times a rational function; (10 + 2 x^2) 2^-24 relative derived
"""

import numpy as np
from numba.core.extending import overload

from npsiglip.kernels.jit import inline
from npsiglip.kernels.vector import F32X, absolute, fma, maximum, minimum, rint, scale_by_power_of_two, splat

LOG2_E = 1.4426950408889634
# ln 2 in two parts. The first has so few bits that its product with any exponent of the type is exact.
LN2_HI_32, LN2_LO_32 = np.float32(0.693359375), np.float32(-2.12194440e-4)
LN2_HI_64, LN2_LO_64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10


@inline
def _exp_f32(x):
    # Beyond these limits the result is 0 or inf whatever x is; the operand order lets NaN through.
    x = minimum(np.float32(89.0), maximum(np.float32(-104.0), x))
    n = rint(x * np.float32(LOG2_E))
    r = fma(n, -LN2_LO_32, fma(n, -LN2_HI_32, x))  # |r| <= ln(2) / 2, and a rounding of n more
    # exp(r) = 1 + r + r^2 q(r), q of degree 4 by Lawson's algorithm for the relative error: 2^-28.0
    q = fma(r, np.float32(0.0013814539415761828), np.float32(0.00836874544620514))
    q = fma(q, r, np.float32(0.04166838899254799))
    q = fma(q, r, np.float32(0.1666652113199234))
    q = fma(q, r, np.float32(0.4999999403953552))
    y = fma(r * r, q, r) + np.float32(1.0)
    return scale_by_power_of_two(y, n)


@inline
def _exp_f64(x):
    x = minimum(710.0, maximum(-746.0, x))
    n = rint(x * LOG2_E)
    r = fma(n, -LN2_LO_64, fma(n, -LN2_HI_64, x))
    # Taylor's series to r^13: the next term is below 2^-57
    y = splat(1.0 / 6227020800.0)
    y = fma(y, r, 1.0 / 479001600.0)
    y = fma(y, r, 1.0 / 39916800.0)
    y = fma(y, r, 1.0 / 3628800.0)
    y = fma(y, r, 1.0 / 362880.0)
    y = fma(y, r, 1.0 / 40320.0)
    y = fma(y, r, 1.0 / 5040.0)
    y = fma(y, r, 1.0 / 720.0)
    y = fma(y, r, 1.0 / 120.0)
    y = fma(y, r, 1.0 / 24.0)
    y = fma(y, r, 1.0 / 6.0)
    y = fma(y, r, 0.5)
    y = fma(r * r, y, r) + 1.0
    return scale_by_power_of_two(y, n)


@inline
def exp2(x):
    """2^x in the lanes of a float32 vector."""
    return exp2_below(minimum(np.float32(129.0), x))  # beyond, it is inf; the operand order lets NaN through


@inline
def exp2_below(x):
    """2^x for x <= 129, which a softmax knows of its exponents."""
    x = maximum(np.float32(-151.0), x)  # below, it is 0
    n = rint(x)
    r = x - n  # exactly
    # 2^r = 1 + r q(r), q of degree 5, fitted to what is left after rounding its coefficients: 2^-28.3
    q = fma(r, np.float32(0.00015326455468311906), np.float32(0.0013390807434916496))
    q = fma(q, r, np.float32(0.009618505835533142))
    q = fma(q, r, np.float32(0.05550359934568405))
    q = fma(q, r, np.float32(0.24022647738456726))
    q = fma(q, r, np.float32(0.6931471824645996))
    return scale_by_power_of_two(fma(q, r, np.float32(1.0)), n)


def exp(v):
    """e^v in the lanes of a float32 or float64 vector."""
    raise NotImplementedError("only inside compiled code")


@overload(exp)
def _overload_exp(v):
    return (lambda v: _exp_f32(v)) if v == F32X else (lambda v: _exp_f64(v))


@inline
def gelu_tanh(x):
    """0.5 x (1 + tanh u) = x / (1 + exp(-2 u)), u = sqrt(2/pi) (x + 0.044715 x^3); float32 lanes.

    The second form needs no tanh, and keeps its digits where 1 + tanh u cancels.
    """
    # -2 sqrt(2/pi) log2(e) and 0.044715 times it
    exponent = x * fma(x * x, np.float32(-0.1029432395800235), np.float32(-2.302208198144325))
    return x / (exp2(exponent) + np.float32(1.0))


@inline
def gelu_erf(x):
    """0.5 x (1 + erf(x / sqrt(2))) = x Phi(x), Phi the normal distribution function; float32 lanes.

    Of a = |x| it computes Phi(-a) = exp(-a^2 / 2) r p(t), r = 1 / (a + k), t = (a - k) / (a + k), k = 4.25: so both
    tails keep their digits, as 1 + erf does not. p has degree 9 by Lawson's algorithm for the relative error, fitted to
    what is left after rounding its coefficients, for a up to 14.5: 2^-27.6. Beyond, Phi(-a) is 0 in float32.
    """
    a = minimum(np.float32(15.0), absolute(x))  # the operand order lets NaN through
    r = np.float32(1.0) / (a + np.float32(4.25))
    t = fma(r, np.float32(-8.5), np.float32(1.0))
    p = fma(t, np.float32(-0.00023751815024297684), np.float32(-0.0003663516545202583))
    p = fma(p, t, np.float32(0.0021906220354139805))
    p = fma(p, t, np.float32(-0.0007476947503164411))
    p = fma(p, t, np.float32(-0.019369760528206825))
    p = fma(p, t, np.float32(0.0852709710597992))
    p = fma(p, t, np.float32(-0.22051475942134857))
    p = fma(p, t, np.float32(0.4182276427745819))
    p = fma(p, t, np.float32(-0.6251298189163208))
    p = fma(p, t, np.float32(0.7595542073249817))
    tail = p * r * exp2(a * a * np.float32(-0.7213475204444817))  # log2(e) / 2
    positive, negative = maximum(x, np.float32(0.0)), minimum(x, np.float32(0.0))  # one of them is 0, and its product
    return fma(negative, tail, positive * (np.float32(1.0) - tail))


@inline
def gelu_tanh_gradient(x):
    """d gelu_tanh / dx = s (1 + x (1 - s) 2 u'), s = 1 / (1 + e), e = exp(-2 u), 1 - s = e s; float32 lanes.

    e s keeps the digits that 1 - s loses where s is near 1, though x 2 u' makes much of it.
    """
    # Beyond these the result is 1 or, but for 3e-36, 0; within them nothing overflows. The order lets NaN through.
    x = minimum(np.float32(16.0), maximum(np.float32(-10.0), x))
    square = x * x
    e = exp2(x * fma(square, np.float32(-0.1029432395800235), np.float32(-2.302208198144325)))
    s = np.float32(1.0) / (e + np.float32(1.0))
    # 2 u' = sqrt(8/pi) (1 + 3 * 0.044715 x^2)
    slope = fma(square, np.float32(0.2140644488178663), np.float32(1.5957691216057308))
    return s * fma(x * slope, e * s, np.float32(1.0))


@inline
def softplus_of_minus(a):
    """log(1 + exp(-a)) for a >= 0, and exp(-a) beside it; float64 lanes.

    log(1 + e) = 2 artanh(s), s = e / (2 + e) <= 1/3, by its series: the term left out is below 2 s^24 / 25 < 2^-41.
    """
    e = exp(0.0 - a)
    s = e / (e + 2.0)
    z = s * s
    p = splat(1.0 / 23.0)
    p = fma(p, z, 1.0 / 21.0)
    p = fma(p, z, 1.0 / 19.0)
    p = fma(p, z, 1.0 / 17.0)
    p = fma(p, z, 1.0 / 15.0)
    p = fma(p, z, 1.0 / 13.0)
    p = fma(p, z, 1.0 / 11.0)
    p = fma(p, z, 1.0 / 9.0)
    p = fma(p, z, 1.0 / 7.0)
    p = fma(p, z, 1.0 / 5.0)
    p = fma(p, z, 1.0 / 3.0)
    return (s + s) * fma(p, z, 1.0), e


@inline
def softplus_and_sigmoid(x):
    """log(1 + exp(x)) and 1 / (1 + exp(-x)); float64 lanes."""
    log1p, e = softplus_of_minus(absolute(x))
    positive = maximum(x, splat(0.0))
    numerator = exp(x - positive)  # 1 for x >= 0, exp(x) = e below: sigmoid without a branch
    return positive + log1p, numerator / (e + 1.0)
