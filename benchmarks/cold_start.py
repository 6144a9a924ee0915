"""From process start to the first image embedding: `python benchmarks/cold_start.py`.

A folder in float32 (B/16-224, or `--variant`) computed in each element type, and the same in 8 bits; fresh processes
that take turns in changing order. The first run of each is not counted: it compiles kernels, writes bytecode, and
brings the files into the cache of the system. The clock starts before the process does, and stops when it has the
embedding of a picture.

To show: at most 1.0 s from the float32 folder, 0.6 s from the one in 8 bits.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from npsiglip.bench.stats import summarize

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for `from golden import ...`

QUANTIZED = "int8, stored"
STAGES = ("python", "imported", "loaded", "embedded")

CODE = """
import json, sys, time
times = [time.time()]
start, folder, dtype, threads, picture = sys.argv[1:]
from npsiglip import SigLIP
times.append(time.time())
model = SigLIP.from_pretrained(folder, dtype or None, int(threads))
times.append(time.time())
embedding = model.encode_image(picture)
times.append(time.time())
print(json.dumps([t - float(start) for t in times]))
"""


def run(folder: str, dtype: str, threads: int, picture: str) -> list[float]:
    """Seconds from before the process starts to the end of each stage."""
    command = [sys.executable, "-c", CODE, repr(time.time()), folder, dtype, str(threads), picture]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(result.stderr)
    return list(json.loads(result.stdout))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder in a float type; default: a random one, made anew")
    parser.add_argument("--variant", default="siglip-base-patch16-224", help="of the random one; default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder, stored, picture = options.model or f"{scratch}/model", f"{scratch}/int8", f"{scratch}/picture.png"
        pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
        Image.fromarray(pixels).save(picture)
        if not options.model:
            from golden import random_folder
            from npsiglip.variants import variant

            random_folder.write(Path(folder), variant(options.variant))
        from npsiglip.convert.quantize import quantize_folder

        quantize_folder(folder, stored)
        todo = {dtype: (folder, dtype) for dtype in ("float32", "bfloat16", "int8")} | {QUANTIZED: (stored, "")}
        times: dict[str, list[list[float]]] = {name: [] for name in todo}
        order, names = random.Random(0), list(todo)
        for number in range(options.rounds + 1):
            for name in names:
                seconds = run(*todo[name], options.threads, picture)
                if number:
                    times[name].append(seconds)
            order.shuffle(names)
    print(f"{'seconds':14} {'embedded':>9} {'quartiles':>16} {'min':>8}   medians: {', '.join(STAGES)}")
    for name, runs in times.items():
        last = summarize([run[-1] for run in runs])
        stages = "  ".join(f"{summarize(list(column)).median:.3f}" for column in zip(*runs, strict=True))
        print(f"{name:14} {last.median:9.3f} {f'{last.q1:.3f} - {last.q3:.3f}':>16} {last.min:8.3f}   {stages}")


if __name__ == "__main__":
    main()
