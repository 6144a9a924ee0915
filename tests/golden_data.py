"""The golden files as tests use them, and the measure by which tests compare arrays with them."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "golden"
TINY = GOLDEN / "tiny"


def load_golden() -> dict[str, np.ndarray]:
    """Every array of golden.safetensors: inputs.*, taps.*, loss.*; see golden/README.md."""
    return load_file(TINY / "golden.safetensors")


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """What is below `prefix`, without it: group(golden, "taps")["zimg"] is golden["taps.zimg"]."""
    return {name[len(prefix) + 1 :]: value for name, value in arrays.items() if name.startswith(f"{prefix}.")}


def relative_l2(value: np.ndarray, truth: np.ndarray) -> float:
    """|value - truth| / |truth| over all elements, in float64; shapes must be equal, a zero truth needs zeros."""
    assert value.shape == truth.shape, f"shape {value.shape}, expected {truth.shape}"
    value, truth = np.asarray(value, np.float64), np.asarray(truth, np.float64)
    scale = np.abs(truth).max()
    if scale == 0.0:
        return float(np.abs(value).max() > 0.0)
    # scaled first: the square of what is below 1e-154 would vanish
    return float(np.linalg.norm((value - truth) / scale) / np.linalg.norm(truth / scale))


def above(bound: float, values: dict[str, np.ndarray], truths: dict[str, np.ndarray]) -> dict[str, float]:
    """name -> relative L2 of every array that is not within `bound`, in order; a NaN is not within it."""
    errors = {name: relative_l2(values[name], truth) for name, truth in truths.items()}
    return {name: error for name, error in errors.items() if not error <= bound}
