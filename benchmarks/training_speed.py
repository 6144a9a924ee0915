"""Pairs trained in a second, beside PyTorch: `python benchmarks/training_speed.py`.

A step is forward, loss, backward, the norm of all gradients, and AdamW with clipping. Both sides are given the same
weights, pairs, rate and number of threads, in float32. PyTorch trains transformers' SiglipModel with torch.optim.AdamW,
each in its best setting: attention (SDPA, eager) and optimiser (fused, foreach) are tried, and the fastest pair is
kept, and its memory is not given back to the system between steps; `--compile` adds torch.compile, which takes a
minute. Each side is a process of its own; whoever is not timed waits in a read. Rounds of a step each, in changing
order; after the rounds the losses are compared: times of who computed something else are not shown.

`--pictures` measures a training as it is, pictures included: every step has other ones, which two processes draw,
augment and tokenise ahead, with the same code and at the same low priority on both sides; they come through npsiglip's
own pipes, or through torch's DataLoader, in their fastest setting as above. They are the world's, or those of
`--pictures FOLDER`, a folder of classes. A round is a whole training of `--steps` steps, of which the first ones, which
find pictures waiting, are left out. More than some 30 steps cannot be compared: after 60, weights that were moved by a
last place have a loss that differs by 0.15 %, and after 120 by 2 %.

`--sweep` shows the cost of a step against the batch, `--plot FILE` draws it; that needs matplotlib. `--bfloat16` adds
npsiglip with products in bfloat16, which is not the same arithmetic. `--engine-only` leaves out the optimisers. Needs
transformers and torch (`pip install 'npsiglip[bench]'`), or `--peer-python`, a Python that has them and what npsiglip
needs.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

import numpy as np

from benchmarks.training_sides import (
    APART,
    APART_NARROW,
    BATCHES,
    CONFIG,
    ENVIRONMENT,
    PAUSE,
    SETTLE,
    SIDES,
    WORLD,
    seconds,
    settings_of,
    source_of,
)
from npsiglip.bench.engines.limits import Limits
from npsiglip.bench.flop import image_flop, text_flop
from npsiglip.bench.process import Worker
from npsiglip.bench.stats import ratio, summarize
from npsiglip.bench.worker import serve
from npsiglip.params import count_params, random_params
from npsiglip.save import save_folder


def rounds_of(workers, batch, rounds):
    """Settings, and the seconds of each step, of all sides, alternating."""
    times = {name: [] for name in workers}
    settings = {
        name: worker.ask("prepare", case=str(batch), inputs=None)["setting"] for name, worker in workers.items()
    }
    for i in range(rounds + 1):
        order = list(workers) if i % 2 else list(reversed(workers))
        for name in order:
            time.sleep(PAUSE)
            took = workers[name].ask("time", case=str(batch))["seconds"]
            if i:  # the first one warms up
                times[name].append(took)
    return settings, times


def check_losses(losses):
    """Refuse to compare sides that did not take the same steps, but for rounding."""
    ours = losses["npsiglip"]
    for name, loss in losses.items():
        if not abs(loss - ours) <= (APART_NARROW if name == "in bfloat16" else APART) * abs(ours):
            raise SystemExit(f"the loss of {name} is {loss}, ours is {ours}: not the same steps, nothing to compare")
    return ours


def with_pictures(workers, folder, pictures, batch, steps, rounds):
    """A table of whole trainings, in rounds of changing order."""
    from npsiglip.train.tokenizer import train_tokenizer

    config = settings_of(pictures, batch, steps)
    train_tokenizer(source_of(config).captions(2000), CONFIG.text.vocab_size, Path(folder) / "spiece.model")
    times, settings, losses = {name: [] for name in workers}, {}, {}
    for i in range(rounds):
        for name in list(workers) if i % 2 else list(reversed(workers)):
            settings[name] = workers[name].ask("prepare", case=f"{batch}:{steps}", inputs=None)["setting"]
            file = Path(folder) / "steps.npy"
            workers[name].ask("output", case=f"{batch}:{steps}", file=str(file))
            seconds_each, loss = np.load(file).T
            times[name].append(float(seconds_each[SETTLE:].mean()))
            losses[name] = float(loss[-1])
        check_losses(losses)
    what = "the world's" if pictures == WORLD else pictures
    print(f"batch {batch}, {rounds} rounds of {steps} steps; pictures: {what}; loss {losses['npsiglip']:.4f} at last\n")
    print_rows(batch, times, settings)


def loss_of_all(workers, batch):
    """The loss of one more step. All sides must have taken the same ones, but for rounding."""
    losses = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, worker in workers.items():
            file = Path(folder) / f"{name}.npy"
            worker.ask("output", case=str(batch), file=str(file))
            losses[name] = float(np.load(file))
    return check_losses(losses)


def print_rows(batch, times, settings):
    """A line for each side."""
    print(f"{'':16}{'ms a step':>10}{'quartiles':>20}{'pairs/s':>9}{'ours / it':>11}  in each round")
    for name, values in times.items():
        all_ = summarize([1e3 * value for value in values])
        line = f"{name:16}{all_.median:10.1f}{f'{all_.q1:.1f} - {all_.q3:.1f}':>20}{1e3 * batch / all_.median:9.0f}"
        if name != "npsiglip":
            both = ratio(times["npsiglip"], values)
            each = both.per_round
            line += f"{both.of_medians:11.3f}  {each.median:.3f} ({each.q1:.3f} - {each.q3:.3f})   {settings[name]}"
        print(line)


def report(batch, rounds, settings, times, loss, limit):
    """A table of one batch."""
    flop = 3 * batch * (image_flop(CONFIG.image) + text_flop(CONFIG.text))
    print(f"batch {batch}, {rounds} rounds; loss {loss:.4f} at last\n")
    print_rows(batch, times, settings)
    rate = flop / statistics.median(times["npsiglip"])
    print(f"\nnpsiglip: {rate / 1e9:.0f} GFLOP/s, {100 * rate / limit:.0f} % of multiply-adds on registers")


def sweep(workers, batches, rounds):
    """Milliseconds of a step against the batch, of all sides: a row for each batch."""
    names = list(workers)
    print(f"\n{'batch':>6}" + "".join(f"{name + ' ms':>18}{'us a pair':>11}" for name in names) + f"{'ours / it':>12}")
    rows = []
    for batch in batches:
        _, times = rounds_of(workers, batch, rounds)
        medians = [statistics.median(times[name]) for name in names]
        cells = "".join(f"{1e3 * median:18.1f}{1e6 * median / batch:11.0f}" for median in medians)
        print(f"{batch:6}{cells}" + "".join(f"{medians[0] / other:12.3f}" for other in medians[1:]), flush=True)
        rows.append((batch, *medians))
    return names, rows


def plot(file, names, rows):
    """A picture of the sweep."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    batches = [row[0] for row in rows]
    for i, name in enumerate(names, 1):
        left.plot(batches, [1e3 * row[i] for row in rows], "o-", label=name)
        right.plot(batches, [row[0] / row[i] for row in rows], "o-", label=name)
    left.set(xscale="log", yscale="log", xlabel="pairs in a batch", ylabel="ms for each step")
    right.set(xscale="log", xlabel="pairs in a batch", ylabel="pairs in a second")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.set_xticks(batches, batches, minor=False)
        axes.xaxis.minorticks_off()
        axes.legend()
    figure.savefig(file, dpi=100)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pictures", nargs="?", const=WORLD, default="", metavar="FOLDER", help="whole trainings")
    parser.add_argument("--steps", type=int, default=30, help="of a round with --pictures (%(default)s)")
    parser.add_argument("--engine-only", action="store_true", help="without the optimisers")
    parser.add_argument("--compile", action="store_true", help="torch.compile beside them")
    parser.add_argument("--bfloat16", action="store_true", help="npsiglip with products in bfloat16 beside them")
    parser.add_argument(
        "--sweep", action="store_true", help=f"batches of {', '.join(map(str, BATCHES))}, 3 rounds each"
    )
    parser.add_argument("--plot", metavar="FILE", help="of the sweep")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PYTHON", help="that has torch")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)  # a worker
    options = parser.parse_args()
    if options.side:
        serve(
            lambda folder, dtype, threads, say: SIDES[options.side](
                folder, threads, not options.engine_only, options.pictures
            )
        )
        return
    if options.pictures and options.steps <= SETTLE:
        parser.error(f"--steps must be above {SETTLE}, of which the first ones are left out")
    rest = [__file__, *(["--engine-only"] if options.engine_only else []), "--pictures", options.pictures, "--side"]
    asked = {"torch.compile": options.compile, "in bfloat16": options.bfloat16}
    names = [name for name in SIDES if asked.get(name, True)]
    print(f"{count_params(CONFIG) / 1e6:.2f} M parameters, {options.threads} threads, float32")
    with tempfile.TemporaryDirectory() as folder:
        params = random_params(CONFIG, seed=0)
        params |= {"t_prime": np.float32(np.log(10)), "bias": np.float32(-10)}
        save_folder(folder, CONFIG, params, "float32")
        pythons = {name: options.peer_python if name.startswith("torch") else sys.executable for name in names}
        workers = {name: Worker(name, [python, *rest, name], ENVIRONMENT, print) for name, python in pythons.items()}
        try:
            for worker in workers.values():
                worker.ask("load", folder=folder, dtype="float32", threads=options.threads)
            if options.pictures:
                with_pictures(workers, folder, options.pictures, options.batch, options.steps, options.rounds)
                return
            settings, times = rounds_of(workers, options.batch, options.rounds)
            loss = loss_of_all(workers, options.batch)
            limit = Limits("float32").prepare(f"multiply_add:{options.threads}", None)
            rate = limit.work / statistics.median(seconds(limit.function) for _ in range(9))
            report(options.batch, options.rounds, settings, times, loss, rate)
            if options.sweep or options.plot:
                result = sweep(workers, BATCHES, 3)
                if options.plot:
                    plot(options.plot, *result)
        finally:
            for worker in workers.values():
                worker.__exit__()


if __name__ == "__main__":
    main()
