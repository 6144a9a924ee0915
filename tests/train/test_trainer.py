"""Whole runs: the same bits again, whatever interrupts them; what goes wrong is said, and nothing is lost.

Covers train/export.py, train/measure.py, train/progress.py and train/stopping.py as well.
"""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors import safe_open

from npsiglip import SigLIP
from npsiglip.checkpoint import Checkpoint
from npsiglip.errors import CheckpointError, InputError
from npsiglip.kernels.jit import current, max_threads
from npsiglip.params import param_shapes
from npsiglip.train import TrainingError, saving, trainer
from npsiglip.train.config import Config
from npsiglip.train.metrics_log import read_metrics
from tests.helpers.golden_data import ROOT
from tests.helpers.train_runs import SEEN, Recorder, bits, run
from tests.helpers.train_standin import StandIn, config


class Descent:
    """Instead of kernels: gradients that depend on everything and cost nothing."""

    def __init__(self, shapes, batch, text_len, loss, locked, dtype):
        assert (batch, text_len) == (4, 8)
        self.locked = locked

    def step(self, params, pixels, ids, grads):
        grads.vector[:] = 0.1 * params.vector + 0.01 * pixels.mean() + 1e-4 * ids.mean()
        for name, view in grads.views.items():
            if name.split(".")[0] in self.locked:
                view[...] = 0
        return float((params.vector.astype(np.float64) ** 2).sum())


def without(settings, names):
    return {name: value for name, value in settings.items() if name not in names}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run on kernels that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    watcher = Recorder()
    result = run(folder, watcher=watcher).run()
    return folder, result, watcher


def test_a_run_leaves_what_it_should(whole):
    folder, result, watcher = whole
    assert (result.step, result.finished, result.signal) == (6, True, 0)
    names = {"checkpoint.safetensors", "metrics.jsonl", "model", "spiece.model", "summary.json"}
    assert {path.name for path in folder.iterdir()} - {"plot.png", "reliability.png"} == names
    lines = read_metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 6]
    assert lines[-1].items() >= SEEN.items()
    assert lines[5]["loss"] < lines[0]["loss"]  # it learns
    assert lines[0]["rate"] == pytest.approx(1e-3)
    assert [p.step for p in watcher.progress] == [1, 2, 3, 4, 5, 6]
    assert watcher.progress[-1].evaluation == {}
    assert watcher.progress[-1].seconds_left == 0
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["pairs"] == 24
    assert summary["settings"]["train.seed"] == 3
    assert summary["results"] == SEEN
    times = summary["seconds"]
    assert sum(times[part] for part in trainer.PARTS) <= times["total"]
    assert times["gradients"] > 0


def test_the_model_that_is_written_is_the_one_that_was_trained(whole):
    folder, _, _ = whole
    model = SigLIP.from_pretrained(folder / "model")
    checkpoint = Checkpoint.open(folder / "model")
    trained = run(folder, resume=True)
    for name, view in trained.params.views.items():
        np.testing.assert_array_equal(checkpoint[name], view)
    pictures, captions = StandIn().batch(0)
    assert model(pictures, model.tokenizer(captions)).probs.shape == (4, 4)
    assert model.processor.height == 16
    assert model.tokenizer.seq_len == 8


@pytest.mark.parametrize("changes", [{"threads": 1}, {"threads": min(2, max_threads()), "workers": 2, "ahead": 1}])
def test_a_rerun_has_the_same_bits_for_any_number_of_threads(whole, tmp_path, changes):
    run(tmp_path / "run", config(run=changes)).run()
    assert bits(tmp_path / "run") == bits(whole[0])


def test_products_in_bfloat16(whole, tmp_path):
    run(tmp_path / "run", config(train={"dtype": "bfloat16"})).run()
    ours, theirs = ([line["loss"] for line in read_metrics(f) if "loss" in line] for f in (tmp_path / "run", whole[0]))
    assert ours != theirs
    np.testing.assert_allclose(ours, theirs, rtol=0.05)


