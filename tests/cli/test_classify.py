"""`npsiglip classify`: text and JSON, templates, labels, passes."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import npsiglip
from npsiglip import ClassifierConfig, ImageConfig, SigLIPConfig, save_folder
from npsiglip.cli.classify import percent
from npsiglip.params import random_params
from tests.helpers.command import LABEL_OPTIONS, LABELS, assert_refused, lines_of_json, run

# A terminal


def test_a_model_with_classes_of_its_own(images, tmp_path):
    config = SigLIPConfig(
        ImageConfig(width=12, depth=1, num_heads=2, mlp_dim=16, image_size=16, patch_size=8),
        None,
        ClassifierConfig(("cat", "dog", "owl")),
    )
    save_folder(tmp_path, config, random_params(config, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("classify", *images, "--json", model=tmp_path)
    assert result.exit_code == 0
    assert result.stderr.count("no preprocessor_config.json: images are resized with the bicubic filter") == 1
    (tmp_path / "preprocessor_config.json").write_text("{}")
    for entry in lines_of_json(result.stdout):
        assert {score["label"] for score in entry["scores"]} == {"cat", "dog", "owl"}
        assert sum(score["score"] for score in entry["scores"]) == pytest.approx(1, abs=1e-6)
    assert "cat" in run("classify", images[0], model=tmp_path).stdout


# classify


def test_json_is_what_the_model_says(images, model):
    result = run("classify", *images, *LABEL_OPTIONS, "--json")
    expected = model.classify(images, LABELS)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert lines_of_json(result.stdout) == [
        {"image": image, "scores": scores} for image, scores in zip(images, expected, strict=True)
    ]


def test_text_has_a_line_for_each_label(images, model):
    result = run("classify", *images, *LABEL_OPTIONS)
    lines = result.stdout.splitlines()
    assert result.stderr == ""
    assert len(lines) == 3 * len(images)
    for i, (image, scores) in enumerate(zip(images, model.classify(images, LABELS), strict=True)):
        assert lines[3 * i] == image
        for line, score in zip(lines[3 * i + 1 : 3 * i + 3], scores, strict=True):
            assert line.split(maxsplit=1) == [percent(score["score"]), score["label"]]
            assert line.index(".") == 5
            assert line.index(score["label"]) == 15


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (0.0, "0.0%"),
        (1.0, "100.0%"),
        (0.5, "50.0%"),
        (0.9421, "94.2%"),
        (0.031, "3.1%"),
        (0.0031, "0.31%"),
        (0.000003, "0.00030%"),
        (0.99997, "99.9970%"),
        (float(np.nextafter(np.float32(1), np.float32(0))), "99.999994%"),
        (2e-6, "0.00020%"),
        (7.2e-11, "7.2e-9%"),
    ],
)
def test_percent(score, text):
    assert percent(score) == text


def test_template(images, model):
    result = run("classify", *images, *LABEL_OPTIONS, "--json", "--template", "{}, painted.")
    scores = [entry["scores"] for entry in lines_of_json(result.stdout)]
    assert scores == model.classify(images, LABELS, "{}, painted.")
    assert scores != model.classify(images, LABELS)


@pytest.mark.parametrize("per_pass", [1, 2, 3])
def test_passes_do_not_change_the_results(images, model, monkeypatch, per_pass):
    expected = run("classify", *images, *LABEL_OPTIONS, "--json").stdout
    passes = []
    encode = npsiglip.SigLIP.encode_image

    def counted(self, images, normalize=True):
        passes.append(len(images))
        return encode(self, images, normalize)

    monkeypatch.setattr(npsiglip.SigLIP, "encode_image", counted)
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", per_pass * model.config.image.seq_len)
    assert run("classify", *images, *LABEL_OPTIONS, "--json").stdout == expected
    assert passes == {1: [1, 1, 1], 2: [2, 1], 3: [3]}[per_pass]


def test_nothing_is_wrapped_or_interpreted(images):
    label = "[red]:cat: " + "12 " * 60
    shutil.copy(images[0], name := "n" * 200 + ".png")
    result = run("classify", name, "-l", label, "--truncate")
    assert result.stdout.splitlines()[0] == name
    assert result.stdout.splitlines()[1].endswith(label)
    assert "\x1b" not in result.output


def test_control_characters_are_written_as_escapes(images):
    shutil.copy(images[0], "a\nb.png")
    result = run("classify", "a\nb.png", "-l", "cat\x1b[31m")
    assert result.stdout.splitlines()[0] == r"a\nb.png"
    assert result.stdout.splitlines()[1].endswith(r" cat\x1b[31m")


def test_a_long_label_is_told(images):
    long = "a photograph of " * 10
    assert_refused(run("classify", images[0], "-l", "cat", "-l", long), "24 tokens")
    result = run("classify", images[0], "-l", "cat", "-l", long, "--truncate")
    assert result.exit_code == 0
    assert result.stderr.count("warning: ") == 1
    assert repr(long[:60]) in result.stderr
    assert "24 tokens" in result.stderr
    assert run("classify", images[0], "-l", "cat").stderr == ""


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_results_before_a_bad_image_are_kept(images, model, monkeypatch, options):
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", model.config.image.seq_len)
    Path("three.png").write_bytes(b"no image")
    result = run("classify", *images, "-l", "a", *options)
    assert result.exit_code == 1
    lines = [entry["image"] for entry in lines_of_json(result.stdout)] if options else result.stdout.splitlines()[::2]
    assert lines == ["one.png", "two.png"]
    assert "three.png" in result.stderr
