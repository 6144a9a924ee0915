"""How well the verifier finds planted mistakes: `python benchmarks/verify_mistakes.py [--model M] [--dtype D]`.

A port is npsiglip's own arithmetic in that type, with some operations replaced. What is planted, and what counts:

    alone       each mistake of the catalogue: located at the first tap that it changes, and named first
    pairs       pairs drawn at random, none of both at one operation: the first located, both named
    half        each alone, every tap left out with a chance of one half: located between the taps that are shown
    unknown     mistakes that no line of the catalogue has (tests/helpers/planted.py): located, and not named

Pixels are random, texts are padded as SigLIP pads. Needs no framework; `--json FILE` keeps what was found.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

import numpy as np

from npsiglip.hub.resolve import model_folder
from npsiglip.verify.mistakes import BY_NAME, CATALOGUE
from tests.helpers.golden_data import TINY
from tests.helpers.planted import UNKNOWN, acts_at, judged, port, truth_of, usable

MODELS, DTYPES, KINDS = ("tiny", "builtin"), ("float32", "bfloat16"), ("alone", "pairs", "half", "unknown")
PAIRS, SEED = 50, 5


class Trial(NamedTuple):
    """What was planted, whether it was found where it is, whether it was named, and what was said."""

    planted: str
    located: bool
    named: bool
    said: str


class Bench:
    """A model, a type, and the mistakes that change anything in it."""

    def __init__(self, model: str, dtype: str) -> None:
        folder = TINY if model == "tiny" else model_folder("builtin")
        self.dtype = dtype
        self.truth, self.golden = truth_of(folder)
        self.usable = usable(folder)
        self.order = [op.tap for op in self.truth.ops]

    def judge(self, mistakes, shown=None):
        """The first tap that diverges, the names, and all taps; of the taps in `shown`, or of all."""
        candidate = port(self.truth, self.dtype, mistakes)
        if shown is not None:
            candidate = {tap: value for tap, value in candidate.items() if tap in shown}
        return judged(self.truth, self.golden, candidate, self.dtype)

    def alone(self) -> Iterator[Trial]:
        """Every mistake of the catalogue that can be made in this model."""
        for name, taps in self.usable.items():
            first, names, _ = self.judge([BY_NAME[name]])
            yield Trial(name, first == taps[0], names[:1] == [name], f"{first}: {', '.join(names) or 'unknown'}")

    def pairs(self) -> Iterator[Trial]:
        """Fifty pairs."""
        rng, done = np.random.default_rng(SEED), 0
        while done < PAIRS:
            one, other = (BY_NAME[str(name)] for name in rng.choice(list(self.usable), 2, replace=False))
            if any(one.change(op) and other.change(op) for op in self.truth.ops):
                continue
            done += 1
            wanted = min((self.usable[m.name][0] for m in (one, other)), key=self.order.index)
            first, names, _ = self.judge([one, other])
            both = {one.name, other.name} <= set(names)
            yield Trial(
                f"{one.name} + {other.name}", first == wanted, both, f"{first}: {', '.join(names) or 'unknown'}"
            )

    def half(self) -> Iterator[Trial]:
        """Every mistake, with half of the taps left out."""
        rng = np.random.default_rng(SEED + 1)
        for name, acting in self.usable.items():
            shown = {tap for tap in self.order if rng.random() < 0.5} | {"zimg", "ztxt", "logits", "probs"}
            first, names, taps = self.judge([BY_NAME[name]], shown)
            wanted = next((tap.tap for tap in taps if set(acting) & set(tap.stretch)), None)
            yield Trial(name, first == wanted, names[:1] == [name], f"{first}: {', '.join(names) or 'unknown'}")

    def unknown(self) -> Iterator[Trial]:
        """What is in no line of the catalogue; being called unknown counts as being named."""
        for mistake in UNKNOWN:
            first, names, _ = self.judge([mistake])
            wanted = acts_at(self.truth, self.golden, mistake)[0]
            yield Trial(mistake.name, first == wanted, not names, f"{first}: {', '.join(names) or 'unknown'}")


def share(trials: Sequence[Trial], what: str) -> str:
    """Of how many something is true."""
    return f"{sum(getattr(trial, what) for trial in trials)} of {len(trials)}"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, action="append", help="default: both")
    parser.add_argument("--dtype", choices=DTYPES, action="append", help="default: both")
    parser.add_argument("--kind", choices=KINDS, action="append", help="default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial")
    options = parser.parse_args()
    found = {}
    print("| model | type | planted | located | named (unknown: not named) | seconds |\n|---|---|---|---|---|---|")
    for model in options.model or MODELS:
        for dtype in options.dtype or DTYPES:
            bench = Bench(model, dtype)
            for kind in options.kind or KINDS:
                start = time.perf_counter()
                trials = list(getattr(bench, kind)())
                seconds = time.perf_counter() - start
                row = [model, dtype, kind, share(trials, "located"), share(trials, "named"), f"{seconds:.0f}"]
                print("| " + " | ".join(row) + " |", flush=True)
                for trial in trials:
                    if not (trial.located and trial.named):
                        print(f"    {trial.planted} -> {trial.said}", file=sys.stderr, flush=True)
                found[f"{model} {dtype} {kind}"] = [trial._asdict() for trial in trials]
            left = [mistake.name for mistake in CATALOGUE if mistake.name not in bench.usable]
            print(f"    not in this model: {', '.join(left)}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
