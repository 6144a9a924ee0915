"""The rows that are most like each query, and how alike they are: inner products and the k largest, in one pass.

    for each 1,024 rows                                          tasks
        for each block of 32 rows                                32 x 768 x 4 bytes = 96 KB: second level
            for each 6 queries                                   18 KB: first level
                for each 4 rows: 24 inner products               registers (row_products.py)
            scores of 16 rows above a query's k-th so far?       one comparison
                a heap of the thread takes them                  rarely

While a block is multiplied, the next one is brought into the cache, a part of it with each group of queries: so reading
and multiplying overlap. Every thread keeps heaps of its own; `merge` chooses among them. Which rows are chosen does not
depend on who found them: a higher score wins, and of equal ones the row with the lower number.

Dimensions: R rows, Q queries, D width, T threads, k as many as are wanted.
"""

import functools
from typing import NamedTuple

import numpy as np

from npsiglip.element_types import LANES
from npsiglip.kernels.jit import callback, current, inline
from npsiglip.kernels.row_products import FEW, LINE, MANY, lanes_above, lines_of_step, products_few, products_many
from npsiglip.kernels.rows import read
from npsiglip.kernels.tasks import array_at, launch, optional, scratch, take, worker_address
from npsiglip.kernels.vector import load, load_n, store, store_n

BLOCK = 32  # rows: a whole number of vectors and of tiles
ROWS_EACH = 32 * BLOCK  # of a task
QUERIES_EACH = 96  # in one pass: they stay in the second-level cache, beside a block of rows
NOWHERE = np.iinfo(np.int64).max  # the number of a row that there is not
NO_SKIP, NO_SCALES = np.empty(0, np.uint8), np.empty(0, np.float32)


class Row(NamedTuple):
    """What `top_k` and `scores` are told; arrays by their addresses, 0 for those that there are not."""

    m: int  # rows
    d: int
    rows: int
    size: int  # bytes of a number in a row
    scales: int
    skip: int
    first: int  # the number of the first row
    n: int  # queries
    width: int  # bytes of a query
    queries: int
    k: int
    threads: int  # the array that counts them
    best: int
    numbers: int
    out: int


@inline
def is_worse(best, numbers, i, j):
    """Whether entry i is worse than entry j."""
    return best[i] < best[j] or (best[i] == best[j] and numbers[i] > numbers[j])


