"""How the time of the image tower grows with the batch and with the tokens: `python benchmarks/scaling.py`.

B/16, random weights. First the time of an image in batches of 1 to 64; it should be flat. Then one image of 196 to
4,096 tokens, beside the operations of the tower: linear layers grow with the tokens, attention with their square.

With `--plot FILE`, a picture of both; needs matplotlib (`pip install 'npsiglip[bench]'`).
"""

import argparse
import statistics
import time
from dataclasses import replace

import numpy as np

from npsiglip import SigLIP
from npsiglip.bench.engines.limits import Limits
from npsiglip.bench.flop import image_flop
from npsiglip.params import random_params
from npsiglip.variants import variant

BATCHES = (1, 2, 4, 8, 16, 32, 64)
SIZES = (224, 432, 512, 768, 1024)  # 196, 729, 1,024, 2,304 and 4,096 tokens


def seconds(function):
    """Of one run."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def measure(model, pixels, limit, rounds):
    """Median seconds, and the median of what each run was of the limit around it, per operation."""
    for _ in range(3):
        model.encode_image(pixels, normalize=False)
    times, fractions, rate = [], [], limit.work / seconds(limit.function)
    for _ in range(rounds):
        times.append(seconds(lambda: model.encode_image(pixels, normalize=False)))
        rate, before = limit.work / seconds(limit.function), rate
        fractions.append(1 / times[-1] / (0.5 * (rate + before)))
    return statistics.median(times), statistics.median(fractions)


def pixels_of(batch, size):
    """Random pixels [N, 3, S, S]."""
    return 2 * np.random.default_rng(0).random((batch, 3, size, size), np.float32) - 1


def plot(file, dtype, batches, tokens):
    """A picture of both tables."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    left.plot(*zip(*((n, 1e3 * t) for n, t, _ in batches), strict=True), "o-")
    top = 1.2e3 * max(t for _, t, _ in batches)
    left.set(xscale="log", xlabel="images in a batch", ylabel="ms for each image", ylim=(0, top), title=dtype)
    left.set_xticks(BATCHES, BATCHES, minor=False)
    right.plot(*zip(*((n, t) for n, t, _, _ in tokens), strict=True), "o-", label="seconds")
    first = tokens[0]
    right.plot(
        *zip(*((n, first[1] * flop / first[2]) for n, _, flop, _ in tokens), strict=True),
        "--", label="operations, scaled to the first",
    )  # fmt: skip
    right.set(xscale="log", yscale="log", xlabel="tokens of one image", title=dtype)
    right.legend()
    right.set_xticks([n for n, *_ in tokens], [f"{n:,}" for n, *_ in tokens])
    for axes in (left, right):
        axes.xaxis.minorticks_off()
    figure.savefig(file, dpi=100)


def main():
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--plot", metavar="FILE")
    options = parser.parse_args()
    limit = Limits(options.dtype).prepare(f"multiply_add:{options.threads}", None)
    largest = replace(variant("siglip-base-patch16-224"), text=None)
    largest = replace(largest, image=replace(largest.image, image_size=max(SIZES)))
    params = random_params(largest, seed=0)

    def model_of(size):
        config = replace(largest, image=replace(largest.image, image_size=size))
        own = {**params, "image.pos_embed": params["image.pos_embed"][: config.image.seq_len]}
        return config.image, SigLIP(config, own, threads=options.threads, dtype=options.dtype)

    print(f"{options.dtype}, {options.threads} threads, {options.rounds} rounds\n\nbatch  ms for each image  of limit")
    image, model = model_of(SIZES[0])
    batches = []
    for batch in BATCHES:
        time_, fraction = measure(model, pixels_of(batch, SIZES[0]), limit, options.rounds)
        batches.append((batch, time_ / batch, fraction * batch * image_flop(image)))
        print(f"{batch:5}  {1e3 * time_ / batch:17.1f}  {100 * batches[-1][2]:7.1f}%", flush=True)
    print("\ntokens         ms     GFLOP  of limit")
    tokens = []
    for size in SIZES:
        image, model = model_of(size)
        time_, fraction = measure(model, pixels_of(1, size), limit, options.rounds)
        tokens.append((image.seq_len, time_, image_flop(image), fraction * image_flop(image)))
        print(
            f"{image.seq_len:6}  {1e3 * time_:9.1f}  {image_flop(image) / 1e9:8.0f}  {100 * tokens[-1][3]:7.1f}%",
            flush=True,
        )
    if options.plot:
        plot(options.plot, options.dtype, batches, tokens)


if __name__ == "__main__":
    main()
