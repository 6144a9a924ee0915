"""Who runs when: every engine in a process of its own, one run each in turn, round after round.

Before anything is timed, the outputs are compared: a fast engine that computes something else is not worth timing.
The order within a round is another one each time, so that nobody always runs after the same neighbour. After each
change of process there is a pause, in which the threads of the last one stop spinning and go to sleep.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from npsiglip.bench import machine
from npsiglip.bench.cases import SEED, Case, random_inputs
from npsiglip.bench.flop import case_flop
from npsiglip.bench.peers import Engine, limits_engine, own_engine
from npsiglip.bench.process import MissingModule, Worker
from npsiglip.bench.results import CaseResult, Report, Timing
from npsiglip.bench.stats import ratio, summarize
from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError, NpsiglipError
from npsiglip.metrics import relative_l2
from npsiglip.params import count_params

PAUSE = 0.03  # seconds; threads of GNU's OpenMP were seen to spin for up to 10 ms after a run
WARMUP = 3  # runs

# The largest relative L2 between embeddings of one computation. Float32 engines were seen up to 6e-6 apart on
# B/16-224; a swapped axis, a lost bias or another GELU makes 1e-3 and more.
AGREEMENT = {"float32": 1e-4}

Say = Callable[[str, str], None]
"""Told what is being done: a stage, and a detail of it that changes often."""


class Bench:
    """Running engines with one model.

    Args:
        folder: a model folder; only config and weights are read.
        config: of the model.
        engines: what is timed; the first one is ours, which the others are compared with.
        limits: what measures the machine.
        threads: that every engine runs on.
        say: told what is being done.
        dtype: what the engines compute in.
        name: of the model, for the report; None: the folder.

    Raises:
        InputError: more threads than cores, or an engine whose packages are not installed.
        WorkerError: an engine fails.
    """

    def __init__(
        self,
        folder: str | Path,
        config: SigLIPConfig,
        engines: Sequence[Engine],
        limits: Engine,
        threads: int = 2,
        say: Say = lambda stage, detail: None,
        dtype: str = "float32",
        name: str | None = None,
    ) -> None:
        machine.check_threads(threads)
        self.config, self.threads, self.dtype, self.say = config, threads, dtype, say
        self.name = name or str(folder)
        self.machine = machine.describe()
        self.about: dict[str, dict[str, str]] = {}
        self._stack = contextlib.ExitStack()
        try:
            self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="npsiglip-bench-")))
            self.workers = [self._start(engine, str(folder)) for engine in engines]
            self._limits = self._start(limits, str(folder))
            self._limit_work = {
                name: self._limits.ask("prepare", case=name, inputs=None)["work"]
                for name in dict.fromkeys(("multiply_add:1", f"multiply_add:{threads}", f"read:{threads}"))
            }
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _start(self, engine: Engine, folder: str) -> Worker:
        stage = f"starting {engine.name}"
        self.say(stage, "")
        worker = Worker(engine.name, engine.command, engine.environment, lambda detail: self.say(stage, detail))
        self._stack.enter_context(worker)
        try:
            self.about[engine.name] = worker.ask("load", folder=folder, dtype=self.dtype, threads=self.threads)["about"]
        except MissingModule as error:
            raise InputError(
                f"{engine.name} cannot be timed: {engine.command[0]} has no module {error.args[1]!r}; install it "
                f"there ({engine.install}), or pass --peer-python PATH, a Python that has it"
            ) from None
        return worker

    def run(self, cases: Sequence[Case], rounds: int) -> Report:
        """Time all cases.

        Raises:
            InputError: fewer rounds than one, or no cases.
            NpsiglipError: an engine's embeddings are not ours.
            WorkerError: an engine fails.
        """
        if rounds < 1 or not cases:
            raise InputError(f"expected at least one round and one case, got {rounds} and {len(cases)}")
        results = [self._time_case(case, rounds) for case in cases]
        model = {"name": self.name, "parameters": count_params(self.config), **asdict(self.config)}
        about = {name: about for name, about in self.about.items() if about}
        return Report(self.machine, model, self.dtype, self.threads, rounds, about, results)

    def _prepare(self, case: Case) -> tuple[list[int], list[str]]:
        """Make all engines ready: the shape of the inputs, and what each engine chose."""
        inputs = random_inputs(case, self.config)
        file = str(self._scratch / f"{case.tower}-{case.batch}.npy")
        np.save(file, inputs)
        settings = []
        for worker in self.workers:
            self.say(str(case), f"preparing {worker.name}")
            worker.say = lambda detail: self.say(str(case), detail)
            settings.append(worker.ask("prepare", case=str(case), inputs=file)["setting"])
        return list(inputs.shape), settings

    def _compare(self, case: Case) -> list[float | None]:
        """The relative L2 of each engine's embeddings to the first one's, None for that; refuses what is too far."""
        outputs = []
        for worker in self.workers:
            file = str(self._scratch / "output.npy")
            worker.ask("output", case=str(case), file=file)
            outputs.append(np.load(file))
        distances: list[float | None] = [None]
        for worker, output in zip(self.workers[1:], outputs[1:], strict=True):
            if output.shape != outputs[0].shape:
                raise NpsiglipError(
                    f"{case}: {worker.name} gives embeddings {list(output.shape)}, {self.workers[0].name} "
                    f"{list(outputs[0].shape)}; nothing was timed: they do not compute the same"
                )
            distance = relative_l2(output, outputs[0])
            if not distance <= AGREEMENT[self.dtype]:  # nor NaN
                raise NpsiglipError(
                    f"{case}: the embeddings of {worker.name} and {self.workers[0].name} are {distance:.1e} apart "
                    f"(relative L2; expected at most {AGREEMENT[self.dtype]:.0e}); nothing was timed: they do not "
                    "compute the same. Do the versions of the engines fit the model?"
                )
            distances.append(distance)
        return distances

    def _rounds(self, case: Case, rounds: int) -> dict[str, list[float]]:
        """The seconds of every run, by the engine's name, and by the limit's."""
        turns = [(worker, {str(case): worker.name}) for worker in self.workers]
        turns.append((self._limits, {name: name for name in self._limit_work}))
        for worker in self.workers:
            self.say(str(case), f"warming up {worker.name}")
            for _ in range(WARMUP):
                worker.ask("time", case=str(case))
        times: dict[str, list[float]] = {key: [] for _, names in turns for key in names.values()}
        order = random.Random(SEED)
        for i in range(rounds):
            self.say(str(case), f"round {i + 1} of {rounds}")
            order.shuffle(turns)
            for worker, names in turns:
                time.sleep(PAUSE)
                for name, key in names.items():
                    times[key].append(worker.ask("time", case=name)["seconds"])
        return times

    def _time_case(self, case: Case, rounds: int) -> CaseResult:
        shape, settings = self._prepare(case)
        distances = self._compare(case)
        times = self._rounds(case, rounds)
        limits = {name: summarize([work / t / 1e9 for t in times[name]]) for name, work in self._limit_work.items()}
        limit = limits[f"multiply_add:{self.threads}"].median
        gflop = case_flop(case, self.config) / 1e9
        timings = []
        for worker, setting, distance in zip(self.workers, settings, distances, strict=True):
            runs = times[worker.name]
            seconds = summarize(runs)
            gflops = gflop / seconds.median
            against = None if worker is self.workers[0] else ratio(times[self.workers[0].name], runs)
            timings.append(Timing(worker.name, setting, seconds, gflops, gflops / limit, distance, against, runs))
        return CaseResult(str(case), shape, gflop, timings, limits)


def bench(
    folder: str | Path,
    config: SigLIPConfig,
    cases: Sequence[Case],
    rounds: int,
    peers: Sequence[Engine] = (),
    **options: Any,
) -> Report:
    """Time npsiglip and its peers; `options` are those of `Bench`."""
    with Bench(folder, config, [own_engine(), *peers], limits_engine(), **options) as engines:
        return engines.run(cases, rounds)
