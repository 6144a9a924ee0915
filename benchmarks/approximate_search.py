"""Approximate search by USearch beside the exact one: `python benchmarks/approximate_search.py`.

Rows as embeddings of a collection are: many groups of different sizes, whose members differ in few directions more than
in others, of unit norm, float16; queries are drawn in the same way. Rows of pure noise, in which nothing is near to
anything, are the hardest case of all (`--noise`). Told are the time of building, the size of the file, and for several
numbers of candidates the recall of the ten best and the time of a query, beside that of the exact search.
Needs `pip install 'npsiglip[usearch]'`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from npsiglip.collection.approximate import Approximate, recall, write_usearch
from npsiglip.collection.exact import Shards, search

K = 10
CHUNK, DIRECTIONS, GROUPS = 65_536, 48, 4096


def drawn(number, width, seed, noise):
    """Unit vectors [number, width], float32."""
    rng, same = np.random.default_rng([1, seed]), np.random.default_rng(0)
    x = rng.standard_normal((number, width), np.float32)
    if not noise:
        centres = same.standard_normal((GROUPS, width), np.float32)
        basis = same.standard_normal((DIRECTIONS, width), np.float32) / np.float32(np.sqrt(DIRECTIONS))
        groups = (GROUPS * rng.random(number) ** 2).astype(np.int64)  # the first ones are larger
        x = 0.7 * centres[groups] + rng.standard_normal((number, DIRECTIONS), np.float32) @ basis + 0.3 * x
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--times", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--folder", help="where the rows and the index are written")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "rows.npy")
        rows = np.lib.format.open_memmap(path, "w+", np.float16, (options.rows, options.width))
        for start in range(0, options.rows, CHUNK):
            number = min(CHUNK, options.rows - start)
            rows[start : start + number] = drawn(number, options.width, start, options.noise)
        shards, queries = (
            Shards([np.load(path, mmap_mode="r")]),
            drawn(options.queries, options.width, 2**32, options.noise),
        )
        begin = time.perf_counter()
        write_usearch(Path(folder, "x.usearch"), shards)
        size = Path(folder, "x.usearch").stat().st_size / 1e9
        print(f"{options.rows:,} rows: built in {time.perf_counter() - begin:.0f} s, {size:.2f} GB", flush=True)
        exact, times = search(shards, queries, K), []
        for query in queries[:20]:
            begin = time.perf_counter()
            search(shards, query[None], K)
            times.append(time.perf_counter() - begin)
        print(f"exact: {1e3 * statistics.median(times):.1f} ms a query", flush=True)
        approximate = Approximate(Path(folder, "x.usearch"), shards)
        for more in options.times:
            approximate.search(queries[:20], K, times=more)
            begin = time.perf_counter()
            found = approximate.search(queries, K, times=more)
            each = (time.perf_counter() - begin) / len(queries)
            print(f"{more * K} candidates: recall {recall(found, exact):.4f}, {1e3 * each:.2f} ms a query", flush=True)


if __name__ == "__main__":
    main()
