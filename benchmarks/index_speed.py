"""Pictures a second of an index, beside decoding alone and the model alone: `python benchmarks/index_speed.py`.

JPEGs of 12 megapixels (a smooth picture with some noise, 3 to 4 MB) or of another size are drawn; measured are, each
in a process of its own: `decode`, the same threads that read, decode and resize, without a model; `model`, the model on
pixels that are ready; `index`, all of it; `fast`, with --fast-decode. Printed is also the peak memory of each process.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent


def draw(folder, count, width, height, copies):
    """JPEGs: some are drawn, the others are copies with another name."""
    rng, folder = np.random.default_rng(0), Path(folder)
    folder.mkdir()
    drawn = []
    for i in range(min(count, copies)):
        small = Image.fromarray(rng.integers(0, 256, (max(2, height // 40), max(2, width // 40), 3), np.uint8))
        picture = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        picture = picture + rng.integers(-12, 13, picture.shape, np.int16)
        path = folder / f"{i:06}.jpg"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path, quality=88)
        drawn.append(path.read_bytes())
    for i in range(len(drawn), count):
        (folder / f"{i:06}.jpg").write_bytes(drawn[i % len(drawn)])


def measure(what, photos, index, options):
    """Seconds for all pictures, and the peak memory before and after in MB."""
    from npsiglip import SigLIP
    from npsiglip.collection.build import BATCH, build
    from npsiglip.collection.prepare import in_order, picture
    from npsiglip.collection.where import Where
    from npsiglip.kernels.cpus import available

    model = SigLIP.from_pretrained(options.model, options.dtype)
    pixels = np.zeros((BATCH, 3, model.config.image.image_size, model.config.image.image_size), np.float32)
    model.encode_image(pixels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    where, begin = Where([photos]), time.monotonic()
    if what == "decode":
        for _ in in_order(((item, None) for item in where), partial(picture, processor=model.processor), available()):
            pass
    elif what == "model":
        for _ in range(0, options.count, BATCH):
            model.encode_image(pixels)
        begin = time.monotonic() - (time.monotonic() - begin) * options.count / (-(-options.count // BATCH) * BATCH)
    else:
        build(where, index, model, fast_decode=what == "fast")
    seconds = time.monotonic() - begin
    return {"seconds": seconds, "before": before, "after": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--size", default="4000x3000")
    parser.add_argument("--copies", type=int, default=8, help="how many different pictures there are")
    parser.add_argument("--only", nargs="*", default=["decode", "model", "index", "fast"])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(*options.measure, options)))
        return
    width, height = map(int, options.size.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        draw(photos, options.count, width, height, options.copies)
        for what in options.only:
            given = ["--measure", what, photos, Path(folder, what)]
            command = [sys.executable, __file__, *sys.argv[1:], *given]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            result = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, env=environment, check=True)
            found = json.loads(result.stdout)
            rate = options.count / found["seconds"]
            print(
                f"{what:7} {rate:8.2f} files/s {rate * width * height / 1e6:8.1f} megapixels/s   "
                f"memory {found['before']:.0f} -> {found['after']:.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
