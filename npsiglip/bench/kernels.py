"""The kernels one by one, in the shapes of a model, beside what the machine can do at best.

A run is `REPEATS` calls one after the other without Python, as in a model's pass (`npsiglip.kernels.tasks`). Weights
come from memory, as there: each kernel goes round several copies that together are larger than the caches. Before and
after each run the limit is measured (`npsiglip.bench.limit_kernels`), and the run is divided by it.

Left out: how the kernels work together, and what Python costs between them; that is `npsiglip.bench.measure`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from npsiglip.bench.cases import SEED, Case
from npsiglip.bench.engines.limits import Limits
from npsiglip.bench.machine import describe
from npsiglip.bench.stats import Summary, summarize
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.inputs import inputs_per_pass
from npsiglip.kernels import attention, gemm, layer_norm
from npsiglip.kernels.jit import on_compile, thread_count
from npsiglip.kernels.tasks import Program, recording
from npsiglip.towers.blocks import ALL_VALID
from npsiglip.towers.layers import NO_RESIDUAL, Array, Matrix, Packer, Room

BEYOND_CACHES = 1 << 27  # bytes of weights
REPEATS = 16

Say = Callable[[str, str], None]


@dataclass(frozen=True)
class Kernel:
    """A call that is timed, given its number; `operations` are multiplications and additions in `dtype`."""

    name: str
    shape: str
    dtype: str
    operations: float
    call: Callable[[int], None]


@dataclass(frozen=True)
class KernelTiming:
    """What was measured of a kernel: `seconds` and `runs` of one call, `rate` and `limit` in operations a second.

    `of_limit`: of the limit around each run.
    """

    case: str
    kernel: str
    shape: str
    dtype: str
    seconds: Summary
    rate: float
    limit: Summary
    of_limit: Summary
    runs: list[float]


@dataclass(frozen=True)
class KernelReport:
    """All kernels of all cases."""

    machine: dict[str, Any]
    name: str
    dtype: str
    threads: int
    rounds: int
    kernels: list[KernelTiming]


def _filled(matrix: Matrix, rng: np.random.Generator) -> Matrix:
    matrix.fill(rng.standard_normal(matrix.out.shape, np.float32))
    return matrix


def _linear(name: str, rows: int, k: int, n: int, dtype: str, narrow: bool, gelu: bool, residual: bool) -> Kernel:
    """A product as the blocks have it; `narrow`: bfloat16 comes out, if the dtype is not float32."""
    rng, room = np.random.default_rng(SEED), Room()
    packed = Packer({"w": rng.standard_normal((k, n), np.float32)}, ["w"], dtype, room)(keep=True)
    copies = [packed.panels] + [packed.panels.copy() for _ in range(BEYOND_CACHES // packed.panels.nbytes)]
    for panels in copies:
        panels.flags.writeable = False
    x, b = _filled(Matrix(rows, k, dtype, room=room), rng), np.zeros(n, np.float32)
    out = room.array((rows, n), np.uint16 if narrow and dtype != "float32" else np.float32)
    other: Array = np.zeros((rows, n), np.float32) if residual else NO_RESIDUAL
    scales = (*x.scales, packed.scale, packed.total)
    activation = gemm.GELU_TANH if gelu else gemm.NO_ACTIVATION

    def call(run: int) -> None:
        gemm.linear(x.values, copies[run % len(copies)], packed.dtype, scales, b, activation, other, NO_RESIDUAL, out)

    extra = " + GELU" * gelu + " + residual" * residual
    return Kernel(name + extra, f"{rows} x {k} x {n}", dtype, 2.0 * rows * k * n, call)


def _attention(n: int, config: ImageConfig | TextConfig, dtype: str) -> Kernel:
    rng, length, width = np.random.default_rng(SEED), config.seq_len, config.width
    narrow = dtype != "float32" and width // config.num_heads % 2 == 0
    qkv = _filled(Matrix(n * length, 3 * width, "bfloat16" if narrow else "float32"), rng).values
    out = Matrix(n * length, width, dtype).out
    no_probs = np.empty((0, 0, 0, 0), np.float32)

    def call(run: int) -> None:
        attention.attention(qkv, length, config.num_heads, 0, ALL_VALID, no_probs, out)

    shape = f"{n} x {length} tokens, {config.num_heads} heads"
    return Kernel("attention", shape, "bfloat16" if narrow else "float32", 4.0 * n * length**2 * width, call)


def _layer_norm(rows: int, config: ImageConfig | TextConfig, dtype: str) -> Kernel:
    x = np.random.default_rng(SEED).standard_normal((rows, config.width), np.float32)
    scale, b = np.ones(config.width, np.float32), np.zeros(config.width, np.float32)
    out = Matrix(rows, config.width, dtype)

    def call(run: int) -> None:
        layer_norm.layer_norm(x, scale, b, config.layer_norm_eps, out.out)
        out.ready()

    name = "LayerNorm + quantise" if dtype == "int8" else "LayerNorm"
    return Kernel(name, f"{rows} x {config.width}", dtype, 0.0, call)


def block_kernels(config: ImageConfig | TextConfig, batch: int, dtype: str) -> list[Kernel]:
    """What a block does, in its order, for as many inputs as go through a tower at once."""
    n = min(batch, inputs_per_pass(config.seq_len))
    rows, width, hidden = n * config.seq_len, config.width, config.mlp_dim
    return [
        _layer_norm(rows, config, dtype),
        _linear("q, k and v", rows, width, 3 * width, dtype, narrow=True, gelu=False, residual=False),
        _attention(n, config, dtype),
        _linear("out", rows, width, width, dtype, narrow=False, gelu=False, residual=True),
        _linear("fc1", rows, width, hidden, dtype, narrow=dtype == "bfloat16", gelu=True, residual=False),
        _linear("fc2", rows, hidden, width, dtype, narrow=False, gelu=False, residual=True),
    ]


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _time(case: Case, kernel: Kernel, threads: int, rounds: int) -> KernelTiming:
    limit = Limits(kernel.dtype).prepare(f"multiply_add:{threads}", None)
    program = Program()
    with recording(program):
        for number in range(REPEATS):
            kernel.call(number)
    program.run()
    rates, runs, fractions = [limit.work / _seconds(limit.function)], [], []
    for _ in range(rounds):
        runs.append(_seconds(program.run) / REPEATS)
        rates.append(limit.work / _seconds(limit.function))
        fractions.append(kernel.operations / runs[-1] / (0.5 * (rates[-2] + rates[-1])))
    seconds = summarize(runs)
    return KernelTiming(
        str(case), kernel.name, kernel.shape, kernel.dtype, seconds, kernel.operations / seconds.median,
        summarize(rates), summarize(fractions), runs,
    )  # fmt: skip


def time_kernels(
    config: SigLIPConfig, cases: Sequence[Case], dtype: str, threads: int, rounds: int, say: Say, name: str
) -> KernelReport:
    """Time the kernels of a block for each case; the weights are random."""
    timings, machine = [], describe()
    with thread_count(threads), on_compile(lambda kernel: say("kernels", f"compiling {kernel}")):
        for case in cases:
            tower = getattr(config, case.tower)
            for kernel in block_kernels(tower, case.batch, dtype):
                say(str(case), kernel.name)
                timings.append(_time(case, kernel, threads, rounds))
    return KernelReport(machine, name, dtype, threads, rounds, timings)
