"""The worst error of the float32 exp kernel, over every float32 in [-104, 89]: `python benchmarks/exp_ulp.py`.

Beyond that interval the result is 0 or infinity whatever x is. In it lie 2.2e9 numbers; each is compared with NumPy's
float64 exp, whose own error is below 1e-8 of what is measured. Errors are counted in ULP, units of the last place of
a float32 at the true value. `--step 1000` takes every thousandth number. Takes a minute or two.
"""

import argparse
import time

import numpy as np
from numba import njit

from npsiglip.element_types import LANES
from npsiglip.kernels.vector import load, store
from npsiglip.kernels.vector_math import LOG2_E, exp

LOWEST, HIGHEST = np.float32(-104.0), np.float32(89.0)
BLOCK = 1 << 19
LARGEST = 2.0**128 - 2.0**103  # halfway from the largest float32 to the next one, were there one: inf from here on


@njit
def exp_of(x, out):
    """Out = exp(x), x of a multiple of 16 elements."""
    for i in range(0, x.size, LANES):
        store(out, i, exp(load(x, i)))


def ulp_at(truth: np.ndarray) -> np.ndarray:
    """The distance of neighbouring float32 at each positive float64."""
    binade = (truth.view(np.int64) & (0x7FF << 52)).view(np.float64)  # the power of two below
    return np.maximum(binade * 2.0**-23, 2.0**-149)


class Worst:
    """The largest error of one kind of results."""

    def __init__(self, name: str) -> None:
        self.name, self.ulp, self.at, self.count = name, 0.0, 0.0, 0

    def update(self, error: np.ndarray, x: np.ndarray, selected: np.ndarray) -> None:
        """Take up the errors of the x that are `selected`."""
        number = int(np.count_nonzero(selected))
        self.count += number
        if number:
            error = np.where(selected, error, 0.0)
            place = int(error.argmax())
            if error[place] > self.ulp:
                self.ulp, self.at = float(error[place]), float(x[place])

    def __str__(self) -> str:
        return f"{self.name:40} {self.ulp:.4f} ULP at {self.at!r}, of {self.count:,}"


def measure(step: int = 1) -> list[Worst]:
    """The worst error of results in [1, sqrt 2) 2^n, in [sqrt 1/2, 1) 2^n, and of subnormal results."""
    upper, lower, subnormal = (
        Worst("normal results, 2^n [1, sqrt 2)"),
        Worst("normal results, 2^n [sqrt 1/2, 1)"),
        Worst("subnormal results"),
    )
    y = np.empty(BLOCK, np.float32)
    for sign, last in ((0, HIGHEST), (1 << 31, LOWEST)):
        end = int(np.abs(last).view(np.uint32)) + 1
        for start in range(0, end, BLOCK * step):
            bits = np.arange(start, start + BLOCK * step, step, dtype=np.int64)
            x = (np.minimum(bits, end - 1) | sign).astype(np.uint32).view(np.float32)
            exp_of(x, y)
            once = bits < end
            truth = np.exp(x.astype(np.float64))
            finite = truth < LARGEST
            if not np.array_equal(np.isfinite(y), finite):
                raise AssertionError(f"infinite where the result is finite, or the reverse, near x = {x[0]}")
            error = np.abs(np.where(finite, y, 0.0) - np.where(finite, truth, 0.0)) / ulp_at(truth)
            normal = once & finite & (truth >= 2.0**-126)
            above = truth >= np.ldexp(1.0, np.rint(x * np.float32(LOG2_E)).astype(np.int64))  # 2^n as the kernel's n
            upper.update(error, x, normal & above)
            lower.update(error, x, normal & ~above)
            subnormal.update(error, x, once & (truth < 2.0**-126))
    return [upper, lower, subnormal]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=1)
    step = parser.parse_args().step
    start = time.perf_counter()
    for worst in measure(step):
        print(worst)
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
