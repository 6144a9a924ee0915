"""The golden files as tests use them."""

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from npsiglip.metrics import relative_l2

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "golden"
TINY = GOLDEN / "tiny"


def load_golden() -> dict[str, np.ndarray]:
    """Every array of golden.safetensors: inputs.*, taps.*, loss.*; see golden/README.md."""
    return load_file(TINY / "golden.safetensors")


def group(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """What is below `prefix`, without it: group(golden, "taps")["zimg"] is golden["taps.zimg"]."""
    return {name[len(prefix) + 1 :]: value for name, value in arrays.items() if name.startswith(f"{prefix}.")}


def above(bound: float, values: dict[str, np.ndarray], truths: dict[str, np.ndarray]) -> dict[str, float]:
    """name -> relative L2 of every array that is not within `bound`, in order; a NaN is not within it."""
    errors = {name: relative_l2(values[name], truth) for name, truth in truths.items()}
    return {name: error for name, error in errors.items() if not error <= bound}
