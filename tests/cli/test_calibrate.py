"""`npsiglip calibrate`: from a CSV or from queries alone, what is stored, what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from npsiglip import Index
from npsiglip.collection.calibrate import Calibration, by_share, fit, read
from npsiglip.collection.manifest import Manifest
from tests.helpers.arrays import normal
from tests.helpers.collections import index_of
from tests.helpers.command import assert_refused, invoke, lines_of_json, run

WORDS = ["a cat", "two dogs", "a bird", "a red car", "the sea"]


@pytest.fixture
def folder(tmp_path, monkeypatch, model):
    """60 rows around the vectors of words, so that cosines differ."""
    monkeypatch.chdir(tmp_path)
    texts = model.encode_text(WORDS)
    rows = np.repeat(texts, 12, axis=0) + 0.2 * normal(0, 60, texts.shape[1])
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index_of(tmp_path / "index", model, rows.astype(np.float32), [f"{i}.png" for i in range(60)])
    return rows, texts


def pairs_of(rows, texts):
    """All pairs, and labels drawn from the truth."""
    truth = Calibration(9.0, -5.0)
    cosines = (texts.astype(np.float64) @ rows.T).reshape(-1)
    return cosines, np.random.default_rng(3).random(cosines.size) < truth.probabilities(cosines)


def write(path, labels, number=60):
    lines = [f"{WORDS[i // number]},{i % number}.png,{int(label)}" for i, label in enumerate(labels)]
    path.write_text("query,item,match\n" + "\n".join(lines) + "\n", encoding="utf-8")


def calibrate(*args):
    return invoke("calibrate", "-i", "index", *args)


def test_labelled_pairs(folder, tmp_path):
    cosines, labels = pairs_of(*folder)
    write(tmp_path / "pairs.csv", labels)
    result = calibrate("pairs.csv", "--json")
    assert result.exit_code == 0, result.stderr
    found, expected = json.loads(result.stdout), fit(cosines, labels)
    assert found["scale"] == pytest.approx(expected.scale, rel=1e-4)
    assert found["bias_interval"] == pytest.approx(expected.bias_interval, rel=1e-3)
    assert found["measured"]["calibration error of pairs that were left out"] < found["measured"]["of the model"]
    assert read(tmp_path / "index") == (Calibration.from_dict(found), Manifest.read(tmp_path / "index").weights)
    assert "the model's" in calibrate("pairs.csv").stdout


def test_pairs_that_a_cosine_separates(folder, tmp_path, model):
    cosines, _ = pairs_of(*folder)
    write(tmp_path / "pairs.csv", cosines > np.median(cosines))
    result = calibrate("pairs.csv", "--json")
    assert "the bias alone is fitted" in result.stderr
    assert json.loads(result.stdout)["scale"] == pytest.approx(np.exp(model.t_prime))


def test_without_labels(folder, tmp_path, model):
    (tmp_path / "queries.txt").write_text("\n".join(WORDS) + "\n")
    result = calibrate("--estimate", "queries.txt", "--matches", 3, "--json")
    expected = by_share(pairs_of(*folder)[0], np.exp(model.t_prime), 3 / 60)
    assert json.loads(result.stdout)["bias"] == pytest.approx(expected.bias, rel=1e-4)
    assert_refused(calibrate("--estimate", "queries.txt", "--matches", 60), "less than 60 matches")


def test_rows_that_stand_for_others(folder, tmp_path, model, monkeypatch):
    monkeypatch.setattr("npsiglip.cli.calibrate.BEST", 20)
    monkeypatch.setattr("npsiglip.cli.calibrate.DRAWN", 20)
    (tmp_path / "queries.txt").write_text("\n".join(WORDS) + "\n")
    result = json.loads(calibrate("--estimate", "queries.txt", "--matches", 3, "--json").stdout)
    expected = by_share(pairs_of(*folder)[0], np.exp(model.t_prime), 3 / 60)
    assert result["pairs"] == 5 * 40
    assert result["bias"] == pytest.approx(expected.bias, abs=0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("query,item\na,0.png\n", "no column match"),
        ("", "no column query, item, match"),
        ("query,item,match\na,0.png,maybe\n", "line 2"),
        ("query,item,match\na,,1\n", "line 2"),
        ("query,item,match\na,99.png,1\n", "is not in the index"),
        ("query,item,match\na,0.png,1\n", "all match"),
    ],
)
def test_refused_pairs(folder, tmp_path, text, message):
    (tmp_path / "pairs.csv").write_text(text)
    assert_refused(calibrate("pairs.csv"), message)


def test_refused_options(folder):
    assert calibrate().exit_code == 2
    assert calibrate("pairs.csv", "--estimate", "x").exit_code == 2
    assert_refused(calibrate("missing.csv"), "cannot be read")


def test_classify_uses_it(folder, tmp_path, model):
    """By the index or the file; refused for other weights, and where there is none."""
    rows, texts = folder
    classified = ["classify", tmp_path / "new.png", "-l", "a cat", "-l", "two dogs", "--template", "{}", "--json"]
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "new.png")
    assert_refused(run(*classified, "--calibration", "index"), "has no calibration; `npsiglip calibrate` stores one")
    _, labels = pairs_of(rows, texts)
    write(tmp_path / "pairs.csv", labels)
    assert calibrate("pairs.csv").exit_code == 0
    fitted, _ = read(tmp_path / "index")
    cosines = model.encode_image(tmp_path / "new.png").astype(np.float64) @ model.encode_text(WORDS[:2]).T
    expected = dict(zip(WORDS[:2], fitted.probabilities(cosines)[0].tolist(), strict=True))
    for place in ("index", "index/calibration.json"):
        (line,) = lines_of_json(run(*classified, "--calibration", place).stdout)
        assert {each["label"]: each["score"] for each in line["scores"]} == pytest.approx(expected, rel=1e-5)
    in_python = model.classify(tmp_path / "new.png", WORDS[:2], "{}", Index.open("index").calibration)
    assert in_python == [line["scores"]]
    own = model.classify(tmp_path / "new.png", WORDS[:2], "{}")
    assert in_python != own
    refused = invoke(*classified, "--calibration", "index")
    assert refused.exit_code == 1
    assert "is of other weights than the model's" in refused.stderr
    assert_refused(run(*classified, "--calibration", "none.json"), "there is no such file")
    assert run(*classified, "--calibration", "index", "--check").exit_code == 2
