"""Experiments on real pictures: what they run, train on and measure. One of them is run, small."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from benchmarks import real_experiment_data, real_experiments
from benchmarks.experiment_runs import Options, panels, plan, plot, run_all, table
from benchmarks.real_experiment_data import DESIGNERS, NamedPool, NamedTest, draw_pool, names_in, unknown
from benchmarks.real_experiments import EXPERIMENTS, emoji, main
from npsiglip.train.config import read_config
from tests.helpers import pairs_data

COLOURS = {"1F34E": (220, 30, 30), "1F34F": (30, 200, 40), "1F44B": (40, 60, 230)}
NAMES = {
    "en": ("red apple", "green apple", "waving hand"),
    "sv": ("rött äpple", "grönt äpple", "vinkande hand"),
    "th": ("แอปเปิลแดง", "แอปเปิลเขียว", "มือโบก"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three emoji, each of one colour whoever drew it, as `golden/make_builtin_data.py` would have them."""
    root = tmp_path_factory.mktemp("data")
    for designer in (*DESIGNERS, "openmoji"):
        (root / designer).mkdir()
        for key, colour in COLOURS.items():
            pairs_data.picture(colour, mode="RGBA").save(root / designer / f"{key.lower()}.png")
    for language, names in NAMES.items():
        (root / "emojibase-data" / language).mkdir(parents=True)
        entries = [
            {"label": name, "hexcode": key, "order": i}
            for i, (key, name) in enumerate(zip(COLOURS, names, strict=True))
        ]
        (root / "emojibase-data" / language / "data.json").write_text(json.dumps(entries))
    return root


@pytest.fixture(autouse=True)
def few(data, monkeypatch):
    monkeypatch.setenv("DATA", str(data))
    monkeypatch.setattr(real_experiments, "POOL", 24)
    monkeypatch.setattr(real_experiments, "TEST", 4)


def plans(name, tiny_folder, steps=50, seeds=1, quick=False):
    return plan(EXPERIMENTS[name], Options(steps, seeds, quick, str(tiny_folder)))


# -- what is run ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_plans_have_settings_that_training_accepts(name, quick, tiny_folder):
    runs = plans(name, tiny_folder, seeds=2, quick=quick)
    assert {run.seed for run in runs} == {0, 1}
    assert len({(run.line, run.x, run.seed) for run in runs}) == len(runs)
    for run in runs:
        config = read_config(run.settings)
        assert config.train.seed == config.data.seed == run.seed
        assert bool(config.data.embedded) == (name != "language")
        assert all(path.startswith("$DATA/") and "openmoji" not in path for path in config.data.sources[0].path)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("real_loss", {"train.loss", "train.bias"}),
        ("real_noise", {"train.loss"}),
        ("language", {"train.lock", "train.init"}),
    ],
)
def test_runs_at_one_place_differ_in_what_is_varied_and_in_nothing_else(name, settings, tiny_folder):
    runs = [run for run in plans(name, tiny_folder) if "English" not in run.line]
    for x in {run.x for run in runs}:
        found = [read_config(run.settings).deciding() for run in runs if run.x == x]
        assert {key for key in found[0] if len({str(one.get(key)) for one in found}) > 1} == settings


def test_all_batches_see_as_many_pairs(tiny_folder):
    runs = [read_config(run.settings).train for run in plans("real_loss", tiny_folder)]
    assert {run.batch for run in runs} == {64, 256}
    assert {run.batch * run.steps for run in runs} == {50 * 256}
    assert EXPERIMENTS["real_loss"].steps >= 600


@pytest.mark.parametrize(("known", "count"), [("rött grönt äpple vinkande hand", {"sv": 3, "th": 2}), ("", 2)])
def test_a_vocabulary_is_kept_where_it_can_spell(known, count, tiny_folder, monkeypatch):
    def spelt(init, texts):
        letters = [letter for text in texts for letter in text if letter.isalpha()]
        return sum(letter not in known for letter in letters) / len(letters)

    monkeypatch.setattr(real_experiments, "unknown", spelt)
    runs = plans("language", tiny_folder)
    for language in ("sv", "th"):
        lines = {run.line: run for run in runs if run.x == language}
        assert len(lines) == (count[language] if known else count)
        if len(lines) == 3:
            config = read_config(lines["locked, text tower from English"].settings)
            assert (config.train.lock, config.new_tower, config.train.init) == ("image", "", str(tiny_folder))
        config = read_config(lines["locked, new text tower"].settings)
        assert config.new_tower == "text"
        assert list(config.data.sources[0].languages) == [language]


def test_letters_that_a_vocabulary_cannot_spell():
    assert unknown("builtin", ["Red apple", "1!"]) == 0
    assert unknown("builtin", ["a\u0e01\u0e02", "\u0e01"]) == 0.75


# -- what they are trained on and measured with -----------------------------------------------------------------------


def shown_colour(picture):
    """The emoji whose colour the middle of a picture is nearest to."""
    middle = picture[10:-10, 10:-10].reshape(-1, 3).astype(float)
    distances = {key: np.abs(middle - colour).sum(axis=1).min() for key, colour in COLOURS.items()}
    return min(distances, key=distances.get)


