"""Who runs when: every engine in a process of its own, one run each in turn, round after round.

Before anything is timed, the outputs are compared with ours in float32: a fast engine that computes something else is
not worth timing. The order within a round is another one each time, so that nobody always runs after the same
neighbour. After each change of process there is a pause, in which the threads of the last one stop spinning and go to
sleep.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.bench import machine
from npsiglip.bench.cases import SEED, Case, random_inputs
from npsiglip.bench.flop import case_flop
from npsiglip.bench.peers import Engine, leave_out, limits_engine, own_engine
from npsiglip.bench.process import MissingModule, Worker
from npsiglip.bench.results import CaseResult, Report, Timing
from npsiglip.bench.stats import ratio, summarize
from npsiglip.config import SigLIPConfig
from npsiglip.dtypes import check_dtype
from npsiglip.errors import InputError, NpsiglipError
from npsiglip.metrics import relative_l2
from npsiglip.params import count_params

PAUSE = 0.03  # seconds; threads of GNU's OpenMP were seen to spin for up to 10 ms after a run
WARMUP = 3  # runs

# The largest relative L2 from the embeddings in float32 to one engine's, in each dtype. Seen with random weights of
# B/16-224 and So400m/14-384, image:1, text:1 and text:8:
# float32   up to 7e-6. A swapped axis, a lost bias or another GELU makes 1e-3 and more.
# bfloat16  0.02 to 0.08, transformers and OpenVINO alike.
# int8      0.08 to 0.23, ONNX Runtime. The bound only tells this from nonsense: zeros are 1 away, other texts 1.1,
#           pixels with swapped axes 0.7. With outliers in the activations, scales for whole matrices do worse.
AGREEMENT = {"float32": 1e-4, "bfloat16": 0.2, "int8": 0.5}

# How many threads libraries of linear algebra start, unless they are told otherwise later on.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

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
        left_out: peers that are not among the engines, and why, for the report.

    An optional engine whose packages are not installed is left out, with a warning.

    Raises:
        InputError: more threads than cores, a dtype that is not known, or an engine whose packages are not installed.
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
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        machine.check_threads(threads)
        check_dtype(dtype)
        self.folder, self.config, self.reference = str(folder), config, engines[0]
        if dtype != "float32":
            self.reference = replace(self.reference, name=f"{self.reference.name} in float32")
        self.threads, self.dtype, self.say = threads, dtype, say
        self.name, self.left_out = name or self.folder, dict(left_out or {})
        self.machine = machine.describe()
        self.about: dict[str, dict[str, str]] = {}
        self._exporters: dict[str, Worker] = {}
        self._exported: set[str] = set()
        self._stack = contextlib.ExitStack()
        try:
            self._scratch = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="npsiglip-bench-")))
            self._exports = self._scratch / "exports"
            self._exports.mkdir()
            self.workers = list(self._start(engines))
            self._limits = self._load(limits)
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

    @contextlib.contextmanager
    def _loaded(self, engine: Engine, folder: str, dtype: str) -> Iterator[Worker]:
        """A worker that has loaded the folder."""
        stage = f"starting {engine.name}"
        self.say(stage, "")
        variables = {**dict.fromkeys(THREAD_VARIABLES, str(self.threads)), "TMPDIR": str(self._scratch)}
        with Worker(
            engine.name, engine.command, {**variables, **engine.environment}, lambda detail: self.say(stage, detail)
        ) as worker:
            answer = worker.ask("load", folder=folder, dtype=dtype, threads=self.threads)
            self.about[engine.name] = answer["about"]
            yield worker

    def _load(self, engine: Engine) -> Worker:
        """A worker, and that of its exporter; engines whose exporters have the same name share it."""
        exporter = engine.exporter
        folder = str(self._exports) if exporter else self.folder
        with contextlib.ExitStack() as stack:
            worker = stack.enter_context(self._loaded(engine, folder, self.dtype))
            if exporter and exporter.name not in self._exporters:
                loaded = self._loaded(exporter, self.folder, "float32")
                self._exporters[exporter.name] = stack.enter_context(loaded)
            self._stack.enter_context(stack.pop_all())
        return worker

    def _start(self, engines: Sequence[Engine]) -> Iterator[Worker]:
        """The workers of all engines but those that are left out."""
        for engine in engines:
            try:
                yield self._load(engine)
            except MissingModule as error:
                self.about.pop(engine.name, None)
                reason = f"{engine.command[0]} has no module {error.args[1]!r}; install it there ({engine.install})"
                if not engine.optional:
                    raise InputError(
                        f"{engine.name} cannot be timed: {reason}, or pass --peer-python PATH, a Python that has it"
                    ) from None
                leave_out(self.left_out, engine.name, reason)

    def run(self, cases: Sequence[Case], rounds: int) -> Report:
        """Time all cases.

        Raises:
            InputError: fewer rounds than one, or no cases.
            NpsiglipError: an engine's embeddings are not ours.
            WorkerError: an engine fails.
        """
        if rounds < 1 or not cases:
            raise InputError(f"expected at least one round and one case, got {rounds} and {len(cases)}")
        self._export(cases)
        expected = self._expected(cases)
        results = [self._time_case(case, rounds, expected.get(case)) for case in cases]
        model = {"name": self.name, "parameters": count_params(self.config), **asdict(self.config)}
        about = {name: about for name, about in self.about.items() if about}
        return Report(self.machine, model, self.dtype, self.threads, rounds, about, self.left_out, results)

    def _export(self, cases: Sequence[Case]) -> None:
        """Write the towers of these cases for the engines that do not load the model folder itself."""
        for tower in {case.tower: None for case in cases if case.tower not in self._exported}:
            for worker in self._exporters.values():
                self.say(f"exporting the {tower} tower", "")
                worker.ask("export", tower=tower, folder=str(self._exports))
            self._exported.add(tower)

    def _expected(self, cases: Sequence[Case]) -> dict[Case, NDArray[Any]]:
        """Our embeddings in float32, where another dtype is timed; their worker ends before anything is timed."""
        if self.dtype == "float32":
            return {}
        expected = {}
        with self._loaded(self.reference, self.folder, "float32") as worker:
            for case in cases:
                self._prepare(worker, case)
                expected[case] = self._output(worker, case)
        return expected

    def _prepare(self, worker: Worker, case: Case) -> dict[str, Any]:
        """Make an engine ready for a case, whose inputs are in the scratch folder then."""
        self.say(str(case), f"preparing {worker.name}")
        worker.say = lambda detail: self.say(str(case), detail)
        file = self._scratch / f"{case.tower}-{case.batch}.npy"
        if not file.exists():
            np.save(file, random_inputs(case, self.config))
        return worker.ask("prepare", case=str(case), inputs=str(file))

    def _output(self, worker: Worker, case: Case) -> NDArray[Any]:
        """The embeddings of a case that is ready."""
        file = str(self._scratch / "output.npy")
        worker.ask("output", case=str(case), file=file)
        return np.asarray(np.load(file))

    def _compare(self, case: Case, expected: NDArray[Any] | None) -> list[float | None]:
        """The relative L2 of each engine's embeddings to what is expected; refuses what is too far.

        Nothing expected: the first engine gives it, and has no distance.
        """
        ours = self.reference.name
        distances: list[float | None] = []
        for worker in self.workers:
            output = self._output(worker, case)
            if expected is None:
                expected = output
                distances.append(None)
                continue
            if output.shape != expected.shape:
                raise NpsiglipError(
                    f"{case}: {worker.name} gives embeddings {list(output.shape)}, {ours} {list(expected.shape)}; "
                    "nothing was timed: they do not compute the same"
                )
            distance = relative_l2(output, expected)
            if not distance <= AGREEMENT[self.dtype]:  # nor NaN
                raise NpsiglipError(
                    f"{case}: the embeddings of {worker.name} and {ours} are {distance:.1e} apart (relative L2; "
                    f"expected at most {AGREEMENT[self.dtype]:.0e}); nothing was timed: they do not compute the "
                    "same. Do the versions of the engines fit the model?"
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

    def _time_case(self, case: Case, rounds: int, expected: NDArray[Any] | None) -> CaseResult:
        shape = list(random_inputs(case, self.config).shape)
        settings = [self._prepare(worker, case)["setting"] for worker in self.workers]
        distances = self._compare(case, expected)
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