def test_another_seed_has_other_bits(whole, tmp_path):
    run(tmp_path / "run", config(train={"seed": 4})).run()
    assert bits(tmp_path / "run")[1] != bits(whole[0])[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(whole, tmp_path, number):
    before = signal.getsignal(number)
    result = run(tmp_path / "run", watcher=Recorder(2, number)).run()
    assert (result.step, result.finished, result.signal) == (2, False, number)
    assert signal.getsignal(number) == before
    assert not (tmp_path / "run" / "model").exists()
    first = saving.load_state(tmp_path / "run").times["total"]
    result = run(tmp_path / "run", config(run={"workers": 2}), resume=True).run()
    assert (result.step, result.finished) == (6, True)
    assert bits(tmp_path / "run") == bits(whole[0])
    assert result.summary["seconds"]["total"] > first


def test_a_run_ends_early_with_a_model_and_can_go_on(whole, tmp_path):
    """With the schedule of all steps, so that what goes on ends with the bits of a run that did not end early."""
    watcher = Recorder()
    early = run(tmp_path / "run", config(run={"until": 2}), watcher=watcher).run()
    assert (early.step, early.finished, early.summary["pairs"]) == (2, True, 8)
    assert [p.seconds_left == 0 for p in watcher.progress] == [False, True]
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() != bits(whole[0])[3]
    run(tmp_path / "run", resume=True).run()
    assert (bits(tmp_path / "run")[1], bits(tmp_path / "run")[3]) == (bits(whole[0])[1], bits(whole[0])[3])


def test_a_window_of_losses_goes_on(tmp_path):
    settings = config(run={"log_every": 4})
    run(tmp_path / "each", gradients=Descent).run()
    run(tmp_path / "whole", settings, gradients=Descent).run()
    run(tmp_path / "parts", settings, watcher=Recorder(2), gradients=Descent).run()
    run(tmp_path / "parts", settings, resume=True, gradients=Descent).run()
    each, whole, parts = (
        [line["loss"] for line in read_metrics(tmp_path / name) if "loss" in line]
        for name in ("each", "whole", "parts")
    )
    assert whole == [np.mean(each[:4]), np.mean(each[4:])]
    assert parts == whole


KILLED = """
import sys
sys.path.insert(0, ".")
from tests.helpers.train_runs import run
from tests.helpers.train_standin import StandIn, config
if __name__ == "__main__":
    often = config(train={"steps": 24}, run={"checkpoint_minutes": 1e-9})
    run(sys.argv[1], often, StandIn(), resume=True).run()
"""


def test_a_kill_at_any_moment_loses_nothing(tmp_path):
    settings = config(train={"steps": 24})
    run(tmp_path / "whole", settings).run()
    script, folder = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests")))}
    step = 0
    for _ in range(2):
        process = subprocess.Popen([sys.executable, script, folder], cwd=ROOT, env=environment)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            state = saving.load_state(folder) if folder.exists() else None
            if state and state.step >= step + 3:  # it writes checkpoints nearly all of the time: killed in one, or not
                break
            time.sleep(0.003)
        assert process.poll() is None, "ended before it was killed"
        process.kill()
        process.wait()
        assert saving.load_state(folder).step > step
        step = saving.load_state(folder).step
    (folder / ".npsiglip-half").mkdir(exist_ok=True)
    run(folder, settings, resume=True).run()
    assert bits(folder) == bits(tmp_path / "whole")
    assert not list(folder.glob(".npsiglip-*"))


# -- refusals ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_a_run_is_not_overwritten(whole):
    with pytest.raises(InputError, match="holds a run already, at step 6 of 6: go on with --resume"):
        run(whole[0])


def test_other_settings_are_refused_those_of_run_are_not(whole):
    with pytest.raises(InputError, match=r"other settings(.|\n)*- optimizer.rate: 0.002 in the checkpoint, 0.1 now"):
        run(whole[0], config(optimizer={"rate": 0.1}), resume=True)
    run(whole[0], config(run={"log_every": 7}), resume=True)


def test_another_tokenizer_is_refused(whole, tmp_path):
    folder = tmp_path / "run"
    run(folder, watcher=Recorder(2), gradients=Descent).run()
    (folder / "spiece.model").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="not the tokenizer that the checkpoint was trained with"):
        run(folder, resume=True)


