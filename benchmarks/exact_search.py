"""Exact search beside others and beside reading alone: `python benchmarks/exact_search.py`.

1,000,000 rows of 768 numbers, one query and 64, the ten best, two threads. In turn, each in a process of its own that
stays there, so that all meet the same machine:

    read        every row is read once, and nothing computed: what the memory allows
    own         `npsiglip.collection.exact.search`
    faiss       `IndexFlatIP`; of float16: `IndexScalarQuantizer`; needs `pip install 'npsiglip[faiss]'`
    usearch     `usearch.index.search(exact=True)`; needs `pip install 'npsiglip[usearch]'`

Rows are a file that is mapped, as in a collection; FAISS copies it. `--memory`: all copy it, which takes four times as
much memory. "first" is the first search, which meets pages that are not mapped yet. The ratios are medians of what each
round gave. Engines that are not installed are left out. The file is removed at the end.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np

K = 10
CHUNK = 65_536
ENGINES = ("read", "own", "faiss", "usearch")


def write_rows(path, rows, width, dtype):
    """Unit vectors as .npy, a part at a time."""
    out = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, width))
    for start in range(0, rows, CHUNK):
        part = np.random.default_rng([1, start]).standard_normal((min(CHUNK, rows - start), width), np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
        out[start : start + len(part)] = part
    out.flush()


def queries_of(number, width):
    x = np.random.default_rng(2).standard_normal((number, width), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


# -- engines: what makes a function of the queries, which returns the numbers [Q, K] of rows ---------------------------


def make_read(rows, threads):
    import numba

    @numba.njit(parallel=True, nogil=True)
    def read(words, parts):
        size, found = words.size // parts, np.zeros(parts, np.int64)
        for part in numba.prange(parts):
            total, mine = np.int64(0), words[part * size : (part + 1) * size]
            for i in range(mine.size):
                total ^= mine[i]
            found[part] = total
        return found

    words = rows.reshape(-1).view(np.int64)
    return lambda queries: read(words, 64) is None


def make_own(rows, threads):
    from npsiglip.collection.exact import Shards, search

    shards = Shards([rows])
    return lambda queries: search(shards, queries, K, threads=threads).numbers


def make_faiss(rows, threads):
    import faiss

    faiss.omp_set_num_threads(threads)
    width = rows.shape[1]
    if rows.dtype == np.float16:
        index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexFlatIP(width)
    for start in range(0, len(rows), CHUNK):
        index.add(np.ascontiguousarray(rows[start : start + CHUNK], np.float32))
    return lambda queries: index.search(queries, K)[1]


def make_usearch(rows, threads):
    from usearch.index import MetricKind, search

    def run(queries):
        return np.atleast_2d(
            search(rows, queries.astype(rows.dtype), K, MetricKind.IP, exact=True, threads=threads).keys
        )

    return run


def work(engine, path, number, threads, memory):
    """The process of an engine: a search for each line of stdin, its seconds and its numbers on stdout."""
    rows = np.load(path, mmap_mode="r")
    if memory:
        rows = np.array(rows)
    run, queries = globals()[f"make_{engine}"](rows, threads), queries_of(number, rows.shape[1])
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        found = run(queries)
        seconds = time.perf_counter() - start
        print(seconds, *(np.asarray(found).ravel() if np.ndim(found) else ()), flush=True)


# -- all of them ------------------------------------------------------------------------------------------------------


def start(engine, path, number, threads, memory):
    names = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, __file__, "--worker", engine, str(path), str(number), str(threads), str(int(memory))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    if process.stdout.readline() != "ready\n":
        raise SystemExit(f"{engine} has not started, see above")
    return process


def once(process):
    """Seconds of a search, and the numbers that it found."""
    process.stdin.write("\n")
    process.stdin.flush()
    seconds, *numbers = process.stdout.readline().split()
    return float(seconds), [int(n) for n in numbers]


def measure(path, engines, number, options):
    """For each engine: the first time, and those of all rounds; and how much of the answer is the same."""
    processes = {engine: start(engine, path, number, options.threads, options.memory) for engine in engines}
    try:
        first = {engine: once(process) for engine, process in processes.items()}
        rounds = [{e: once(process)[0] for e, process in processes.items()} for _ in range(options.rounds)]
    finally:
        for process in processes.values():
            process.stdin.close()
            process.wait()
    own = np.reshape(first["own"][1], (number, K))
    agree = {}
    for engine, (_, numbers) in first.items():
        if numbers and engine != "own":
            pairs = zip(own, np.reshape(numbers, (number, K)), strict=True)
            agree[engine] = sum(len(set(a) & set(b)) for a, b in pairs) / own.size
    return {engine: seconds for engine, (seconds, _) in first.items()}, rounds, agree


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=768)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float16"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--memory", action="store_true", help="copy the rows into each process")
    parser.add_argument("--folder", help="where the rows are written; several gigabytes")
    options = parser.parse_args()
    engines = [e for e in ENGINES if e not in ("faiss", "usearch") or find_spec(e)]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder, "rows.npy")
        for dtype in options.dtypes:
            write_rows(path, options.rows, options.width, dtype)
            for number in options.queries:
                first, rounds, agree = measure(path, engines, number, options)
                size = options.rows * options.width * np.dtype(dtype).itemsize
                print(f"\n{options.rows} x {options.width} {dtype}, {number} queries, {options.threads} threads")
                for engine in engines:
                    seconds = statistics.median(r[engine] for r in rounds)
                    ratio = statistics.median(r["own"] / r[engine] for r in rounds)
                    same = f", {agree[engine]:.1%} of the answer is ours" if engine in agree else ""
                    print(
                        f"{engine:8} {1e3 * seconds:8.1f} ms {size / seconds / 1e9:6.1f} GB/s, first "
                        f"{1e3 * first[engine]:8.1f} ms, own takes {ratio:.2f} x that{same}",
                        flush=True,
                    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        _, _, engine, path, number, threads, memory = sys.argv
        work(engine, path, int(number), int(threads), memory == "1")
    else:
        main()
