"""`npsiglip compare`."""

import json

import numpy as np
import pytest

from tests.helpers.command import assert_refused, invoke
from tests.helpers.golden_data import TINY


def compare(image, *args):
    return invoke("compare", image, *args)


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "v.npz"
    np.savez(path, image=[1.0, 0.0], texts=[[0.6, 0.8], [0.8, 0.6]], scale=10.0)
    return f"file:{path}"


def test_each_model_has_its_own_columns(images, model, vectors):
    result = compare(images[0], "-l", "a cat", "-l", "two dogs", "-m", TINY, "-m", vectors)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    heads = [line.split() for line in lines if line.endswith("  label")]
    assert heads == [
        ["cosine", "logit", "sigmoid", "softmax", "rank", "label"],
        ["cosine", "logit", "softmax", "rank", "label"],
    ]
    assert "file:v.npz  (softmax: shares of one among these labels: one more label changes all)" in lines
    assert any(line.startswith(f"  {TINY.name}, file:v.npz: ") for line in lines)
    assert [line.split()[-2:] for line in lines[7:9]] == [["two", "dogs"], ["a", "cat"]]


def test_json_is_what_the_model_says(images, model, tmp_path):
    (tmp_path / "labels.json").write_text(json.dumps({"en": ["a cat", "a dog"], "de": ["eine Katze", "ein Hund"]}))
    result = compare(images[0], "--labels", tmp_path / "labels.json", "-m", TINY, "--json", "--template", "{}")
    found = json.loads(result.stdout)
    right = model(images[0], ["a cat", "a dog", "eine Katze", "ein Hund"]).probs[0]
    said = [row["sigmoid"] for each in found["sets"] for row in each["models"][0]["scores"]]
    np.testing.assert_array_equal(said, right)
    assert found["languages"][0]["agreement"][0]["first"] == "en"
    assert "agreement of languages" in compare(images[0], "--labels", tmp_path / "labels.json", "-m", TINY).stdout


def test_refused(images, tmp_path):
    (tmp_path / "bad.json").write_text("[1]")
    assert_refused(compare(images[0], "-l", "a", "-m", "file:none.npz"), "cannot be read")
    assert_refused(compare(images[0], "--labels", tmp_path / "bad.json"), "expected a list of labels")
    assert_refused(compare("none.png", "-l", "a"), "none.png")
    assert compare(images[0]).exit_code == 2
