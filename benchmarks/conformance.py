"""What other implementations compute of the same weights: writes docs/conformance.md from measurements.

Each implementation that is installed is given the same weights and inputs, shows its intermediate results in the ways
of docs/verify.md, and is judged by `npsiglip.verify`. Rows are kept in `benchmarks/conformance.json`, so that a run
where others are installed adds to them:

    python benchmarks/conformance.py                          all that is installed, 20 inputs of the built-in model
    python benchmarks/conformance.py --model b16 --inputs 2   random weights of B/16-224 with outliers
    python benchmarks/conformance.py --only 'open_clip*'      some
    python benchmarks/conformance.py --write                  the page alone, from the rows that are there

Inputs are turns of random pixels and of random pictures, with two texts of random ids each.
"""

import argparse
import datetime
import gc
import importlib.metadata
import json
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository


from benchmarks.conformance_peers import IMPLEMENTATIONS, inputs_of, installed
from golden.random_folder import write as write_random
from npsiglip import SigLIP
from npsiglip.hub.resolve import model_folder
from npsiglip.variants import variant
from npsiglip.verify import Golden, compare
from npsiglip.verify.diagnose import LIMITS

ROWS = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "conformance.md"
MODELS = {"builtin": "the built-in model", "b16": "B/16-224, random weights, residual streams with outliers of 100"}
OUTLIER = 100.0


# -- judging ----------------------------------------------------------------------------------------------------------


def measured(name, dtype, folder, kind, number):
    """A row: what was said of an implementation, and the largest error of each operation in units of its floor."""
    packages, names, _, make = IMPLEMENTATIONS[name]
    model, start = SigLIP.from_pretrained(folder), time.perf_counter()
    traced = make(dtype)(folder)
    verdicts, worst, said, compared = {}, {}, [], 0
    for i, (pixels, ids) in enumerate(inputs_of(model, number)):
        report = compare(traced(pixels, ids), Golden(model, pixels, ids), model=model, names=names, dtype=dtype)
        verdicts[report.verdict] = verdicts.get(report.verdict, 0) + 1
        compared = report.coverage.compared
        if report.verdict != "conforms":
            said.append(f"input {i}: {report.sentence()}")
        for tap in report.taps:
            ratio = tap.added / tap.floor
            if ratio > worst.get(tap.operation, (0.0, ""))[0]:
                worst[tap.operation] = (round(ratio, 3), tap.tap)
    return {
        "model": kind,
        "implementation": name,
        "dtype": dtype,
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "inputs": number,
        "compared": compared,
        "verdicts": verdicts,
        "worst": worst,
        "said": said[:5],
        "seconds": round(time.perf_counter() - start),
        "date": datetime.date.today().isoformat(),
    }


# -- the page ---------------------------------------------------------------------------------------------------------


def cells(*values):
    """A line of a table."""
    return "| " + " | ".join(str(value) for value in values) + " |"


def page(rows):
    """docs/conformance.md."""
    lines = [
        "# What other implementations compute of the same weights",
        "",
        "Written by `python benchmarks/conformance.py` from what was measured, not by hand; rows are in",
        "[`benchmarks/conformance.json`](../benchmarks/conformance.json). Each implementation gets the same weights",
        "and inputs, shows its intermediate results, and [`npsiglip verify`](verify.md) judges each operation on the",
        "implementation's own input. A number is the largest added error of an operation over all inputs, in units of",
        "its noise floor; up to the limit it is rounding: "
        + ", ".join(f"{limit:g} in {dtype}" for dtype, limit in LIMITS.items())
        + ".",
        "",
    ]
    lines += [
        "Where not all inputs conform, what was said stands below the tables. open_clip and timm compute GELU in its",
        "exact form in this image tower, where the weights' own configuration has tanh. NNCF gives activations one",
        "range a tensor, fixed beforehand on ten other inputs: it rounds more than 8 bits must, and clips.",
        "",
    ]
    for kind, title in MODELS.items():
        chosen = [row for row in rows if row["model"] == kind]
        if not chosen:
            continue
        lines += [f"## {title[0].upper()}{title[1:]}", ""]
        lines += [cells("implementation", "type", "inputs", "taps", "conform", "most of its floor", "at", "limit")]
        lines += [cells(*["---"] * 8)]
        for row in chosen:
            ratio, tap = max(row["worst"].values(), key=lambda pair: pair[0])
            conform = f"{row['verdicts'].get('conforms', 0)} of {row['inputs']}"
            lines.append(
                cells(row["implementation"], row["dtype"], row["inputs"], row["compared"], conform, f"{ratio:.2f}",
                      f"`{tap}`", f"{LIMITS[row['dtype']]:g}")
            )  # fmt: skip
        kinds = sorted({kind for row in chosen for kind in row["worst"]})
        lines += ["", "By operation:", "", cells("implementation", "type", *(f"`{kind}`" for kind in kinds))]
        lines += [cells(*["---"] * (len(kinds) + 2))]
        for row in chosen:
            ratios = [f"{row['worst'][kind][0]:.2f}" if kind in row["worst"] else "" for kind in kinds]
            lines.append(cells(row["implementation"], row["dtype"], *ratios))
        lines.append("")
        for row in chosen:
            lines += [f"{row['implementation']}, {row['dtype']}: {sentence}\n" for sentence in row["said"][:1]]
    lines += ["## Versions", "", cells("implementation", "versions", "measured"), cells("---", "---", "---")]
    for line in dict.fromkeys(
        cells(
            row["implementation"],
            ", ".join(f"{package} {version}" for package, version in row["versions"].items()),
            row["date"],
        )
        for row in rows
    ):
        lines.append(line)
    return "\n".join(lines) + "\n"


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="builtin")
    parser.add_argument("--inputs", type=int, default=20)
    parser.add_argument("--only", default="*", metavar="GLOB", help="such as 'transformers, eager float32' or '*int8'")
    parser.add_argument("--write", action="store_true", help="measure nothing")
    options = parser.parse_args()
    rows = json.loads(ROWS.read_text(encoding="utf-8")) if ROWS.exists() else []
    with tempfile.TemporaryDirectory() as place:
        folder = model_folder("builtin")
        if options.model == "b16" and not options.write:
            folder = Path(place)
            write_random(folder, variant("siglip-base-patch16-224"), outlier=OUTLIER)
        for name, (packages, _, dtypes, _) in IMPLEMENTATIONS.items():
            for dtype in dtypes:
                if options.write or not installed(packages) or not fnmatchcase(f"{name} {dtype}", options.only):
                    continue
                try:
                    row = measured(name, dtype, str(folder), options.model, options.inputs)
                except Exception as error:
                    print(f"{name}, {dtype}: {error}", file=sys.stderr, flush=True)
                    continue
                print(json.dumps(row), flush=True)
                key = [row[part] for part in ("model", "implementation", "dtype")]
                rows = [old for old in rows if [old[part] for part in ("model", "implementation", "dtype")] != key]
                rows = sorted([*rows, row], key=lambda row: (list(MODELS).index(row["model"]), order_of(row)))
                ROWS.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
                gc.collect()
    PAGE.write_text(page(rows), encoding="utf-8")


def order_of(row):
    """Where a row stands among its model's."""
    return list(IMPLEMENTATIONS).index(row["implementation"]), list(LIMITS).index(row["dtype"])


if __name__ == "__main__":
    main()
