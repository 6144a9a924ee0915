"""Experiments: what they run, that they go on after a stop, and what they show. One of them is run, small."""

import json

import numpy as np
import pytest

from benchmarks import experiments
from benchmarks.experiment_data import Pool, draw_pool, softmax_loss
from benchmarks.experiment_runs import Options, plan, plot, run_all, table
from benchmarks.experiments import EXPERIMENTS, drawn, main
from npsiglip import reference
from npsiglip.train.config import read_config
from npsiglip.train.worlds import mislabelled
from tests.helpers.arrays import normal


@pytest.mark.parametrize("t_prime", [np.log(10), 4.5])
def test_softmax_is_that_of_the_reference(t_prime):
    zimg, ztxt = normal(0, 50, 24), normal(1, 50, 24)
    zimg, ztxt = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (zimg, ztxt + zimg))
    ours, truth = softmax_loss(zimg, ztxt, t_prime), reference.softmax_loss(zimg, ztxt, t_prime)
    for name, value in truth._asdict().items():  # float32, t = 10, and sums of 50: some tens of roundings
        np.testing.assert_allclose(getattr(ours, name), value, rtol=2e-5, atol=2e-6 * np.abs(value).max(), err_msg=name)


# -- what is run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_plans_have_settings_that_training_accepts(name, quick, tiny_folder):
    runs = plan(EXPERIMENTS[name], Options(50, 2, quick, str(tiny_folder)))
    assert {run.seed for run in runs} == {0, 1}
    assert len({(run.line, run.x, run.seed) for run in runs}) == len(runs)
    for run in runs:
        config = read_config(run.settings)
        assert config.train.steps == 50
        assert config.train.seed == config.data.seed == run.seed
    seeds = [[(run.line, run.x) for run in runs if run.seed == seed] for seed in (0, 1)]
    assert seeds[0] == seeds[1]


def differing(name, tiny_folder):
    """The settings in which the runs of a seed differ."""
    runs = [
        read_config(run.settings).deciding() for run in plan(EXPERIMENTS[name], Options(50, 1, model=str(tiny_folder)))
    ]
    return {key for key in {*runs[0], *runs[-1]} if len({str(run.get(key)) for run in runs}) > 1}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("loss", {"train.loss", "train.batch", "train.bias"}),
        ("bias", {"train.bias"}),
        ("noise", {"train.loss", "data.label_noise"}),
        ("locked", {"train.lock", "train.init"}),
        ("pooling", {"train.pool"}),
    ],
)
def test_runs_differ_in_what_is_varied_and_in_nothing_else(name, settings, tiny_folder):
    assert differing(name, tiny_folder) == settings


def test_pool(tmp_path):
    settings = plan(EXPERIMENTS["noise"], Options(5, 1, quick=True))[-1].settings
    settings["train"]["batch"] = 16
    config = read_config(settings)
    assert config.data.label_noise == 0.2
    file = tmp_path / "pictures.npy"
    texts = draw_pool(config, 24, file)
    pictures, captions = Pool(config, file, texts).batch(3)
    again = Pool(config, file, texts).batch(3)
    np.testing.assert_array_equal(pictures, again[0])
    assert captions == again[1]
    every = [picture.tobytes() for picture in np.load(file)]
    chosen = [every.index(picture.tobytes()) for picture in pictures]
    assert len(set(chosen)) == 16
    assert captions == mislabelled([texts[i] for i in chosen], 0.2, 0, 3)
    assert np.any(Pool(config, file, texts).batch(4)[0] != pictures)
    assert list(Pool(config, file, texts).captions(5)) == texts[:5]


# -- results ----------------------------------------------------------------------------------------------------------


class Trained:
    """Instead of training: a curve that follows from the settings."""

    def __init__(self, stop_at=None):
        self.made, self.stop_at = [], stop_at

    def __call__(self, config, source, test, folder):
        if len(self.made) == self.stop_at:
            raise KeyboardInterrupt
        self.made.append((config.train.loss, config.train.batch, config.train.seed))
        right = 0.01 * config.train.batch + 0.1 * config.train.seed + 0.2 * (config.train.loss == "sigmoid")
        points = [{"step": s, "seconds": 0.1 * s, "top1": r, "colour": r, "shape": r} for s, r in ((3, 0), (5, right))]
        return {"seconds": 2.0, "curve": points}


