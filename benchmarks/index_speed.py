"""Pictures a second of an index, beside decoding alone and the model alone: `python benchmarks/index_speed.py`.

JPEGs of 12 megapixels (a smooth picture with some noise, 3 to 4 MB) or of another size are drawn, or those of a folder
are taken again and again (`--photos`); measured are, each in a process of its own:

    decode        the same threads that read, decode and resize, without a model
    model         the model on pixels that are ready
    index         all of it
    fast          with --fast-decode
    transformers  `pipeline("image-feature-extraction")` over the same files, batches of 32 (float32)
    dataset       transformers' model and processor as clip-retrieval has them: a DataLoader, workers that decode
                  and resize, batches of 32 (float32)
    sentences     `SentenceTransformer.encode` of the same files, batches of 32 (float32)

The last three need `pip install torch transformers sentence-transformers`, and a model folder that transformers loads.
Decoding and the model share the cores: together they can take no less than the sum of their times, so `index` is also
given as a part of 1 / (1 / decode + 1 / model). Printed is also the peak memory of each process.
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
JPEG = (".jpg", ".jpeg")


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


def copy(folder, source, count):
    """JPEGs of a folder, again and again, each with another name."""
    folder, found = Path(folder), sorted(path for path in Path(source).iterdir() if path.suffix.lower() in JPEG)
    if not found:
        raise SystemExit(f"{source} has no JPEG")
    folder.mkdir()
    for i in range(count):
        (folder / f"{i:06}.jpg").write_bytes(found[i % len(found)].read_bytes())


# -- others -----------------------------------------------------------------------------------------------------------


def opened(path):
    """A picture, as these libraries' own loaders open it."""
    with Image.open(path) as image:
        return image.convert("RGB")


class Photos:
    """A data set as clip-retrieval has one: an item is a picture that the processor has prepared."""

    def __init__(self, paths, processor):
        self.paths, self.processor = paths, processor

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        return self.processor(images=opened(self.paths[i]), return_tensors="pt")["pixel_values"][0]


def run_transformers(folder, paths, threads):
    from transformers import AutoImageProcessor, SiglipVisionModel, pipeline

    parts = {
        "model": SiglipVisionModel.from_pretrained(folder),
        "image_processor": AutoImageProcessor.from_pretrained(folder),
    }
    extract = pipeline("image-feature-extraction", **parts, batch_size=32)
    return lambda: sum(1 for _ in extract((str(path) for path in paths), pool=True))


def run_dataset(folder, paths, threads):
    import torch
    from torch.utils.data import DataLoader
    from transformers import AutoImageProcessor, SiglipVisionModel

    model, photos = (
        SiglipVisionModel.from_pretrained(folder).eval(),
        Photos(paths, AutoImageProcessor.from_pretrained(folder)),
    )

    def run():
        found = 0
        with torch.inference_mode():
            for pixels in DataLoader(photos, batch_size=32, num_workers=threads):
                found += len(model(pixel_values=pixels).pooler_output.numpy())
        return found

    return run


def run_sentences(folder, paths, threads):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")

    def run():
        found = 0
        for start in range(0, len(paths), 32):
            found += len(model.encode([opened(path) for path in paths[start : start + 32]], batch_size=32))
        return found

    return run


OTHERS = {"transformers": run_transformers, "dataset": run_dataset, "sentences": run_sentences}


def measure_other(what, photos, options):
    """As `measure`, of another library; the first run meets two pictures, and is not counted."""
    import torch

    from npsiglip.kernels.cpus import available

    torch.set_num_threads(available())
    paths = sorted(Path(photos).iterdir())
    OTHERS[what](options.model, paths[:2], available())()
    run = OTHERS[what](options.model, paths, available())
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000, time.monotonic()
    if run() != len(paths):
        raise SystemExit(f"{what} has not taken all pictures")
    seconds = time.monotonic() - begin
    return {"seconds": seconds, "before": before, "after": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000}


# -- ours -------------------------------------------------------------------------------------------------------------


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
    parser.add_argument("--photos", help="a folder of JPEGs to take instead of drawn ones")
    parser.add_argument("--copies", type=int, default=8, help="how many different pictures there are")
    parser.add_argument("--only", nargs="*", default=["decode", "model", "index", "fast"])
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        what, photos, index = options.measure
        found = measure_other(what, photos, options) if what in OTHERS else measure(what, photos, index, options)
        print(json.dumps(found))
        return
    width, height = map(int, options.size.split("x"))
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder, "photos")
        if options.photos:
            copy(photos, options.photos, options.count)
            sizes = [Image.open(path).size for path in photos.iterdir()]
        else:
            draw(photos, options.count, width, height, options.copies)
            sizes = [(width, height)] * options.count
        megapixels = sum(w * h for w, h in sizes) / 1e6
        for what in options.only:
            given = ["--measure", what, photos, Path(folder, what)]
            command = [sys.executable, __file__, *sys.argv[1:], *given]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            result = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, env=environment, check=True)
            found = json.loads(result.stdout)
            rate = rates[what] = options.count / found["seconds"]
            print(
                f"{what:12} {rate:8.2f} files/s {megapixels / found['seconds']:8.1f} megapixels/s   "
                f"memory {found['before']:.0f} -> {found['after']:.0f} MB",
                flush=True,
            )
    if {"decode", "model", "index"} <= rates.keys():
        limit = 1 / (1 / rates["decode"] + 1 / rates["model"])
        print(f"index is {rates['index'] / limit:.2f} of what decoding and the model allow together")


if __name__ == "__main__":
    main()
