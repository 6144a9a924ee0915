"""Training: batches, gradients, steps, checkpoints, metrics; the same bits again from the same settings.

Batch i depends on the settings and on i alone, gradients and steps on no number of threads, and a checkpoint holds all
that the next step needs: so a run that was stopped or killed and resumed ends with the bits of one that was not.

A step that would not be finite is not made: training stops there, with the last checkpoint kept. SIGINT and SIGTERM
end a run after the step they come in, with a checkpoint; a second one ends it at once.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from math import exp, isfinite
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np

from npsiglip.atomic import write_all
from npsiglip.config import SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.safetensors import json_writer
from npsiglip.hub.resolve import model_folder
from npsiglip.kernels.jit import max_threads, thread_count
from npsiglip.params import count_params, param_shapes
from npsiglip.texts.siglip import MODEL_FILE
from npsiglip.train import TrainingError, saving
from npsiglip.train.config import Config, check_world_settings
from npsiglip.train.data import Batch, Batches, Source
from npsiglip.train.export import export_model
from npsiglip.train.flat import Flat
from npsiglip.train.held_out import HeldOut
from npsiglip.train.initial import frozen_params, initial_params, params_of, whitening
from npsiglip.train.measure import ZeroShot, evaluate, model_of
from npsiglip.train.memory import check_memory
from npsiglip.train.metrics_log import MetricsLog
from npsiglip.train.mixture import Mixture
from npsiglip.train.optimizer import AdamW
from npsiglip.train.plot import draw_plot, draw_reliability
from npsiglip.train.saving import State
from npsiglip.train.schedule import schedule
from npsiglip.train.step import Engine
from npsiglip.train.tokenizer import train_tokenizer
from npsiglip.train.worlds import WorldSource

MODEL_FOLDER = "model"
SUMMARY = "summary.json"
PLOT_SECONDS = 60.0  # from one plot to the next
POOLING = frozenset(f"image.map_head.{name}" for name in ("probe", "attn.q.w", "attn.q.b"))  # makes the one query
PARTS = ("gradients", "optimizer", "waiting", "pixels", "evaluation", "checkpoints")  # of a run's time


@dataclass(frozen=True)
class Progress:
    """Where a run is."""

    step: int
    steps: int
    loss: float
    rate: float
    norm: float
    t: float
    bias: float
    pairs_per_second: float
    seconds: float
    """Of all runs together."""
    seconds_left: float
    waiting: float
    """The part of the time in which the trainer waits for pictures."""
    evaluation: dict[str, float]
    """The last one, empty before it."""


class Watcher(Protocol):
    """Who is told."""

    def step(self, progress: Progress, logged: bool) -> None:
        """After every step; `logged` when a line of metrics was written."""

    def say(self, text: str) -> None:
        """What is being done."""

    def tell(self, text: str) -> None:
        """What should be known, and stays to be read."""


class Silent:
    """A watcher that keeps it to itself."""

    def step(self, progress: Progress, logged: bool) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def tell(self, text: str) -> None:
        """Nothing."""


class _Signals:
    """SIGINT and SIGTERM as a wish to stop; the second one is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def __enter__(self) -> _Signals:
        if threading.current_thread() is threading.main_thread():
            self._before = {n: signal.signal(n, self._handle) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class _Pace:
    """Seconds that a step takes, as the last ones did; the first few compile and wait, and are forgotten."""

    def __init__(self) -> None:
        self.seconds, self._count = 0.0, 0

    def add(self, seconds: float) -> None:
        """One more step."""
        self._count += 1
        self.seconds = seconds if self._count < 4 else self.seconds + 0.05 * (seconds - self.seconds)


def _not_finite(flat: Flat) -> list[str]:
    return [name for name, view in flat.views.items() if not np.isfinite(view).all()]


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    step: int
    finished: bool
    signal: int
    """That stopped it, or 0."""
    summary: dict[str, Any]
    """Of a finished run: times, evaluations; what summary.json has."""


class Trainer:
    """One run of `config` in `folder`, from the start or from the folder's checkpoint.

    Args:
        config: the settings.
        folder: created if need be: checkpoint.safetensors, metrics.jsonl, plot.png, spiece.model, summary.json, and
            the finished model in model/.
        resume: go on from the checkpoint, if there is one.
        watcher: who is told of progress.
        source: what draws; None: the world.
        make_engine: makes what computes gradients.
        evaluation: what is measured in the course of training; None: zero-shot accuracy in the world.

    Attributes:
        params: the parameters.
        state: the step, and what else a checkpoint says.

    Raises:
        InputError: settings that cannot be, that differ from the checkpoint's, or too large for memory; a folder that
            has a run already.
        CheckpointError: a checkpoint or a model to start from that cannot be used.
    """

    def __init__(
        self,
        config: Config,
        folder: str | Path,
        resume: bool = False,
        watcher: Watcher | None = None,
        source: Any = None,
        make_engine: Callable[..., Any] = Engine,
        evaluation: Callable[..., dict[str, float]] | None = None,
    ) -> None:
        self._began = time.perf_counter()
        self.config, self.folder = config, Path(folder)
        self.shapes: SigLIPConfig = config.siglip
        self._watcher = watcher or Silent()
        self._in_world = source is None and not config.data.sources
        self._check(resume)
        self._source = source or self._open_source()
        self._tokenizer_file = self._prepare_tokenizer()
        self._last_evaluation: dict[str, float] = {}
        self._evaluation = evaluation
        if evaluation is None and config.data.tests:
            self._evaluation = HeldOut(config)
        self._prepare_params(make_engine)
        self._before = dict(self.state.times)
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._drawing, self._plotted = 0.0, self._began
        self._skipped: dict[str, str] = {}

    # -- before the first step ----------------------------------------------------------------------------------------

    def _check(self, resume: bool) -> None:
        threads = self.config.run.threads
        if threads > max_threads():
            raise InputError(
                f"run.threads must be at most {max_threads()} here (NUMBA_NUM_THREADS, or the number of cores), "
                f"got {threads}"
            )
        if self._in_world or any(source.kind == "world" for source in self.config.data.sources):
            from npsiglip.world import World

            check_world_settings(self.config, World)
            for phase in range(len(self.config.data.phases)):
                WorldSource(self.config).world(phase)  # which looks at the values
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder} cannot be made: {error}") from None
        saved = saving.load_state(self.folder)
        if saved and not resume:
            raise InputError(
                f"{self.folder} holds a run already, at step {saved.step} of {saved.settings.get('train.steps')}: go "
                "on with --resume, or choose another folder"
            )
        if saved:
            saving.check_settings(saved, self.config.deciding(), self.folder)
        check_memory(self.config)
        saving.clean(self.folder)
        self._resumed = saved is not None
        self.state = saved or State(settings=self.config.deciding())

    def _open_source(self) -> Source:
        if not self.config.data.sources:
            return WorldSource(self.config)
        self._watcher.say("Opening the sources")
        mixture = Mixture(self.config)
        for line in mixture.describe():
            self._watcher.tell(line)
        return mixture

    def _prepare_tokenizer(self) -> Path:
        """The vocabulary in the run's folder: that of the checkpoint, of the settings, of the first model, or new."""
        path, train = self.folder / MODEL_FILE, self.config.train
        if self._resumed:
            if not path.exists() or saving.file_hash(path) != self.state.tokenizer:
                raise CheckpointError(f"{path} is not the tokenizer that the checkpoint was trained with: restore it")
            return path
        given = self.config.data.tokenizer or (
            model_folder(train.init) / MODEL_FILE if train.init and not train.lock else ""
        )
        try:
            if given:
                data = Path(given).read_bytes()
                write_all(self.folder, {MODEL_FILE: lambda place: place.write_bytes(data)})
            else:
                self._watcher.say("Drawing captions for the tokenizer")
                captions = self._source.captions(self.config.data.tokenizer_captions)
                train_tokenizer(captions, self.config.model.text.vocab_size, path)
        except OSError as error:
            raise InputError(f"the tokenizer {given or path} cannot be copied or written: {error}") from None
        self._check_vocabulary(path)
        self.state.tokenizer = saving.file_hash(path)
        return path

    def _check_vocabulary(self, path: Path) -> None:
        from npsiglip.texts.siglip import Tokenizer

        pieces, rows = Tokenizer(path).vocab_size, self.config.model.text.vocab_size
        if pieces > rows:
            raise InputError(f"the tokenizer has {pieces} pieces, the model {rows} rows for them (text.vocab_size)")

    def _prepare_params(self, make_engine: Callable[..., Any]) -> None:
        train, shapes = self.config.train, param_shapes(self.shapes)
        self.params, self._grads = Flat(shapes), Flat(shapes)
        locked = frozenset(name for name in shapes if train.lock and name.startswith(f"{train.lock}."))
        if train.pool == "mean":
            locked |= POOLING
        locked |= frozen_params(self.shapes, train.blocks)
        self._optimizer = AdamW(shapes, self.config.optimizer, locked)
        self._engine = make_engine(
            self.shapes,
            train.batch,
            self.config.model.text.seq_len,
            loss=train.loss,
            locked=frozenset({train.lock} if train.lock else ()),
            dtype=train.dtype,
            **({} if train.blocks is None else {"blocks": train.blocks}),
        )
        if self._resumed:
            saving.load_tensors(self.folder, self.params, self._optimizer.m, self._optimizer.v)
            self._optimizer.count = self.state.step
            return
        values = initial_params(self.shapes, train.seed, train.t_prime, train.bias)
        if train.patch_embed == "whiten":
            image = self.config.model.image
            pictures, _ = self._source.batch(0)
            values |= whitening(pictures, image.patch_size, image.width, train.whiten_scale)
        if train.init:
            values |= params_of(train.init, self.shapes, train.lock)
        if train.pool == "mean":
            values |= {name: np.zeros(shapes[name], np.float32) for name in POOLING if ".q." in name}
        for name, view in self.params.views.items():
            view[...] = values[name]

    # -- the steps ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _timed(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts[part] += time.perf_counter() - start

    def _stop_not_finite(self, what: str) -> TrainingError:
        kept = saving.load_state(self.folder)
        where = f"the checkpoint of step {kept.step} is kept" if kept else "there is no checkpoint yet"
        return TrainingError(
            f"step {self.state.step + 1}: {what}; {where}. Training diverged: lower optimizer.rate, lengthen "
            "optimizer.warmup, or lower optimizer.clip_norm, and start anew"
        )

    def _step(self, batch: Batch) -> tuple[float, float, float]:
        """One step: the loss, the rate, and the norm of the gradients.

        Raises:
            TrainingError: one of them is not finite; then nothing was changed.
        """
        config = self.config
        with self._timed("gradients"):
            try:
                with np.errstate(all="ignore"):  # what is not finite is reported below
                    loss = float(self._engine.step(self.params, batch.pixels, batch.ids, self._grads))
            except InputError as error:  # the loss refuses embeddings that are not finite
                if self.state.step == 0:  # something else, which no step before could have told
                    raise
                raise self._stop_not_finite(f"the loss cannot be computed ({error})") from None
        with self._timed("optimizer"):
            norm = self._optimizer.norm(self._grads)
            if not isfinite(loss) or not isfinite(norm):
                names = _not_finite(self._grads)
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                gradients = f", and so is the gradient of {', '.join(names[:3])}{more}" if names else ""
                raise self._stop_not_finite(f"the loss is {loss}, the gradients' norm {norm}{gradients}")
            part = schedule(self.state.step, config.train.steps, config.optimizer.warmup, config.optimizer.floor)
            self._optimizer.step(self.params, self._grads, norm, part)
        self.state.step += 1
        self.state.window.append(loss)
        return loss, part * config.optimizer.rate, norm

    def _times(self) -> dict[str, float]:
        """Seconds of all runs together."""
        now = self._parts | {"drawing_cpu": self._drawing, "total": time.perf_counter() - self._began}
        return {name: self._before.get(name, 0.0) + seconds for name, seconds in now.items()}

    def _save(self) -> None:
        with self._timed("checkpoints"):
            self.state.times = self._times()
            saving.save(self.folder, self.state, self.params, self._optimizer.m, self._optimizer.v)
            if time.perf_counter() - self._plotted > PLOT_SECONDS:
                self._plot()

    def _plot(self) -> None:
        draw_plot(self.folder, self.config.phase_ends())
        self._plotted = time.perf_counter()

    def _evaluate(self, log: MetricsLog) -> None:
        with self._timed("evaluation"):
            if self._evaluation is None:
                self._watcher.say("Drawing pictures for the evaluation")
                self._evaluation = ZeroShot(self.config.run.eval_pictures, self.config.model.image.image_size)
            self._watcher.say("Evaluating")
            self._last_evaluation = self._evaluation(model_of(self.shapes, self.params.views, self._tokenizer_file))
        log.add({"step": self.state.step, "seconds": round(self._times()["total"], 3), **self._last_evaluation})

    def _report(self, log: MetricsLog, loss: float, rate: float, norm: float, seconds_a_step: float) -> None:
        """Tell the watcher of a step, and the metrics if it is their turn."""
        config, state = self.config, self.state
        logged = state.step % config.run.log_every == 0 or state.step == config.train.steps
        total = self._times()["total"]
        progress = Progress(
            state.step,
            config.train.steps,
            loss=float(np.mean(state.window)) if logged else loss,
            rate=rate,
            norm=norm,
            t=exp(float(self.params.views["t_prime"])),
            bias=float(self.params.views["bias"]),
            pairs_per_second=config.train.batch / seconds_a_step,
            seconds=total,
            seconds_left=seconds_a_step * (config.train.steps - state.step),
            waiting=self._parts["waiting"] / (time.perf_counter() - self._began),
            evaluation=self._last_evaluation,
        )
        if logged:
            hidden = ("steps", "seconds_left", "evaluation")
            log.add({key: value for key, value in asdict(progress).items() if key not in hidden})
            state.window.clear()
        self._watcher.step(progress, logged)

    def _next(self, batches: Batches, signals: _Signals) -> Batch | None:
        """The next batch, None after a signal.

        Raises:
            TrainingError: there will be none; what has been trained is saved.
        """
        try:
            batch = batches.get(lambda: signals.number != 0)
        except TrainingError:
            self._save()
            raise
        self._parts["waiting"], self._parts["pixels"] = batches.waited, batches.converted
        self._drawing = batches.cpu_seconds
        for name in batches.skipped.keys() - self._skipped.keys():
            self._watcher.tell(f"skipped, cannot be decoded: {name}: {batches.skipped[name]}")
        self._skipped |= batches.skipped
        return batch

    def _run_steps(self, signals: _Signals, log: MetricsLog) -> None:
        """Steps until the last one, or until a signal."""
        state, run, steps = self.state, self.config.run, self.config.train.steps
        todo = range(state.step, steps)
        saved, pace = time.perf_counter(), _Pace()
        with Batches(
            self._source, self._tokenizer_file, self.config.model.text.seq_len, todo, run.workers, run.ahead
        ) as batches:
            while state.step < steps and not signals.number:
                start = time.perf_counter()
                batch = self._next(batches, signals)
                if batch is None:
                    break
                loss, rate, norm = self._step(batch)
                pace.add(time.perf_counter() - start)
                self._report(log, loss, rate, norm, pace.seconds)
                if run.eval_every and state.step % run.eval_every == 0 and state.step < steps:
                    self._evaluate(log)
                if time.perf_counter() - saved > 60 * run.checkpoint_minutes:
                    self._save()
                    saved = time.perf_counter()

    # -- from beginning to end ----------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Train until the last step or a signal; then, or at once if all steps are made, finish.

        Raises:
            TrainingError: a loss or gradient that is not finite; a process that draws failed.
            CheckpointError: a checkpoint or the model cannot be written.
            InputError: metrics or the plot cannot be written.
        """
        with _Signals() as signals, thread_count(self.config.run.threads or None):
            log = MetricsLog(self.folder, self.state.step)
            if self.state.step < self.config.train.steps:
                self._run_steps(signals, log)
                self._save()
            if self.state.step < self.config.train.steps:
                return Result(self.state.step, False, signals.number, {})
            return Result(self.state.step, True, 0, self.finish(log))

    def export(self) -> Path:
        """Write the model as it is now."""
        folder = self.folder / MODEL_FOLDER
        export_model(folder, self.shapes, self.params.views, self._tokenizer_file, self.config.run.dtype)
        return folder

    def finish(self, log: MetricsLog) -> dict[str, Any]:
        """Write the model, measure it as it is stored, and write summary.json and the plot."""
        self._watcher.say("Writing the model")
        folder = self.export()
        results: dict[str, Any] = {}
        if self._evaluation is not None or self._in_world:
            self._evaluate(log)
            results = dict(self._last_evaluation)
        count = self.config.run.final_pictures
        if self._in_world and count:
            self._watcher.say("Evaluating the finished model")
            batch = min(self.config.train.batch, count)
            with self._timed("evaluation"):
                results = evaluate(folder, count, min(1000, count), batch, count // batch)
            draw_reliability(self.folder, results, batch)
        self._plot()
        summary = {
            "settings": self.config.deciding(),
            "parameters": count_params(self.shapes),
            "pairs": self.state.step * self.config.train.batch,
            "seconds": self._times(),
            "skipped": sorted(self._skipped),
            "results": results,
        }
        try:
            write_all(self.folder, {SUMMARY: json_writer(summary)})
        except OSError as error:
            raise InputError(f"{self.folder / SUMMARY} cannot be written: {error}") from None
        return summary


def train(config: Config, folder: str | Path, resume: bool = False, watcher: Watcher | None = None) -> Result:
    """Run a configuration in a folder; see `Trainer`."""
    return Trainer(config, folder, resume, watcher).run()