def run(name, options, *others):
    return run_all(name, EXPERIMENTS[name], options, others[0], drawn(), *others[1:])


@pytest.fixture
def few_batches(monkeypatch):
    monkeypatch.setattr(experiments, "BATCHES", (16, 32))
    monkeypatch.setattr(experiments, "POOL", 32)
    monkeypatch.setattr(experiments, "TEST", 4)


def test_an_experiment_that_was_stopped_goes_on(tmp_path, few_batches):
    said, first, second, third = [], Trained(stop_at=3), Trained(), Trained()
    with pytest.raises(KeyboardInterrupt):
        run("loss", Options(5, 2), tmp_path, first, said.append)
    assert len(said) == 3
    entries = run("loss", Options(5, 2), tmp_path, second, said.append)
    assert first.made + second.made == [(l, b, s) for s in (0, 1) for b in (16, 32) for l in ("sigmoid", "softmax")]
    assert run("loss", Options(5, 2), tmp_path, third, said.append) == entries
    assert third.made == []
    assert [path.name for path in tmp_path.iterdir()] == ["loss.json"]
    stored = json.loads((tmp_path / "loss.json").read_text())
    assert stored["runs"] == entries
    assert entries[0]["settings"]["train.batch"] == 16
    run("loss", Options(6, 1), tmp_path, third, said.append)  # other settings are other runs
    assert len(third.made) == 4
    assert len(json.loads((tmp_path / "loss.json").read_text())["runs"]) == 12
    assert (
        said[-1] == "4/4  batch 32, softmax, seed 0: top-1 of 64 32.0 %, colour of 8 32.0 %, shape of 8 32.0 %; 2.0 s"
    )


def test_table_and_plot_with_places(tmp_path, few_batches):
    entries = run("loss", Options(5, 2), tmp_path, Trained(), lambda text: None)
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(EXPERIMENTS["loss"], entries).splitlines()
    ]
    assert lines[0] == ["batch", "run", "top-1 of 64, %", "colour of 8, %", "shape of 8, %", "seconds"]
    assert lines[2] == ["16", "sigmoid", "41.0 ± 7.1", "41.0 ± 7.1", "41.0 ± 7.1", "2.0"]
    assert [line[:2] for line in lines[3:]] == [["16", "softmax"], ["32", "sigmoid"], ["32", "softmax"]]
    pytest.importorskip("matplotlib")
    plot(tmp_path / "plot.png", EXPERIMENTS["loss"], entries)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_table_and_plot_of_curves(tmp_path, few_batches):
    entries = run("bias", Options(5, 1), tmp_path, Trained(), lambda text: None)
    rows = table(EXPERIMENTS["bias"], entries).splitlines()
    assert rows[0].endswith("| pairs to half of: colour of 8 |")
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["bias -10", "bias -log(B - 1)", "bias 0"]
    assert all(row.split("|")[-2].strip() == "320" for row in rows[2:])  # 5 steps of 64
    pytest.importorskip("matplotlib")
    plot(tmp_path / "plot.png", EXPERIMENTS["bias"], entries)
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_an_experiment(tmp_path, capsys, monkeypatch):
    """The real thing, as small as it can be."""
    pytest.importorskip("matplotlib")
    command = ["pooling", "--quick", "--steps", "2", "--out", str(tmp_path / "out")]
    main([*command, "--plot", str(tmp_path / "plot.png")])
    printed = capsys.readouterr().out
    assert "\npooling, 2 steps; mean and standard deviation over 1 seed\n" in printed
    assert (tmp_path / "plot.png").exists()
    runs = json.loads((tmp_path / "out" / "pooling.json").read_text())["runs"]
    assert [run["settings"]["train.pool"] for run in runs] == ["map", "mean"]
    for run in runs:
        assert [point["step"] for point in run["curve"]] == [1, 2]
        assert all(0 <= point["shape"] <= 1 for point in run["curve"])
        assert run["seconds"] > run["curve"][-1]["seconds"] >= 0
    monkeypatch.setattr(experiments, "Test", None)  # nothing is drawn or trained again
    main(command)
    assert capsys.readouterr().out == printed
