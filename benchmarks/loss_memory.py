"""Time and memory of the sigmoid loss for 32,768 pairs of 768 dimensions: `python benchmarks/loss_memory.py`.

Each run is a process of its own, whose peak resident size is the system's count: embeddings, gradients, Python, Numba
and all. To show: below 1 GB. The dense matrix of logits alone would be 4.3 GB. With several runs, the chunk sizes take
turns; the median is shown, and the smallest and the largest.
"""

import argparse
import json
import statistics
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
    start, start_cpu = time.perf_counter(), time.process_time()
    result = sigmoid_loss(zimg, ztxt, 2.3, -10.0, chunk)
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    return {"seconds": seconds, "cpu": cpu, "loss": result.loss, "before": before, "peak": peak_bytes()}


def in_a_process(batch: int, width: int, chunk: int) -> dict[str, float]:
    """What `measure` gives in a fresh process."""
    sizes = ["--batch", str(batch), "--width", str(width), "--chunk", str(chunk)]
    command = [sys.executable, __file__, HERE, *sizes]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def spread(values: list[float], digits: int) -> str:
    """Median (smallest - largest)."""
    middle = f"{statistics.median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} - {max(values):.{digits}f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32_768)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--chunk", type=int, action="append", help="default: 1024 and 2048; give several")
    parser.add_argument("--runs", type=int, default=1, help="of each chunk size")
    parser.add_argument(HERE, action="store_true", help="measure the one chunk in this process, and print JSON")
    options = parser.parse_args()
    chunks = options.chunk or [1024, 2048]
    if options.here:
        print(json.dumps(measure(options.batch, options.width, chunks[0])))
        return
    results: dict[int, list[dict[str, float]]] = {chunk: [] for chunk in chunks}
    for _ in range(options.runs):
        for chunk in chunks:
            results[chunk].append(in_a_process(options.batch, options.width, chunk))
    print(f"{'chunk':>6}  {'seconds':24} {'of all cores':24} {'peak MB':22} {'before':20} loss")
    for chunk, runs in results.items():
        seconds, cpu = (spread([run[name] for run in runs], 1) for name in ("seconds", "cpu"))
        peak, before = (spread([run[name] / 1e6 for run in runs], 0) for name in ("peak", "before"))
        print(f"{chunk:6}  {seconds:24} {cpu:24} {peak:22} {before:20} {runs[0]['loss']:.6f}")


if __name__ == "__main__":
    main()
