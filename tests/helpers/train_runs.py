"""Whole runs of the trainer on a stand-in for the world, who watches them, and what of them must be the same again."""

import os
import signal

from npsiglip.train import saving
from npsiglip.train.metrics_log import read_metrics
from npsiglip.train.trainer import Trainer
from tests.helpers.train_standin import StandIn, config

SEEN = {"seen": 0.5, "held_out": 0.25}


NOT_BITS = ("seconds", "pairs_per_second", "waiting")  # of a line of metrics


def evaluation(model):
    assert model.tokenizer is not None
    return SEEN


class Recorder:
    """A watcher that sends a signal after a step."""

    def __init__(self, stop_after=None, number=signal.SIGINT):
        self.progress, self.said, self.told = [], [], []
        self.stop_after, self.number = stop_after, number

    def step(self, progress, logged):
        self.progress.append(progress)
        if progress.step == self.stop_after:
            os.kill(os.getpid(), self.number)

    def say(self, text):
        self.said.append(text)

    def tell(self, text):
        self.told.append(text)


def run(folder, settings=None, source=None, resume=False, watcher=None, gradients=None):
    make = {"make_gradients": gradients} if gradients else {}
    settings = settings or config()
    return Trainer(settings, folder, resume, watcher, source or StandIn(), evaluation=evaluation, **make)


def bits(folder):
    """What must be the same: the checkpoint but for its times, the metrics but for theirs, the model."""
    state = saving.load_state(folder)
    state.times = {}
    with (folder / saving.FILE).open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        file.seek(8 + size)
        vectors = file.read()
    lines = [{k: v for k, v in line.items() if k not in NOT_BITS} for line in read_metrics(folder)]
    return state, vectors, lines, (folder / "model" / "model.safetensors").read_bytes()


def line(step, **more):
    """A line of metrics."""
    return {"step": step, "seconds": 60.0 * step, **more}
