"""Peak memory of a model that is loaded and used: `python benchmarks/memory.py`.

Each element type, and a folder in 8 bits, in a process of its own, which encodes three images and three texts, one at a
time: from the second on, weights are packed for good. The peak resident size is the system's count, with Python, Numba
and all. Of mapped files it counts what is in memory, too, so also what the system keeps in its cache anyway.

To show: at most 1.25 x the packed weights + 200 MB. Weights are here those of the linear layers; a text's table of rows
stays in the file.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent

HERE, QUANTIZED = "--here", "int8, stored"
FACTOR, MORE = 1.25, 200e6


def peak_bytes() -> int:
    """The peak resident size of this process; where the system only counts that of its parent, too, the larger one."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def measure(folder: str, dtype: str | None, threads: int) -> dict[str, int]:
    """Use the model here."""
    import numpy as np

    from npsiglip import SigLIP

    peaks = {"imported": peak_bytes()}
    model = SigLIP.from_pretrained(folder, dtype, threads)
    peaks["loaded"] = peak_bytes()
    rng = np.random.default_rng(0)
    for i in range(3):
        model.encode_image(rng.integers(0, 256, (480, 640, 3), np.uint8))
        model.encode_text(f"text number {i}")
    peaks["used"] = peak_bytes()
    linears = model._image.linears | model._text.linears
    assert all(linear._packed for linear in linears.values())
    return peaks | {"weights": sum(part.nbytes for linear in linears.values() for part in linear.packed(keep=True))}


def quantize(source: str, target: str) -> None:
    """In a process of its own, since this one's size must not grow."""
    code = "import sys; from npsiglip.convert.quantize import quantize_folder; quantize_folder(*sys.argv[1:])"
    subprocess.run([sys.executable, "-c", code, source, target], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder in a float type; default: a random one, made anew")
    parser.add_argument("--variant", default="siglip-base-patch16-224", help="of the random one; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype")
    parser.add_argument(HERE, action="store_true", help="measure the one model in this process, and print JSON")
    options = parser.parse_args()
    if options.here:
        print(json.dumps(measure(options.model, options.dtype, options.threads)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder, stored = options.model or f"{scratch}/model", f"{scratch}/int8"
        if not options.model:
            make = [sys.executable, str(ROOT / "golden" / "random_folder.py"), options.variant, folder]
            subprocess.run(make, check=True)
        quantize(folder, stored)
        print(f"{'MB':14} {'weights':>8} {'imported':>9} {'loaded':>8} {'used':>8} {'bound':>8}")
        for name in ("float32", "bfloat16", "int8", QUANTIZED):
            what = ["--model", stored] if name == QUANTIZED else ["--model", folder, "--dtype", name]
            command = [sys.executable, __file__, HERE, *what, "--threads", str(options.threads)]
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)  # compiles kernels, which takes memory
            result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            bound = FACTOR * result["weights"] + MORE
            weights, imported, loaded, used = (
                f"{result[key] / 1e6:.0f}" for key in ("weights", "imported", "loaded", "used")
            )
            missed = "" if result["used"] <= bound else "  above the bound"
            print(f"{name:14} {weights:>8} {imported:>9} {loaded:>8} {used:>8} {bound / 1e6:8.0f}{missed}", flush=True)


if __name__ == "__main__":
    main()
