"""A linear probe: its folds, the strength that it chooses, and the folder that it writes.

Covers cli/probe.py as well.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from npsiglip import SigLIP
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import ClassifierConfig, SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.evaluation.logistic import losses
from npsiglip.evaluation.measure import opaque
from npsiglip.evaluation.probe import (
    STRENGTHS,
    check_target,
    choose,
    features_of,
    folds_of,
    probe,
    standardized,
    tower_of,
    write,
)
from npsiglip.pairs.guess import open_collection
from npsiglip.params import random_params
from npsiglip.processors import default_processor, preprocessor_config
from npsiglip.save import save_folder
from tests.helpers import pairs_data
from tests.helpers.command import assert_refused, invoke
from tests.helpers.golden_data import TINY
from tests.helpers.model_folders import IMAGE, listing

SIZES = ((20, 20), (40, 10), (12, 30))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A folder a class: pictures of one colour on another, which the mean of tokens tells apart."""
    root = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for name, colour in pairs_data.COLOURS.items():
        (root / f"a_{name}-thing").mkdir()
        for i in range(6):
            noisy = tuple(int(x) for x in np.clip(np.array(colour) + rng.integers(-20, 20, 3), 0, 255))
            pairs_data.picture(noisy, (30 + i, 28)).save(root / f"a_{name}-thing" / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def tiny():
    checkpoint = Checkpoint.open(TINY)
    return checkpoint, tower_of(checkpoint)


# -- cross-validation -------------------------------------------------------------------------------------------------


def test_each_class_is_spread_over_the_folds():
    classes = np.random.default_rng(0).permutation(np.repeat([0, 1, 2, 3], [2, 3, 17, 28]))
    found = folds_of(classes, 5)
    assert sorted(np.bincount(found)) == [10] * 5
    for number in range(4):
        counts = np.bincount(found[classes == number], minlength=5)
        assert counts.max() - counts.min() <= 1  # so one of two is always learned from
    np.testing.assert_array_equal(found, folds_of(classes, 5))


def test_noise_is_not_learned_and_what_is_there_is():
    rng = np.random.default_rng(0)
    classes = np.repeat(np.arange(3), 30)
    noise = rng.standard_normal((90, 20))
    told = choose(noise, classes, 3, "softmax", 5)
    assert told.strength >= 1.0
    assert (told.predicted == classes).mean() < 0.6
    clear = noise + 3 * rng.standard_normal((3, 20))[classes]
    told = choose(clear, classes, 3, "softmax", 5)
    assert told.strength < 1.0
    assert (told.predicted == classes).mean() > 0.95


def test_the_strongest_within_one_standard_error():
    rng = np.random.default_rng(1)
    classes = np.repeat(np.arange(3), 20)
    told = choose(rng.standard_normal((60, 10)) + rng.standard_normal((3, 10))[classes], classes, 3, "sigmoid", 4)
    least, error = min(told.losses.values())
    within = [strength for strength, (loss, _) in told.losses.items() if loss <= least + error]
    assert told.strength == max(within) > next(s for s, found in told.losses.items() if found == (least, error))
    assert list(told.losses) == list(STRENGTHS[: len(told.losses)])


def test_features_without_spread_or_not_finite():
    x, mean, deviation = standardized(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_array_equal(x, [[-1, 0], [1, 0]])
    assert (mean[0], deviation[0], deviation[1]) == (2.0, 1.0, np.inf)
    with pytest.raises(InputError, match="1 pictures have features that are not finite"):
        standardized(np.array([[1.0, np.nan], [3.0, 5.0]]))


# -- the model --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_folder_gives_the_logits_that_were_fitted(tiny, shapes, tmp_path, loss):
    checkpoint, tower = tiny
    pairs = open_collection([str(shapes)])
    found = probe(tower, pairs, loss, 3)
    assert found.names == [f"a {name} thing" for name in sorted(pairs_data.COLOURS)]
    config = write(tmp_path / "model", checkpoint, tower, found)
    model = SigLIP.from_pretrained(tmp_path / "model")
    assert model.config == config
    assert config.classifier.multi_label == (loss == "sigmoid")
    pictures = [opaque(pairs.read(i, None)) for i in range(len(pairs))]
    features = features_of(tower, pictures).astype(np.float64)
    fitted = features @ found.linear.w + found.linear.b
    slope = losses(fitted, np.repeat([0, 1, 2], 6), loss)[1]
    assert np.abs(slope.mean(axis=0)).max() <= 1e-6  # biases are where the loss is least, for features as they are
    assert not config.image.head
    ours = model.class_logits(pictures)
    # float32 weights and products: some roundings of the terms, which are larger than their sum
    size = np.abs(features) @ np.abs(found.linear.w) + np.abs(found.linear.b)
    assert np.all(np.abs(ours - fitted) <= 8 * 2.0**-24 * size)
    right = [scores[0]["label"] == name for scores, name in zip(model.classify(pictures), np.repeat(found.names, 6))]  # noqa: B905
    assert np.mean(right) == 1.0


def test_pictures_of_any_aspect_ratio(tmp_path):
    """NaFlex: the mean is that of each picture's own patches."""
    config = SigLIPConfig(replace(IMAGE, naflex=True, image_size=16), None, ClassifierConfig(("a", "b")))
    save_folder(tmp_path, config, random_params(config, 3))
    processor = preprocessor_config(default_processor(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    checkpoint, pictures = Checkpoint.open(tmp_path), [Image.new("RGB", size, (9, 99, 200)) for size in SIZES]
    features = features_of(tower_of(checkpoint), pictures).astype(np.float64)
    expected = features @ checkpoint["classifier.w"] + checkpoint["classifier.b"]
    # float32 against float64: some roundings of the terms, which are larger than their sum
    size = np.abs(features) @ np.abs(checkpoint["classifier.w"]) + np.abs(checkpoint["classifier.b"])
    assert np.all(np.abs(SigLIP.from_pretrained(tmp_path).class_logits(pictures) - expected) <= 8 * 2.0**-24 * size)


def test_a_bad_picture_is_passed_over(tiny, shapes, tmp_path):
    for folder in shapes.iterdir():
        (tmp_path / folder.name).mkdir()
        for path in sorted(folder.iterdir())[:3]:
            (tmp_path / folder.name / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / "a_red-thing" / "1.png"
    bad.write_bytes(b"no picture")
    found = probe(tiny[1], open_collection([str(tmp_path)]), folds=2)
    assert list(found.report["skipped"]) == [str(bad)]
    assert found.report["pictures"] == 8
    assert found.report["classes"]["a red thing"]["pictures"] == 2
    (tmp_path / "a_red-thing" / "0.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="class 'a red thing' has fewer than two pictures"):
        probe(tiny[1], open_collection([str(tmp_path)]), folds=2)


def test_where_it_cannot_be_written(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="holds a model already"):
        check_target(TINY, tiny[0])
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        check_target(tmp_path / "file" / "model", tiny[0])


# -- the command ------------------------------------------------------------------------------------------------------


def test_the_command(shapes, tmp_path):
    results = [invoke("probe", shapes, "-o", tmp_path / f"model{i}", "--model", TINY, "--folds", 3) for i in range(2)]
    for result in results:
        assert result.exit_code == 0, result.stderr
    lines = results[0].stdout.splitlines()
    assert lines[0].startswith("18 pictures of 3 classes; of pictures that were held out ")
    assert lines[1].startswith("softmax, regularisation ")
    assert [line.split()[:2] for line in lines[3:]] == [["a", name] for name in sorted(pairs_data.COLOURS)]
    assert listing(tmp_path / "model0") == listing(tmp_path / "model1")  # the same bytes
    assert {path.name for path in listing(tmp_path / "model0")} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    picture = next((shapes / "a_red-thing").iterdir())
    answer = invoke("classify", picture, "--model", tmp_path / "model0", "--json")
    assert answer.exit_code == 0, answer.stderr
    assert json.loads(answer.stdout)["scores"][0]["label"] == "a red thing"


def test_json_and_sigmoid(tmp_path):
    path = pairs_data.tar(tmp_path / "a.tar", 4)
    result = invoke(
        "probe", path, "-l", "kind", "-o", tmp_path / "m", "--model", TINY, "--loss", "sigmoid", "--folds", 2, "--json"
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["loss"] == "sigmoid"
    assert report["accuracy"]["n"] == report["pictures"] == 12
    assert report["accuracy"]["low"] < report["accuracy"]["value"] <= report["accuracy"]["high"]
    assert {name: found["pictures"] for name, found in report["classes"].items()} == {
        "blue block": 4, "green block": 4, "red block": 4,
    }  # fmt: skip
    assert report["strength"] in [entry["strength"] for entry in report["losses"]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/one", "-o", "{root}/out"], "at least two classes with a name, got 'class' alone"),
        (["{root}/single", "-o", "{root}/out"], "class 'b' has fewer than two pictures"),
        (["{root}/a.tar", "-o", "{root}/out"], "which key of a sample's JSON holds its name (--label)"),
        (["{root}/a.tar", "-l", "kind", "-o", "{root}/out.npz"], "ends in .npz, and a folder is what would be written"),
        (["{root}/a.tar", "-l", "kind", "-o", "{root}/out", "--loss", "hinge"], "loss must be one of softmax, sigmoid"),
        (["{root}/a.tar", "-l", "kind", "-o", "{root}"], "holds a model already"),
    ],
)
def test_what_cannot_be_probed(tmp_path, arguments, message):
    pairs_data.tar(tmp_path / "a.tar")
    for name, count in (("one/class", 2), ("single/a", 2), ("single/b", 1)):
        (tmp_path / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (8, 8), (9 * i, 2, 3)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "config.json").write_text("{}")
    result = invoke("probe", *(argument.format(root=tmp_path) for argument in arguments), "--model", TINY)
    assert_refused(result, message)
