"""Time and memory of the sigmoid loss for 32,768 pairs of 768 dimensions: `python benchmarks/loss_memory.py`.

Each chunk size runs in a process of its own, whose peak resident size is the system's count: embeddings, gradients,
Python, Numba and all. To show: below 1 GB. The dense matrix of logits alone would be 4.3 GB.
"""

import argparse
import json
import subprocess
import sys
import time

HERE = "--here"


def peak_bytes() -> int:
    """The peak resident size of this process."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(batch: int, width: int, chunk: int) -> dict[str, float]:
    """Run the loss here, on random unit vectors, each text near its image."""
    import numpy as np

    from npsiglip import sigmoid_loss

    rng = np.random.default_rng(0)
    zimg = rng.standard_normal((batch, width), np.float32)
    ztxt = rng.standard_normal((batch, width), np.float32)
    ztxt += zimg
    for z in (zimg, ztxt):
        z /= np.sqrt(np.einsum("ij,ij->i", z, z))[:, None]  # no temporary array of the size of z
    sigmoid_loss(zimg[:64], ztxt[:64], 2.3, -10.0)  # compiles the kernels, or loads them
    before = peak_bytes()
    start = time.perf_counter()
    result = sigmoid_loss(zimg, ztxt, 2.3, -10.0, chunk)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "loss": result.loss, "before": before, "peak": peak_bytes()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--chunk", type=int, action="append", help="default: 1024 and 2048; give several")
    parser.add_argument(HERE, action="store_true", help="measure the one chunk in this process, and print JSON")
    options = parser.parse_args()
    chunks = options.chunk or [1024, 2048]
    if options.here:
        print(json.dumps(measure(options.batch, options.width, chunks[0])))
        return
    print(f"{'chunk':>6} {'seconds':>8} {'peak MB':>8} {'before':>8}  loss")
    for chunk in chunks:
        sizes = ["--batch", str(options.batch), "--width", str(options.width), "--chunk", str(chunk)]
        output = subprocess.run([sys.executable, __file__, HERE, *sizes], stdout=subprocess.PIPE, check=True).stdout
        result = json.loads(output)
        peak, before = result["peak"] / 1e6, result["before"] / 1e6
        print(f"{chunk:6} {result['seconds']:8.1f} {peak:8.0f} {before:8.0f}  {result['loss']:.6f}")


if __name__ == "__main__":
    main()
