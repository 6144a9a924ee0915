"""Training: batches, gradients, steps, checkpoints, metrics; the same bits again from the same settings.

Batch i depends on the settings and on i alone, gradients and steps on no number of threads, and a checkpoint holds all
that the next step needs: so a run that was stopped or killed and resumed ends with the bits of one that was not.

A step that would not be finite is not made: training stops there, with the last checkpoint kept. SIGINT and SIGTERM
end a run after the step they come in, with a checkpoint; a second one ends it at once.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from math import exp, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from npsiglip.atomic import write_all
from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.formats.safetensors import json_writer
from npsiglip.kernels.jit import thread_count
from npsiglip.params import count_params, param_shapes
from npsiglip.train import TrainingError, preparing, saving
from npsiglip.train.config import Config
from npsiglip.train.data import Batch, Batches
from npsiglip.train.duplicates import report_duplicates
from npsiglip.train.export import export_model
from npsiglip.train.flat import Flat
from npsiglip.train.held_out import HeldOut
from npsiglip.train.initial import locked_params
from npsiglip.train.measure import ZeroShot, evaluate, model_of
from npsiglip.train.metrics_log import MetricsLog
from npsiglip.train.mixture import Mixture
from npsiglip.train.optimizer import AdamW
from npsiglip.train.plot import draw_plot, draw_reliability
from npsiglip.train.pool import Pool, embed
from npsiglip.train.progress import Pace, Progress, Result, Silent, Watcher
from npsiglip.train.saving import State
from npsiglip.train.schedule import schedule
from npsiglip.train.step import Gradients
from npsiglip.train.stopping import Signals

MODEL_FOLDER = "model"
SUMMARY = "summary.json"
PLOT_SECONDS = 60.0  # from one plot to the next
PARTS = ("embedding", "gradients", "optimizer", "waiting", "pixels", "evaluation", "checkpoints")  # of a run's time


def _not_finite(flat: Flat) -> list[str]:
    return [name for name, view in flat.views.items() if not np.isfinite(view).all()]


class Trainer:
    """One run of `config` in `folder`, from the start or from the folder's checkpoint.

    Args:
        config: the settings.
        folder: created if need be: checkpoint.safetensors, metrics.jsonl, plot.png, spiece.model, summary.json, and
            the finished model in model/.
        resume: go on from the checkpoint, if there is one.
        watcher: who is told of progress.
        source: what draws, with `data.embedded` a `Mixture`; None: that of the settings.
        make_gradients: makes what computes gradients, with the arguments of `Gradients`.
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
        make_gradients: Callable[..., Any] = Gradients,
        evaluation: Callable[..., dict[str, float]] | None = None,
    ) -> None:
        self._began = time.perf_counter()
        self.config, self.folder = config, Path(folder)
        self.shapes: SigLIPConfig = config.siglip
        self._watcher = watcher or Silent()
        self._in_world = source is None and not config.data.sources
        saved = preparing.check_run(config, self.folder, resume, self._in_world, self._watcher)
        self.state = saved or State(settings=config.deciding())
        self._source = source or preparing.open_source(config, self._watcher)
        if saved:
            self._tokenizer_file = preparing.resumed_tokenizer(self.folder, saved)
        else:
            report_duplicates(config, self._watcher)
            self._tokenizer_file = preparing.first_tokenizer(config, self.folder, self._source, self._watcher)
            self.state.tokenizer = saving.file_hash(self._tokenizer_file)
        self._last_evaluation: dict[str, float] = {}
        self._evaluation = evaluation
        if evaluation is None and config.data.tests:
            self._evaluation = HeldOut(config)
        self._prepare_params(make_gradients, saved is not None)
        self._before = dict(self.state.times)
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._drawing = self._pool_drawing = 0.0
        self._plotted = self._began
        self._skipped: dict[str, str] = {}

    def _prepare_params(self, make_gradients: Callable[..., Any], resumed: bool) -> None:
        """Parameters, gradients and moments, from the checkpoint or for a new run; and what computes with them."""
        config, train, shapes = self.config, self.config.train, param_shapes(self.shapes)
        self.params, self._grads = Flat(shapes), Flat(shapes)
        self._locked = locked_params(config)
        self._optimizer = AdamW(shapes, config.optimizer, self._locked)
        self._gradients = make_gradients(
            self.shapes,
            train.batch,
            config.model.text.seq_len,
            loss=train.loss,
            locked=frozenset({train.lock} if train.lock else ()),
            dtype=train.dtype,
            **({} if train.blocks is None else {"blocks": train.blocks}),
        )
        if resumed:
            saving.load_tensors(self.folder, self.params, self._optimizer.m, self._optimizer.v, self._locked)
            self._optimizer.count = self.state.step
            return
        values = preparing.first_params(config, self._source)
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
        saved = saving.load_state(self.folder)
        where = f"the checkpoint of step {saved.step} is kept" if saved else "there is no checkpoint yet"
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
                    loss = float(self._gradients.step(self.params, batch.images, batch.ids, self._grads))
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
            saving.save(self.folder, self.state, self.params, self._optimizer.m, self._optimizer.v, self._locked)
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
        logged = state.step % config.run.log_every == 0 or state.step == config.end
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
            seconds_left=seconds_a_step * (config.end - state.step),
            waiting=self._parts["waiting"] / (time.perf_counter() - self._began),
            evaluation=self._last_evaluation,
        )
        if logged:
            hidden = ("steps", "seconds_left", "evaluation")
            log.add({key: value for key, value in asdict(progress).items() if key not in hidden})
            state.window.clear()
        self._watcher.step(progress, logged)

    def _next(self, batches: Batches, signals: Signals) -> Batch | None:
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
        self._drawing = self._pool_drawing + batches.cpu_seconds
        self._tell_skipped(batches.skipped)
        return batch

    def _tell_skipped(self, skipped: dict[str, str]) -> None:
        for name in skipped.keys() - self._skipped.keys():
            self._watcher.tell(f"skipped, cannot be decoded: {name}: {skipped[name]}")
        self._skipped |= skipped

    def _embed(self, signals: Signals) -> Pool | None:
        """The pictures of `data.embedded`, None after a signal."""
        mixture = self._source
        assert isinstance(mixture, Mixture)
        rows = mixture.pool_rows
        what = f"Embedding {rows:,} pictures once"
        self._watcher.say(what)
        with self._timed("embedding"):
            pool = embed(
                self.config,
                mixture,
                self.params,
                lambda: signals.number != 0,
                lambda done, rows: self._watcher.say(f"{what}: {done / rows:.0%}"),
            )
        if pool is not None:
            self._pool_drawing = pool.cpu_seconds
            self._tell_skipped(pool.skipped)
            self._watcher.tell(
                f"{rows:,} pictures embedded in {self._parts['embedding']:.0f} s, {pool.vectors.nbytes / 1e6:,.1f} MB"
            )
        return pool

    def _run_steps(self, signals: Signals, log: MetricsLog) -> None:
        """Steps until the last one, or until a signal."""
        state, run, steps = self.state, self.config.run, self.config.end
        todo = range(state.step, steps)
        source, images = self._source, None
        if self.config.data.embedded:
            pool = self._embed(signals)
            if pool is None:
                return
            source, images = pool.batches, pool.images
        saved, pace = time.perf_counter(), Pace()
        with Batches(
            source, self._tokenizer_file, self.config.model.text.seq_len, todo, run.workers, run.ahead, images
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
        with Signals() as signals, thread_count(self.config.run.threads or None):
            log = MetricsLog(self.folder, self.state.step)
            if self.state.step < self.config.end:
                self._run_steps(signals, log)
                self._save()
            if self.state.step < self.config.end:
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
