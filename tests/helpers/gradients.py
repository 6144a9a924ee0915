"""Gradients against finite differences: the measure, and the small model that tests/reference takes them of."""

import numpy as np

from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.params import random_params
from npsiglip.reference import model

CONFIG = SigLIPConfig(
    ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=17, patch_size=5),
    TextConfig(width=10, depth=2, num_heads=2, mlp_dim=14, seq_len=6, vocab_size=31, projection_dim=12),
)
# A temperature at which few pairs are saturated: where the loss does not move, nothing can be measured.
PARAMS = random_params(CONFIG, seed=3, dtype=np.float64) | {"t_prime": np.array(1.5), "bias": np.array(-2.0)}
EPS = 1e-6


# the measure


def derivative(f, step):
    """f'(0), and how far it may be off: central differences extrapolated to step 0 (Ridders 1982).

    An error of a central difference is a series in step^2. With steps that are halved, each column of the table
    removes one more power. What a further column or row still changes is the error; rounding, which grows as steps
    shrink, makes that change grow again, so the smallest change is where both are smallest.
    """
    best, error, row = np.nan, np.inf, []
    for _ in range(8):
        new = [(f(step) - f(-step)) / (2 * step)]
        for power, old in enumerate(row, 1):
            new.append(new[-1] + (new[-1] - old) / (4.0**power - 1))
            change = max(abs(new[-1] - new[-2]), abs(new[-1] - old))
            if change < error:
                best, error = new[-1], change
        row, step = new, step / 2
    return best, error


# f is a sum of terms of magnitude S, of which each is off by some roundings: by NOISE S in all. At the smallest step,
# 2^-7 of the first one, a difference is off by NOISE S / step; twice that may hide behind a change that is small by
# luck.
NOISE, STEP = 100 * 2.0**-53, 2.0**-5


def assert_gradient(forward, at, gradients, seed=0, sharp=1e-7):
    """`gradients` are those of sum(c y), y = forward(at), for c from `weights`: along a random direction in each input.

    `forward` takes `at`, name -> array, and returns sum(c y) and the sum of |c y|. `sharp`: the error that a
    derivative may have at most, relative to |gradient| |direction| + S: a measurement that shows nothing fails.
    """
    rng = np.random.default_rng(seed)
    assert set(gradients) == set(at)
    for name, x in at.items():
        assert np.shape(gradients[name]) == np.shape(x), name
        v = rng.standard_normal(np.shape(x))
        v /= np.linalg.norm(v)
        magnitude = forward(at)[1]
        measured, error = derivative(lambda h, v=v, name=name, x=x: forward(at | {name: x + h * v})[0], STEP)
        tolerance = 4 * error + 2 * NOISE * magnitude / (STEP / 128)
        assert tolerance <= sharp * (np.linalg.norm(gradients[name]) + magnitude), f"{name} cannot be measured"
        assert abs(measured - (gradients[name] * v).sum()) <= tolerance, name


def weights(seed, shape):
    """What turns an array into a number: y -> sum(c y), whose gradient by y is c."""
    return np.random.default_rng([seed, 1]).standard_normal(shape)


def weighed(c, y):
    """sum(c y), and the sum of its terms' magnitudes."""
    return (c * y).sum(), np.abs(c * y).sum()


def normal(seed, *shape):
    return np.random.default_rng([seed, 2]).standard_normal(shape)


def frozen(arrays):
    """The same arrays, which whoever writes into them fails on."""
    result = {name: np.array(x) for name, x in arrays.items()}
    for x in result.values():
        x.flags.writeable = False
    return result


def assert_piece_with_params(piece, shape, run, run_backward, seed, params=PARAMS):
    """A piece with parameters below `piece`: gradients of its input x [shape] and of each of its parameters.

    run(params, x, trace) -> y; run_backward(params, x, trace, d_y, grads) -> d_x.
    """
    own = {name: x for name, x in params.items() if name.startswith(piece)}
    at = own | {"x": normal(seed, *shape)}
    trace, grads = {}, {}
    y = run(at, at["x"], trace)
    c = weights(seed, y.shape)
    inputs = frozen(at)
    grads["x"] = run_backward(inputs, inputs["x"], frozen(trace), c, grads)
    assert_gradient(lambda at: weighed(c, run(at, at["x"], model.FORGET)), at, grads, seed)


def assert_gradients_of_a_loss(loss_of, at, t):
    """The gradients of a loss are its central differences, number by number.

    `at`: zimg, ztxt [B, D] of unit rows, t_prime and bias. A difference is off by step^2 / 6 of a third derivative, at
    most t^3 or so, and by rounding.
    """
    loss, *gradients = loss_of(**at)
    step = 1e-6
    bound = step**2 * max(t, 1) ** 3 + 1e-15 * (1 + loss) / step * 10
    for name, gradient in zip(at, gradients, strict=True):
        for index in np.ndindex(at[name].shape):
            moved = []
            for sign in (1, -1):
                x = at[name].copy()
                x[index] += sign * step
                moved.append(loss_of(**(at | {name: x})).loss)
            difference = (moved[0] - moved[1]) / (2 * step)
            assert abs(difference - np.asarray(gradient)[index]) <= bound, (name, index)
