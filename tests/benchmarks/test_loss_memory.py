"""Memory of the chunked sigmoid loss; benchmarks/loss_memory.py measures the size that counts, 32,768 pairs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from npsiglip import sigmoid_loss
from tests.helpers.golden_data import ROOT

STATUS = Path("/proc/self/status")
pytestmark = pytest.mark.skipif(not STATUS.exists(), reason="Linux tells the peak of a process")

BATCH, WIDTH, CHUNK = 8192, 64, 512
DENSE = BATCH * BATCH * 4
# The peak resident size of this very process: what getrusage tells begins with the parent's.
CODE = f"""
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    import numpy as np
    from npsiglip import sigmoid_loss
    z = np.random.default_rng(0).standard_normal(({BATCH}, {WIDTH}), np.float32) / {WIDTH}**0.5
    peak = lambda: int(open("{STATUS}").read().split("VmHWM:")[1].split()[0]) * 1024
    sigmoid_loss(z[:64], z[:64], 2.3, -10.0)  # kernels are in memory
    before = peak()
    sigmoid_loss(z, z, 2.3, -10.0, int(sys.argv[1]))
    print(peak() - before)
"""


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Kernels in the cache: compiling takes more memory than what is measured, and would hide it."""
    z = np.ones((1, 1), np.float32)
    sigmoid_loss(z, z, 0.0, 0.0)


def growth(chunk):
    code = "\n".join(line[4:] for line in CODE.splitlines())
    result = subprocess.run([sys.executable, "-c", code, str(chunk)], capture_output=True, text=True, check=True)
    return int(result.stdout)


def test_memory_grows_with_the_chunk_and_not_with_the_batch():
    """Gradients 4 MB, a block of 1 MB, its operands, the threads' tiles: 8 MB were seen; the dense form takes 268."""
    assert growth(CHUNK) < 30e6


def test_dense_form_takes_what_it_must():
    """The measure sees the matrix when there is one."""
    assert growth(BATCH) > DENSE
