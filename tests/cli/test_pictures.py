"""Options of pixels, and inputs that are skipped."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import npsiglip
from npsiglip.cli.pictures import expand
from npsiglip.errors import InputError
from npsiglip.images import files as image_files
from tests.helpers.command import LABEL_OPTIONS, assert_refused, invoke, lines_of_json, run
from tests.helpers.golden_data import TINY

# bad images are skipped


MIXED = ["one.png", "bad.png", "a cat", "no.png", "photos", "cut.png", "two.png"]


@pytest.fixture
def mixed(images, model, monkeypatch):
    """Two good images, a text, and five inputs that cannot be used in as many ways; two images in a pass."""
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", 2 * model.config.image.seq_len)
    Path("bad.png").write_bytes(b"no image")
    Path("cut.png").write_bytes(Path("one.png").read_bytes()[:500])
    Path("photos").mkdir()
    return MIXED


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors"])
def test_embed_skips_bad_images(mixed, model, name):
    assert_refused(run("embed", *mixed, "-o", name), "no.png")
    assert not Path(name).exists()
    result = run("embed", *mixed, "-o", name, "--skip-bad")
    assert (result.exit_code, result.stdout) == (0, "")
    expected = np.concatenate(
        [model.encode_image("one.png"), model.encode_text("a cat"), model.encode_image("two.png")]
    )
    *lines, last = result.stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["skipped"] * 4
    for part, line in zip(("no.png", "is a folder", "bad.png", "cut.png"), lines, strict=True):
        assert part in line
    assert last == (
        f"2 images and 1 text in {name}: float32 [3, 36]; skipped 4 of 7 inputs (counted from 0: 1, 3, 4, 5), the rows "
        "are those of the others"
    )
    if name == "x.npy":
        np.testing.assert_array_equal(np.load(name), expected)
        return
    with safe_open(name, framework="np") as file:
        np.testing.assert_array_equal(file.get_tensor("embeddings"), expected)
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
    assert metadata["inputs"] == ["one.png", "a cat", "two.png"]
    assert metadata["kinds"] == ["image", "text", "image"]
    assert [each["input"] for each in metadata["skipped"]] == ["no.png", "photos", "bad.png", "cut.png"]
    assert "truncated or damaged" in metadata["skipped"][3]["reason"]


def test_classify_skips_bad_images(mixed, model):
    paths = [path for path in mixed if path != "a cat"]
    result = run("classify", *paths, *LABEL_OPTIONS, "--json", "--skip-bad")
    assert result.exit_code == 0
    good = ["one.png", "two.png"]
    assert lines_of_json(result.stdout) == [
        {"image": path, "scores": scores}
        for path, scores in zip(good, model.classify(good, ["a cat", "two dogs"]), strict=True)
    ]
    assert result.stderr.count("skipped: ") == 4
    assert result.stderr.splitlines()[-1] == "skipped 4 of 6 inputs (counted from 0: 1, 2, 3, 4)"


@pytest.mark.parametrize("command", [["classify", "-l", "a"], ["embed", "-o", "x.npy"]], ids=lambda c: c[0])
@pytest.mark.parametrize("bad", [["bad.png", "no.png"], ["bad.png"], ["no.png"]])
def test_nothing_that_can_be_used_is_an_error(mixed, command, bad):
    result = run(*command, *bad, "--skip-bad")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "can be used" in result.stderr or "cannot be used" in result.stderr
    assert not Path("x.npy").exists()


def test_nothing_is_skipped_where_nothing_is_bad(images):
    for args in (["classify", *images, "-l", "a"], ["embed", *images, "-o", "x.npy"]):
        assert run(*args, "--skip-bad").output == run(*args).output


def test_what_is_no_fault_of_an_image_is_not_skipped(images, monkeypatch):
    """Such as a model without a head."""

    def refuse(*args, **options):
        raise InputError("this image tower has no head")

    monkeypatch.setattr(npsiglip.SigLIP, "encode_image", refuse)
    result = run("embed", *images, "-o", "x.npy", "--skip-bad")
    assert_refused(result, "no head")


# folders, patterns, standard input


@pytest.fixture
def folders(images):
    """Pictures in folders, and what is none."""
    Path("photos/sub").mkdir(parents=True)
    for name, place in zip(images, ("photos/b.png", "photos/sub/a.png", "photos/a.png"), strict=True):
        Path(name).rename(place)
    Path("photos/notes.txt").touch()
    Path("photos/.hidden.png").touch()
    return ["photos/a.png", "photos/b.png", "photos/sub/a.png"]


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        (["photos"], [0, 1, 2]),
        (["photos/"], [0, 1, 2]),
        (["photos/*.png"], [0, 1]),
        (["photos/**/a.png"], [0, 2]),
        (["photos/sub", "photos/a.png"], [2, 0]),
    ],
)
def test_folders_and_patterns(folders, model, arguments, chosen):
    names = [folders[i] for i in chosen]
    assert run("embed", *arguments, "-o", "x.safetensors").exit_code == 0
    with safe_open("x.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["inputs"]) == names
        np.testing.assert_array_equal(file.get_tensor("embeddings"), model.encode_image(names))
    result = run("classify", *arguments, *LABEL_OPTIONS, "--json")
    assert [line["image"] for line in lines_of_json(result.stdout)] == names


@pytest.mark.parametrize("names", [b"photos/b.png\nphotos/a.png\n", b"photos/b.png\0photos/a.png"])
def test_names_from_standard_input(folders, names):
    result = invoke("classify", "--model", TINY, "-", *LABEL_OPTIONS, "--json", input=names)
    assert [line["image"] for line in lines_of_json(result.stdout)] == ["photos/b.png", "photos/a.png"]
    assert_refused(invoke("classify", "--model", TINY, "-", *LABEL_OPTIONS, input=b""), "no name in standard input")


def test_what_only_looks_like_a_pattern(folders):
    Path("photos/x[1].png").write_bytes(Path("photos/a.png").read_bytes())
    assert expand(["photos/x[1].png"]) == ["photos/x[1].png"]
    Path("what").touch()
    assert expand(["what?", "a [cat], 1*1", "*.jpg"]) == ["what?", "a [cat], 1*1", "*.jpg"]
    assert expand(["./photos/s*/*"]) == ["./photos/sub/a.png"]


def test_folders_without_pictures_and_those_that_cannot_be_read(folders, monkeypatch):
    Path("empty").mkdir()
    for command in (["classify", "-l", "a"], ["embed", "-o", "x.npy"]):
        assert_refused(run(*command, "empty"), "'empty' is a folder in which nothing is named like a picture")
        result = run(*command, "empty", "photos/a.png", "--skip-bad")
        assert (result.exit_code, result.stderr.count("skipped: ")) == (0, 1)

    def scandir(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", scandir)
    assert_refused(run("embed", "photos", "-o", "x.npy"), "cannot be read: Permission denied")


# pixels


def test_options_of_pixels(images, model, monkeypatch):
    monkeypatch.setattr(image_files, "_warned", set())
    deep = np.linspace(0, 65535, 30 * 40).astype(np.uint16).reshape(30, 40)
    Image.fromarray(deep).save("deep.png")
    run("embed", "deep.png", "-o", "clip.npy")
    monkeypatch.setattr(image_files, "_warned", set())
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("embed", "deep.png", "deep.png", "-o", "clip.npy")
    assert result.stderr.count("warning: ") == 1
    assert "--sixteen-bit scale" in result.stderr
    result = run("embed", "deep.png", "-o", "scale.npy", "--sixteen-bit", "scale")
    assert (result.exit_code, "warning" in result.stderr) == (0, False)
    expected = model.encode_image(np.round(deep / 257).astype(np.uint8)[..., None])
    np.testing.assert_array_equal(np.load("scale.npy"), expected)
    for command in (["embed", "-o", "x.npy"], ["classify", "-l", "a"]):
        assert_refused(run(*command, "deep.png", "--max-megapixels", "0.001"), "max-megapixels 1")
        assert run(*command, "deep.png", "--max-megapixels", "0.0012", "--sixteen-bit", "scale").exit_code == 0
        assert_refused(run(*command, "deep.png", "--max-megapixels", "-1"), "max_megapixels")