@inline
def replace_worst(best, numbers, start, k, score, number):
    """Put a row into a heap, best.flat[start : start + k], in place of the worst, which is the first."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= k:
            break
        if child + 1 < k and is_worse(best, numbers, start + child + 1, start + child):
            child += 1
        at = start + child
        if not (best[at] < score or (best[at] == score and numbers[at] > number)):
            break
        best[start + place], numbers[start + place] = best[at], numbers[at]
        place = child
    best[start + place], numbers[start + place] = score, number


@inline
def multiply_block(like, row, first, block, n_rows, tile):
    """tile [queries, BLOCK] = inner products of all queries with the rows of a block."""
    stride, steps, left = row.d * row.size, row.d // LANES, row.d % LANES
    block_size = BLOCK * stride
    start, out = row.rows + (first + block) * stride, tile.ctypes.data
    if row.n <= FEW[1]:
        for r in range(0, n_rows, FEW[0]):
            here = start + r * stride
            products_few(
                like, n_rows - r, here, stride, row.queries, row.width, steps, left, out + 4 * r, 4 * BLOCK,
                here + block_size, LINE,
            )  # fmt: skip
    else:
        groups = -(-row.n // MANY[1])
        pace = LINE // groups  # each group brings in a part of the block that comes next
        share = steps * lines_of_step(MANY[0], row.size) * pace
        for group in range(groups):
            query, place = row.queries + group * MANY[1] * row.width, out + 4 * group * MANY[1] * BLOCK
            for r in range(0, n_rows, MANY[0]):
                here = start + r * stride
                products_many(
                    like, n_rows - r, here, stride, query, row.width, steps, left, place + 4 * r, 4 * BLOCK,
                    here + block_size + group * share, pace,
                )  # fmt: skip


@inline
def choose(row, first, n_rows, tile, best, numbers, skip):
    """Put the best of a block into the heaps of this thread."""
    for query in range(row.n):
        start = query * row.k
        for column in range(0, n_rows, LANES):
            found = lanes_above(load(tile, query * BLOCK + column), best[start])
            if n_rows - column < LANES:
                found &= (1 << (n_rows - column)) - 1
            lane = column
            while found:
                if found & 1:
                    score, place = tile[query * BLOCK + lane], first + lane
                    if score > best[start] and (row.skip == 0 or skip[place] == 0):
                        replace_worst(best, numbers, start, row.k, score, row.first + place)
                found >>= 1
                lane += 1


@inline
def search_tasks(address, threads, like):
    """Tasks of `top_k` and `scores`, until none is left; `like` has the type of the rows."""
    row = read(address, Row)
    thread = take(row.threads)
    lanes = -(-row.n // MANY[1]) * MANY[1] * BLOCK
    tile = scratch(lanes).view(np.float32)
    best = array_at(row.best + 4 * thread * row.n * row.k, row.n * row.k, np.float32(0))
    numbers = array_at(row.numbers + 8 * thread * row.n * row.k, row.n * row.k, np.int64(0))
    skip = array_at(row.skip, row.m, np.uint8(0))
    scales, out = array_at(row.scales, row.m, np.float32(0)), array_at(row.out, row.m * row.n, np.float32(0))
    start = take(address) * ROWS_EACH
    while start < row.m:
        for block in range(0, min(ROWS_EACH, row.m - start), BLOCK):
            first = start + block
            n_rows = min(BLOCK, row.m - first)
            multiply_block(like, row, start, block, n_rows, tile)
            if row.scales != 0:
                for column in range(0, n_rows, LANES):
                    scale = load_n(scales, first + column, n_rows - column)
                    for query in range(row.n):
                        place = query * BLOCK + column
                        store(tile, place, load(tile, place) * scale)
            if row.out == 0:
                choose(row, first, n_rows, tile, best, numbers, skip)
            else:
                for query in range(row.n):
                    for column in range(0, n_rows, LANES):
                        scores = load(tile, query * BLOCK + column)
                        store_n(out, query * row.m + first + column, scores, n_rows - column)
        start = take(address) * ROWS_EACH


@callback
def top_k_float32(address, threads):
    """Tasks on rows of float32."""
    search_tasks(address, threads, np.float32(0))


@callback
def top_k_float16(address, threads):
    """Tasks on rows of float16."""
    search_tasks(address, threads, np.uint16(0))


@callback
def top_k_int8(address, threads):
    """Tasks on rows of int8."""
    search_tasks(address, threads, np.int8(0))


WORKERS = {"f": top_k_float32, "e": top_k_float16, "b": top_k_int8}  # by the characters of the rows' dtypes


@functools.cache
def _worker(char):
    return worker_address(WORKERS[char])


def padded(queries):
    """Queries [Q, D] as `top_k` reads them: float32 [Q', D'], zeros behind their numbers and behind the last one."""
    n, d = queries.shape
    out = np.zeros((-(-n // MANY[1]) * MANY[1], -(-d // LANES) * LANES), np.float32)
    out[:n, :d] = queries
    return out


def no_rows(n, k):
    """best [T, Q, k] and numbers [T, Q, k] before any row was seen, for `top_k`; T as many threads as there are now."""
    shape = current(), n, k
    return np.full(shape, -np.inf, np.float32), np.full(shape, NOWHERE, np.int64)


def _launch(rows, scales, skip, first, n, queries, best, numbers, out):
    m, d = rows.shape
    threads = np.zeros(2, np.int64)  # as a row of tasks.py: `take` counts in the second
    row = Row(
        m=m, d=d, rows=rows.ctypes.data, size=rows.itemsize, scales=optional(scales), skip=optional(skip), first=first,
        n=n, width=queries.strides[0], queries=queries.ctypes.data, k=best.shape[-1], threads=threads.ctypes.data,
        best=best.ctypes.data, numbers=numbers.ctypes.data, out=optional(out),
    )  # fmt: skip
    arrays = rows, scales, skip, queries, best, numbers, out, threads
    launch(_worker(rows.dtype.char), -(-m // ROWS_EACH), row, arrays)


def top_k(rows, scales, skip, first, n, queries, best, numbers):
    """The best of those in `best`, and of rows times queries; see `merge`.

    A sum is float32, in the order that row_products.py says. A row whose score is NaN or -inf never wins.

    Args:
        rows: [R, D] float32, float16, or int8; contiguous.
        scales: [R] float32, what each row of int8 is multiplied with; `NO_SCALES`.
        skip: [R] uint8, not 0 for rows that are left out; `NO_SKIP`.
        first: the number of the first row. Rows of several calls come in the order of their numbers.
        n: queries, at most `QUERIES_EACH`.
        queries: of `padded`.
        best: [T, Q, k] float32, and
        numbers: [T, Q, k] int64; of `no_rows`, then as the call before left them. k at least 1.
    """
    _launch(rows, scales, skip, first, n, queries, best, numbers, NO_SCALES)


def merge(best, numbers):
    """Scores and numbers [Q, k] of what the threads have found, the best first; -inf and -1 where there are too few."""
    threads, n, k = best.shape
    best, numbers = (a.transpose(1, 0, 2).reshape(n, threads * k) for a in (best, numbers))
    order = np.lexsort((numbers, -best), axis=1)[:, :k]
    best, numbers = np.take_along_axis(best, order, 1), np.take_along_axis(numbers, order, 1)
    return best, np.where(numbers == NOWHERE, -1, numbers)


def scores(rows, scales, n, queries, out):
    """out [Q, R] float32 = queries [Q, D] rows^T; arguments as of `top_k`, and the same bits."""
    best, numbers = no_rows(n, 1)
    _launch(rows, scales, NO_SKIP, 0, n, queries, best, numbers, out)