def test_threads_are_those_of_the_settings(tmp_path):
    used = []

    class Own(Descent):
        def step(self, *arguments):
            used.append(current())
            return super().step(*arguments)

    before = current()
    run(tmp_path, config(run={"threads": 1}), gradients=Own).run()
    assert used == [1] * 6
    assert current() == before


# -- what goes wrong on the way ---------------------------------------------------------------------------------------


class Broken(Descent):
    """Good for a few steps."""

    bad_loss, bad_name, good = 1.0, "", 3

    def step(self, params, pixels, ids, grads):
        loss = super().step(params, pixels, ids, grads)
        self.good -= 1
        if self.good >= 0:
            return loss
        if self.bad_name:
            grads.views[self.bad_name].flat[0] = np.nan
        return self.bad_loss


@pytest.mark.parametrize(
    ("loss", "name", "message"),
    [
        (float("nan"), "", "step 4: the loss is nan, the gradients' norm"),
        (float("inf"), "", "step 4: the loss is inf"),
        (1.0, "text.head.w", "norm nan, and so is the gradient of text.head.w; the checkpoint of step 3 is kept"),
    ],
)
def test_what_is_not_finite_stops_the_run(tmp_path, loss, name, message):
    class Own(Broken):
        bad_loss, bad_name = loss, name

    settings = config(run={"checkpoint_minutes": 1e-9})
    with pytest.raises(TrainingError, match=message):
        run(tmp_path, settings, gradients=Own).run()
    assert saving.load_state(tmp_path).step == 3
    assert len(read_metrics(tmp_path)) == 3


def test_parameters_out_of_hand(tmp_path):
    """On kernels: the embeddings overflow, which the loss tells."""
    settings = config(optimizer={"rate": 1e30, "warmup": 0})
    with pytest.raises(TrainingError, match=r"step 2: the loss (.|\n)*there is no checkpoint yet. Training diverged"):
        run(tmp_path, settings).run()


def test_drawing_that_fails_loses_no_step(tmp_path):
    with pytest.raises(TrainingError, match="no more paint"):
        run(tmp_path, source=StandIn(fail_at=4), gradients=Descent).run()
    assert saving.load_state(tmp_path).step == 4
    assert run(tmp_path, resume=True, gradients=Descent).run().finished


