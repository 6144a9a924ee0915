"""How long `npsiglip search` takes from the shell, and its memory: `python benchmarks/search_start.py`.

Random rows are imported as an index of a model with random weights (`--variant`, stored in int8), and searched by
words, again and again, each time by a new process; files are in the system's cache, as after a first search. Memory is
the highest count of the system while it runs: `own` is what the process has for itself (RssAnon), `mapped` what it has
seen of files, rows of the index among them, which the system takes back when it needs to (RssFile); looked at
each 2 ms.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

from golden.random_folder import write
from npsiglip.convert.quantize import quantize_folder
from npsiglip.variants import variant

CHUNK = 65_536


def write_rows(path, rows, width):
    """Unit vectors as .npy, float16, and names beside it."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(rows, width))
    for start in range(0, rows, CHUNK):
        part = np.random.default_rng([1, start]).standard_normal((min(CHUNK, rows - start), width), np.float32)
        out[start : start + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    out.flush()
    path.with_suffix(".txt").write_text("".join(f"photos/{i:08}.jpg\n" for i in range(rows)))


def command(*arguments):
    return [sys.executable, "-c", "from npsiglip.cli import main; main()", *map(str, arguments)]


def sizes(process):
    """Megabytes of RssAnon and RssFile, now."""
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except OSError:
        return 0.0, 0.0
    found = {line.split(":")[0]: int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith("Rss")}
    return found.get("RssAnon", 0.0), found.get("RssFile", 0.0)


def run(*arguments, watched=False):
    """Seconds, and the highest sizes where they are watched, which takes time."""
    begin, highest = time.perf_counter(), (0.0, 0.0)
    with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        while watched and process.poll() is None:
            highest = tuple(map(max, highest, sizes(process)))
            time.sleep(0.002)
        out, error = process.communicate()
    if process.returncode or (arguments[0] == "search" and not out):
        raise SystemExit(error.decode())
    return time.perf_counter() - begin, highest


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="siglip-base-patch16-224")
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", help="where the rows are written; several gigabytes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        place = Path(name)
        write(place / "float", variant(options.variant))
        quantize_folder(place / "float", place / "int8")
        width = variant(options.variant).text.projection_dim
        for rows in options.rows:
            write_rows(place / "rows.npy", rows, width)
            index = place / f"index-{rows}"
            importing = "index", "import", place / "rows.npy", "-i", index, "--model", place / "int8"
            seconds, (own, _) = run(*importing, watched=True)
            print(f"{rows} x {width} float16: import takes {seconds:.1f} s, {own:.0f} MB", flush=True)
            (place / "rows.npy").unlink()
            search = "search", "a photo of a cat", "-i", index
            first, _ = run(*search)
            times = [run(*search)[0] for _ in range(options.rounds)]
            _, (own, mapped) = run(*search, watched=True)
            print(
                f"search: first {first:.2f} s, then {statistics.median(times):.2f} s ({min(times):.2f} to "
                f"{max(times):.2f}); memory {own:.0f} MB own, {mapped:.0f} MB mapped",
                flush=True,
            )


if __name__ == "__main__":
    main()
