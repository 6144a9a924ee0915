"""Whole processes from start to end: `python benchmarks/cli_wall_time.py --peer-python PYTHON`.

Times `npsiglip classify` beside the same job in transformers (`transformers_classify.py`), one image and three labels
on a B/16-224 folder with random weights; and what every command pays before it does anything. All commands take
turns in changing order. The first run of each is not counted: it compiles kernels, writes bytecode, and brings the
files into the system's cache. Both jobs must give the same probabilities.

Without --peer-python, transformers is left out.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from npsiglip.bench.stats import Ratio, Summary, ratio, summarize

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # for `from golden import ...`

LABELS = ["a cat", "two dogs", "a red car"]
OURS, PEER = "npsiglip classify", "transformers, the same job"
ABSOLUTE, RELATIVE = 1e-4, 1e-3  # of probabilities; most of a sigmoid's are so small that only the second can fail

# To show: `import npsiglip` at most 50 ms above `import numpy`, --help below 0.3 s, classify in at most a third.


def write_picture(path: Path) -> None:
    """A photo's size, and nothing that compresses well."""
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def commands(folder: Path, picture: Path, threads: int, peer_python: str | None) -> dict[str, list[str]]:
    """What is timed, by name."""
    python = [sys.executable]
    labels = [word for label in LABELS for word in ("-l", label)]
    job = ["-m", "npsiglip", "classify", str(picture), *labels, "--model", str(folder), "--threads", str(threads)]
    found = {
        "python, nothing": [*python, "-c", ""],
        "import numpy": [*python, "-c", "import numpy"],
        "import npsiglip": [*python, "-c", "import npsiglip"],
        "npsiglip --help": [*python, "-m", "npsiglip", "--help"],
        OURS: [*python, *job, "--json"],
    }
    if peer_python:
        script = str(Path(__file__).with_name("transformers_classify.py"))
        found[PEER] = [peer_python, script, str(folder), str(threads), str(picture), *LABELS]
    return found


def run(command: Sequence[str]) -> tuple[float, str]:
    """The seconds that a command takes, and what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if result.returncode:
        sys.exit(f"{command} failed:\n{result.stderr}")
    return seconds, result.stdout


def probabilities(output: str) -> list[float]:
    """In the order of the labels."""
    scores = {score["label"]: score["score"] for score in json.loads(output)["scores"]}
    return [scores[label] for label in LABELS]


def check_same(ours: str, theirs: str) -> None:
    """Refuse to compare the times of two different results."""
    a, b = probabilities(ours), probabilities(theirs)
    if not np.allclose(a, b, atol=0, rtol=RELATIVE) or not np.allclose(a, b, atol=ABSOLUTE, rtol=0):
        sys.exit(f"the probabilities differ: {a} and {b}")
    print(f"same probabilities: {a} and {b}")


def measure(todo: Mapping[str, Sequence[str]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every counted run."""
    outputs = {name: run(command)[1] for name, command in todo.items()}
    if PEER in todo:
        check_same(outputs[OURS], outputs[PEER])
    times: dict[str, list[float]] = {name: [] for name in todo}
    order, names = random.Random(0), list(todo)
    for _ in range(rounds):
        order.shuffle(names)
        for name in names:
            times[name].append(run(todo[name])[0])
    return times


def lines(times: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """The results in seconds."""

    def row(name: str, summary: Summary) -> str:
        return f"{name:28} {summary.median:8.3f} {f'{summary.q1:.3f} - {summary.q3:.3f}':>16} {summary.min:8.3f}"

    yield f"{'seconds':28} {'median':>8} {'quartiles':>16} {'min':>8}"
    for name, seconds in times.items():
        yield row(name, summarize(seconds))
    above = [1e3 * (a - b) for a, b in zip(times["import npsiglip"], times["import numpy"], strict=True)]
    yield f"import npsiglip above import numpy, in each round: {summarize(above).median:.1f} ms"
    if PEER in times:
        result: Ratio = ratio(times[OURS], times[PEER])
        rounds = result.per_round
        yield (
            f"classify, ours / transformers: {result.of_medians:.3f}; in each round {rounds.median:.3f} "
            f"({rounds.q1:.3f} - {rounds.q3:.3f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a folder that both load; default: B/16-224, random, made anew")
    parser.add_argument("--peer-python", help="a Python that has torch and transformers")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model
        if folder is None:
            from golden import random_folder
            from npsiglip.variants import variant

            folder = Path(scratch) / "model"
            random_folder.write(folder, variant("siglip-base-patch16-224"))
        picture = Path(scratch) / "picture.png"
        write_picture(picture)
        times = measure(commands(folder, picture, options.threads, options.peer_python), options.rounds)
    print("\n".join(lines(times)))


if __name__ == "__main__":
    main()
