"""Tasks that threads take, and programs that are recorded and repeated."""

from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from npsiglip.kernels import attention, gemm, layer_norm, map_pool, rows, sums, tasks
from tests.helpers.arrays import NONE, normal, panels_of


class CountRow(NamedTuple):
    taken: int
    size: int


@njit(nogil=True, error_model="numpy")
def count_tasks(address, threads):
    row = rows.read(address, CountRow)
    taken = tasks.array_at(row.taken, row.size, np.int64(0))
    task = tasks.take(address)
    while task < taken.size:
        taken[task] += 1
        task = tasks.take(address)


@pytest.mark.parametrize("count", [0, 1, 2, 300_000])
def test_every_task_is_taken_once(count):
    """However often it is done: the counter starts anew, and threads that ask for it together get different numbers."""
    taken = np.zeros(count, np.int64)
    for times in range(1, 11):
        row = CountRow(taken=taken.ctypes.data, size=count)
        tasks.launch(tasks.worker_address(count_tasks), count, row, (taken,))
        assert np.all(taken == times)


def test_a_program_does_again_what_was_recorded():
    """In the order in which it was recorded, with whatever the arrays hold by then; nothing is done meanwhile."""
    x, w, b, scale = normal(0, 20, 33), normal(1, 33, 33), normal(2, 33), normal(3, 33)
    panels, out, normed = panels_of(w, "float32"), np.zeros((20, 33), np.float32), np.zeros((20, 33), np.float32)

    def block():
        gemm.linear(x, panels, "float32", gemm.NO_SCALES, b, gemm.GELU_TANH, NONE, NONE, out)
        layer_norm.layer_norm(out, scale, b, 1e-6, normed)
        gemm.linear(normed, panels, "float32", gemm.NO_SCALES, b, gemm.NO_ACTIVATION, out, NONE, out)

    program = tasks.Program()
    with tasks.recording(program):
        block()
    assert not out.any()
    for seed in (4, 5):
        x[:] = normal(seed, 20, 33)
        program.run()
        recorded = out.copy()
        block()
        np.testing.assert_array_equal(recorded, out)


def test_workers_have_names_of_their_own():
    """Machine code of one name that different processes compiled would be taken for each other; see test_tile.py."""
    made = [gemm.WORKERS, attention.WORKERS, layer_norm.WORKERS, map_pool.WORKERS, sums.PAIRS_WORKERS]
    functions = [worker.py_func for of in made for worker in of.values()]
    assert len({(f.__module__, f.__qualname__) for f in functions}) == len(functions) == 16
    assert (functions[1].__module__, functions[1].__qualname__) == ("npsiglip.kernels.gemm", "linear_tasks_f32_bf16")