def test_a_disk_that_fills_up(tmp_path, monkeypatch):
    def full(tensors, path, metadata=None):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    run(tmp_path, watcher=Recorder(2), gradients=Descent).run()
    before = (tmp_path / saving.FILE).read_bytes()
    monkeypatch.setattr(saving, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step 6 cannot be written .*No space left.*the checkpoint before it"):
        run(tmp_path, resume=True, gradients=Descent).run()
    assert (tmp_path / saving.FILE).read_bytes() == before
    monkeypatch.undo()
    assert run(tmp_path, resume=True, gradients=Descent).run().finished


# -- other beginnings -------------------------------------------------------------------------------------------------


def test_a_locked_tower_keeps_its_weights(whole, tmp_path):
    first = whole[0] / "model"
    settings = config(train={"lock": "image", "init": str(first), "seed": 9}, optimizer={"weight_decay": 0.1})
    started = run(tmp_path / "run", settings)
    before = {name: view.copy() for name, view in started.params.views.items()}
    started.run()
    stored = Checkpoint.open(first)
    for name, view in started.params.views.items():
        if name.startswith("image."):
            np.testing.assert_array_equal(before[name], stored[name])  # from the folder ...
            np.testing.assert_array_equal(view, stored[name])  # ... and so it stays
        elif name != "text.head.w":
            assert np.any(view != before[name]), name
    assert np.any(before["text.head.w"] != stored["text.head.w"])  # the text tower begins anew
    assert before["bias"] == -10
    assert saving.load_state(tmp_path / "run").settings["train.lock"] == "image"
    with safe_open(tmp_path / "run" / saving.FILE, framework="np") as file:  # no moments of what is locked
        assert not any(key.startswith(("m/image.", "v/image.")) for key in file.keys())  # noqa: SIM118  no mapping
        assert "m/text.head.w" in file.keys()  # noqa: SIM118


def test_the_heads_are_fine_tuned_and_nothing_before_them(whole, tmp_path):
    first = whole[0] / "model"
    settings = config(train={"blocks": 0, "init": str(first), "seed": 9}, optimizer={"weight_decay": 0.1})
    tuned = run(tmp_path / "run", settings)
    tuned.run()
    stored = Checkpoint.open(first)
    for name, view in tuned.params.views.items():
        if ".blocks." in name or "embed" in name:
            np.testing.assert_array_equal(view, stored[name])
        elif not name.endswith("attn.k.b"):
            assert np.any(view != stored[name]), name
    resumed = run(tmp_path / "again", settings, watcher=Recorder(2)).run()
    assert resumed.step == 2
    run(tmp_path / "again", settings, resume=True).run()
    assert bits(tmp_path / "again") == bits(tmp_path / "run")


def test_mean_pooling_weighs_all_tokens_alike(tmp_path):
    settings = config(train={"pool": "mean"}, optimizer={"weight_decay": 0.0})
    started = run(tmp_path / "run", settings)
    before = {name: view.copy() for name, view in started.params.views.items()}
    started.run()
    query = {f"image.map_head.attn.q.{part}" for part in "wb"}
    for name, view in started.params.views.items():
        if name in query or name == "image.map_head.probe":
            np.testing.assert_array_equal(view, before[name])
            assert np.any(view) == (name not in query)
        elif not name.endswith("attn.k.b"):  # which has no gradient, and here all of the keys have none
            assert np.any(view != before[name]) == ("map_head.attn.k" not in name), name
    model = SigLIP.from_pretrained(tmp_path / "run" / "model")
    probs = model.trace(images=StandIn().batch(0)[0])["image.map_head.attn.probs"]
    np.testing.assert_array_equal(probs, np.full_like(probs, 1 / 4))
    assert model.config == SigLIP.from_pretrained(tmp_path / "run" / "model").config


def test_a_checkpoint_from_before_a_setting_goes_on(whole, tmp_path, monkeypatch):
    """What it does not name had its default; with anything else it is refused."""
    folder, new = tmp_path / "run", ("train.pool", "data.label_noise", "data.embedded")
    monkeypatch.setattr(Config, "deciding", lambda self, whole=Config.deciding: without(whole(self), new))
    run(folder, watcher=Recorder(2)).run()
    monkeypatch.undo()
    assert not set(new) & set(saving.load_state(folder).settings)
    with pytest.raises(InputError, match=r"- train.pool: 'not set' in the checkpoint, 'mean' now"):
        run(folder, config(train={"pool": "mean"}), resume=True)
    with pytest.raises(InputError, match=r"- data.label_noise: 'not set' in the checkpoint, 0.5 now"):
        run(folder, config(data={"label_noise": 0.5}), resume=True)
    run(folder, resume=True).run()
    assert bits(folder)[1:] == bits(whole[0])[1:]


def test_a_whole_model_to_start_from(whole, tmp_path):
    started = run(tmp_path / "run", config(train={"init": str(whole[0] / "model")}), StandIn(seed=1), gradients=Descent)
    stored = Checkpoint.open(whole[0] / "model")
    for name in param_shapes(started.shapes):
        np.testing.assert_array_equal(started.params.views[name], stored[name])
    assert (tmp_path / "run" / "spiece.model").read_bytes() == (whole[0] / "spiece.model").read_bytes()
    with pytest.raises(CheckpointError, match="does not exist"):
        run(tmp_path / "other", config(train={"init": str(tmp_path / "nowhere"), "lock": "image"}))


def test_evaluation_on_the_way(tmp_path):
    watcher = Recorder()
    run(tmp_path, config(run={"eval_every": 2}), watcher=watcher, gradients=Descent).run()
    assert [line["step"] for line in read_metrics(tmp_path) if "seen" in line] == [2, 4, 6]
    assert [bool(p.evaluation) for p in watcher.progress] == [False, False, True, True, True, True]
