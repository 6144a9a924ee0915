"""Probabilities in collections before and after `npsiglip calibrate`: `benchmarks/calibrated_collection.py DATA`.

Each source of `benchmarks/what_it_knows.py` is a collection, the names of its classes are queries. A pair is one of a
query and one of the 20 pictures that it finds first, or of 20 others drawn at random: what somebody who labels pairs is
shown. 200 pairs drawn at random are labelled, all others are held out; with `--other-queries` the labelled ones are of
one half of the queries and those held out of the other half, which is harder if a source has few. Told is the expected
calibration error there (15 bins of equal width), for the model's own scale and bias, for those fitted to the labelled
pairs, and for the bias fitted alone; in the median of several draws, and from the best to the worst. The error of few
pairs is not 0 even where probabilities are right: `chance` is that of matches drawn with the fitted probabilities.
`--plot FILE` draws the reliability of the first draw.
"""

import argparse
import statistics
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

from benchmarks.what_it_knows import embedded, right_of, sources
from npsiglip import SigLIP
from npsiglip.collection.calibrate import fit, of_model, separation
from npsiglip.evaluation.scores import calibration

FIRST, OTHERS = 20, 20
LABELLED = 200
WAYS = ("the model's own", "bias alone", "scale and bias")


def shown_pairs(cosines, right, rng):
    """Queries, pictures: what is shown of each query, [n] each."""
    queries, pictures = [], []
    for query, row in enumerate(cosines.T):
        best = np.argsort(-row, kind="stable")[:FIRST]
        left = np.setdiff1d(np.arange(len(row)), best)
        chosen = np.concatenate([best, rng.choice(left, min(OTHERS, len(left)), replace=False)])
        queries.append(np.full(len(chosen), query))
        pictures.append(chosen)
    return np.concatenate(queries), np.concatenate(pictures)


def draw(cosines, right, model, seed, other_queries):
    """Calibration on held-out pairs by each way, and by chance; the part of these pairs that match."""
    rng, own = np.random.default_rng(seed), of_model(model)
    queries, pictures = shown_pairs(cosines, right, rng)
    half = np.isin(queries, rng.permutation(cosines.shape[1])[: cosines.shape[1] // 2])
    here = rng.permutation(np.flatnonzero(half) if other_queries else len(queries))[:LABELLED]
    held_out = ~half if other_queries else ~np.isin(np.arange(len(queries)), here)
    x, y = cosines[pictures[here], queries[here]], right[pictures[here], queries[here]]
    ways = {"the model's own": own}
    if y.any():
        ways["bias alone"] = fit(x, y, own.scale)
    if y.any() and not separation(x, y):
        ways["scale and bias"] = fit(x, y)
    x, y = (of[pictures[held_out], queries[held_out]] for of in (cosines, right))
    found = {way: calibration(found.probabilities(x), y) for way, found in ways.items()}
    p = list(ways.values())[-1].probabilities(x)
    return found | {"chance": calibration(p, rng.random(len(p)) < p)}, y.mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--draws", type=int, default=15)
    parser.add_argument("--limit", type=int, help="pictures of each source")
    parser.add_argument("--other-queries", action="store_true")
    parser.add_argument("--plot", type=Path)
    options = parser.parse_args()
    model, drawn = SigLIP.from_pretrained(options.model), {}
    for one in sources(options.data, options.limit):
        names = list(dict.fromkeys(one.names["en"][label] for label in one.labels))  # that a picture has
        right = right_of(one.labels, one.names["en"])[:, [one.names["en"].index(name) for name in names]]
        cosines = embedded(model, one.pictures).astype(np.float64) @ model.encode_text(names).T
        found = [draw(cosines, right, model, seed, options.other_queries) for seed in range(options.draws)]
        drawn[one.name] = {way: found[0][0][way] for way in WAYS if way in found[0][0]}
        print(f"{one.name}: {len(one.pictures)} pictures, {len(names)} queries, {found[0][1]:.1%} of pairs match")
        for way in (*WAYS, "chance"):
            errors = [reports[way].ece for reports, _ in found if way in reports]
            if errors:
                middle = statistics.median(errors)
                spread = f"{min(errors):.4f} to {max(errors):.4f}, {len(errors)} draws"
                print(f"    {way:16} error {middle:.4f} ({spread})", flush=True)
    if options.plot:
        plot(options.plot, drawn)


def plot(path, drawn):
    """Reliability, a panel for each source."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    _, panels = pyplot.subplots(2, 4, figsize=(14, 7), constrained_layout=True, sharex=True, sharey=True)
    for axes, (name, reports) in zip(panels.flat, drawn.items(), strict=False):
        axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
        for way, found in reports.items():
            axes.plot(found.probability, found.matched, marker="o", markersize=3, label=way)
        axes.set(title=name, xlabel="probability", ylabel="part that matches")
    for axes in panels.flat[len(drawn) :]:
        axes.set_axis_off()
    panels.flat[0].legend()
    pyplot.savefig(path, dpi=80)


if __name__ == "__main__":
    main()