def test_pool(tmp_path, tiny_folder):
    settings = plans("language", tiny_folder)[0].settings
    settings["train"]["batch"], settings["data"]["sources"][0]["languages"] = 12, {"en": 1.0}
    config, file = read_config(settings), tmp_path / "pictures.npy"
    keys = draw_pool(config, 24, file)
    assert all(set(keys[i : i + 3]) == set(COLOURS) for i in range(0, 24, 3))
    pictures, names = NamedPool(config, file, keys).batch(3)
    assert pictures.shape == (12, 38, 38, 3)
    assert [shown_colour(picture) for picture in pictures] == [list(COLOURS)[NAMES["en"].index(n)] for n in names]
    assert all(len(set(names[i : i + 3])) == 3 for i in range(0, 12, 3))
    again = pickle.loads(pickle.dumps(NamedPool(config, file, keys))).batch(3)
    np.testing.assert_array_equal(pictures, again[0])
    assert names == again[1]
    assert np.any(NamedPool(config, file, keys).batch(4)[0] != pictures)
    assert sorted(NamedPool(config, file, keys).captions(9)) == sorted(NAMES["en"])
    settings["data"]["sources"][0]["languages"] = {"sv": 1.0}
    other = NamedPool(read_config(settings), file, keys).batch(3)
    np.testing.assert_array_equal(pictures, other[0])
    assert other[1] == [NAMES["sv"][NAMES["en"].index(name)] for name in names]


class Seeing:
    """A model that knows `right` of the colours and takes the others for the first."""

    def __init__(self, names, right):
        self.names, self.right = names, right

    def tokenizer(self, texts):
        assert sorted(texts) == sorted(self.names)
        return texts

    def encode_text(self, texts):
        return [list(COLOURS)[self.names.index(text)] for text in texts]

    def encode_image(self, pixels):
        found = [shown_colour(127.5 * (image.transpose(1, 2, 0) + 1)) for image in pixels]
        return [key if key in self.right else next(iter(COLOURS)) for key in found]

    def compare(self, seen, named):
        return type("Compared", (), {"logits_per_image": np.array([[float(a == b) for b in named] for a in seen])})


@pytest.mark.parametrize("language", ["en", "th"])
def test_every_picture_is_put_against_all_names(language, tiny_folder, monkeypatch):
    settings = plans("real_loss", tiny_folder)[0].settings
    settings["data"]["sources"][0]["languages"] = {language: 1.0}
    test = NamedTest(99, read_config(settings))
    assert {name: len(labels) for name, (_, labels) in test.sets.items()} == {"emoji": 9, "openmoji": 3}
    assert test(Seeing(NAMES[language], list(COLOURS))) == {"emoji": 1.0, "openmoji": 1.0}
    assert test(Seeing(NAMES[language], [])) == {"emoji": 1 / 3, "openmoji": 1 / 3}
    assert names_in(language, os.environ["DATA"])["1F44B"] == NAMES[language][2]


# -- results ----------------------------------------------------------------------------------------------------------


def trained(config, source, test, folder):
    """Instead of training: a curve that follows from the settings."""
    right = 0.001 * config.train.batch + 0.1 * config.train.seed + 0.2 * (config.train.loss == "sigmoid")
    points = [{"step": s, "seconds": 0.1 * s, "emoji": r, "openmoji": r / 2} for s, r in ((3, 0.0), (5, right))]
    return {"seconds": 2.0, "curve": points}


def test_tables_and_plots(tmp_path, tiny_folder):
    said, found = [], {}
    for name, experiment in EXPERIMENTS.items():
        options = Options(5, 2, model=str(tiny_folder))
        found[name] = run_all(name, experiment, options, tmp_path, emoji(), trained, said.append)
        assert str(os.environ["DATA"]) not in (tmp_path / f"{name}.json").read_text()
    assert said[0] == ("1/12  batch 64, sigmoid, bias -10, seed 0: another rendering 26.4 %, OpenMoji 13.2 %; 2.0 s")
    rows = [line.strip("|").split("|") for line in table(EXPERIMENTS["real_loss"], found["real_loss"]).splitlines()]
    heads = ["batch", "run", "another rendering, %", "OpenMoji, %", "seconds", "pairs to half of: another rendering"]
    assert [cell.strip() for cell in rows[0]] == heads
    expected = ["64", "sigmoid, bias -10", "31.4 ± 7.1", "15.7 ± 3.5", "2.0", "not by all"]
    assert [cell.strip() for cell in rows[2]] == expected
    rows = table(EXPERIMENTS["language"], found["language"]).splitlines()
    assert [row.split("|")[1].strip() for row in rows[2:]] == sorted(row.split("|")[1].strip() for row in rows[2:])
    assert "| not by all" in rows[2]
    shown = panels(EXPERIMENTS["language"], found["language"])
    assert [(title, key, by) for title, _, key, by in shown] == [
        ("language sv", "emoji", "pairs"),
        ("language th", "emoji", "pairs"),
    ]
    assert {entry["x"] for entry in shown[1][1]} == {"th"}
    pytest.importorskip("matplotlib")
    for name, entries in found.items():
        plot(tmp_path / f"{name}.png", EXPERIMENTS[name], entries)
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.size == (1000, 400)


def test_a_folder_without_names(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["real_loss", "--data", str(tmp_path)])
    assert "has no emojibase-data" in capsys.readouterr().err


@pytest.mark.slow
def test_an_experiment(data, tmp_path, capsys, monkeypatch):
    """The real thing, as small as it can be."""
    monkeypatch.setattr(real_experiments, "BATCHES", (4,))
    monkeypatch.setattr(real_experiments, "NOISE", (0.0, 0.5))  # two of four, the least that can be exchanged
    command = ["real_noise", "--quick", "--steps", "2", "--out", str(tmp_path / "out"), "--data", str(data)]
    main(command)
    printed = capsys.readouterr().out
    assert "\nreal_noise, 2 steps; mean and standard deviation over 1 seed\n" in printed
    runs = json.loads((tmp_path / "out" / "real_noise.json").read_text())["runs"]
    assert len(runs) == 4
    assert all(0 <= run["curve"][-1]["openmoji"] <= 1 for run in runs)
    monkeypatch.setattr(real_experiment_data, "drawn", None)  # nothing is drawn or trained again
    main(command)
    assert capsys.readouterr().out == printed
