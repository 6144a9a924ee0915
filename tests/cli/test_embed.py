"""`npsiglip embed`: what an argument is taken for, and files that are whole or as they were."""

import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from npsiglip.cli import embed
from npsiglip.cli.embed import Kind, kind_of
from npsiglip.errors import InputError
from tests.helpers.command import assert_refused, lines_of_json, run, run_process
from tests.helpers.golden_data import TINY


@pytest.mark.parametrize(
    ("argument", "kind"),
    [
        ("one.png", Kind.IMAGE),
        ("./one.png", Kind.IMAGE),
        ("no-suffix", Kind.IMAGE),
        ("a cat", Kind.TEXT),
        ("a link to nothing", Kind.IMAGE),
        ("a file with spaces", Kind.IMAGE),
        ("photos of cats", Kind.TEXT),
        ("black/white cat", Kind.TEXT),
        ("cats and/or dogs", Kind.TEXT),
        ("24/7", Kind.TEXT),
        ("data: a chart, drawn", Kind.TEXT),
        ("a cat, 4 ft.fit", Kind.TEXT),
        ("x" * 5000, Kind.TEXT),
        ("a\0b", Kind.TEXT),
        ("https://example.org/cat", Kind.IMAGE),
        ("data:image/png;base64,AAAA", Kind.IMAGE),
    ],
)
def test_kind_of(images, argument, kind):
    shutil.copy("one.png", "no-suffix")
    shutil.copy("one.png", "a file with spaces")
    Path("a link to nothing").symlink_to("nowhere")
    Path("photos").mkdir()
    assert kind_of(argument) is kind


@pytest.mark.parametrize("argument", ["", " "])
def test_what_is_neither_an_image_nor_a_text(images, argument):
    with pytest.raises(InputError, match="an argument is empty"):
        kind_of(argument)
    assert_refused(run("embed", "--output", "x.npy", "--", argument), "an argument is empty")
    assert not Path("x.npy").exists()


NO_TEXTS = ["no.png", "no.JPEG", "x.dng", "my photo 1.jpg", "photos/cat", "./cat", "/cat", "~/cat", "no/", "no/*"]


@pytest.mark.parametrize("argument", [*NO_TEXTS, "C:\\no.png", "x/" * 5000])
def test_a_missing_image_is_not_taken_for_a_text(images, argument):
    Path("photos").mkdir()
    with pytest.raises(InputError, match=r"does not exist.*--as text"):
        kind_of(argument)


MIXED = ["a cat", "two.png", "two dogs", "three.png", "one.png"]


def expected_embeddings(model, normalize=True):
    encode = {True: model.encode_image, False: model.encode_text}
    return np.concatenate([encode[name.endswith(".png")](name, normalize) for name in MIXED])


@pytest.mark.parametrize("options, normalize", [([], True), (["--no-normalize"], False)])
def test_embed_npy(images, model, monkeypatch, options, normalize):
    monkeypatch.setattr("npsiglip.inputs.TOKENS_PER_PASS", 2 * model.config.image.seq_len)
    result = run("embed", *MIXED, "-o", "x.npy", *options)
    embeddings = np.load("x.npy")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "3 images and 2 texts in x.npy: float32 [5, 36]\n"
    assert embeddings.dtype == np.float32
    np.testing.assert_array_equal(embeddings, expected_embeddings(model, normalize))
    assert np.allclose(np.linalg.norm(embeddings, axis=1), 1) == normalize


@pytest.mark.parametrize("options, normalize", [([], True), (["--no-normalize"], False)])
def test_embed_safetensors(images, model, options, normalize):
    assert run("embed", *MIXED, "-o", "x.safetensors", *options).exit_code == 0
    with safe_open("x.safetensors", framework="np") as file:
        metadata = {key: json.loads(value) for key, value in file.metadata().items()}
        assert list(file.keys()) == ["embeddings"]
        np.testing.assert_array_equal(file.get_tensor("embeddings"), expected_embeddings(model, normalize))
    kinds = ["text", "image", "text", "image", "image"]
    assert metadata == {"inputs": MIXED, "kinds": kinds, "normalized": normalize, "dtype": "float32"}


def test_embed_json_lines(images, model):
    assert run("embed", *MIXED, "-o", "x.jsonl").exit_code == 0
    lines = lines_of_json(Path("x.jsonl").read_text(encoding="ascii"))
    assert [(line["input"], line["kind"]) for line in lines] == [
        (name, "image" if name.endswith(".png") else "text") for name in MIXED
    ]
    rows = np.array([line["embedding"] for line in lines], np.float32)
    np.testing.assert_array_equal(rows, expected_embeddings(model))


def test_embed_as_text(images, model):
    texts = ["one.png", "a/b", "x.dng", "-", ".", ""]
    assert run("embed", "-o", "x.npy", "--as", "text", "--", *texts).exit_code == 0
    np.testing.assert_array_equal(np.load("x.npy"), model.encode_text(texts))
    assert_refused(run("embed", "a cat", "-o", "x.npy", "--as", "image"), "'a cat' does not exist")


def test_embed_refuses_a_long_text_or_warns_of_it(images):
    assert_refused(run("embed", "a", "a photograph of " * 10, "-o", "x.npy"), "--truncate")
    assert not Path("x.npy").exists()
    result = run("embed", "a", "a photograph of " * 10, "-o", "x.npy", "--truncate")
    assert result.stderr.count("warning: text 'a photograph of ") == 1


@pytest.mark.parametrize(
    ("output", "phrase"),
    [
        ("x.txt", "must end in .npy, .jsonl or .safetensors"),
        ("x", "must end in .npy, .jsonl or .safetensors"),
        ("no/x.npy", "cannot be written (No such file or directory)"),
        ("one.png/x.npy", "cannot be written (Not a directory)"),
        ("folder.npy", "is a folder"),
        ("loop.npy", "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_is_told_before_the_model_is_loaded(images, output, phrase):
    Path("folder.npy").mkdir()
    Path("loop.npy").symlink_to("loop.npy/x")
    before = sorted(Path().iterdir())
    assert_refused(run("embed", "a", "-o", output, model="nowhere"), output, phrase)
    assert sorted(Path().iterdir()) == before


def test_the_output_is_replaced_also_through_a_link(images, model):
    Path("folder").mkdir()
    Path("folder/x.NPY").write_bytes(b"old")
    Path("link.npy").symlink_to("folder/x.NPY")
    assert run("embed", "a", "-o", "link.npy").exit_code == 0
    assert Path("link.npy").is_symlink()
    np.testing.assert_array_equal(np.load("folder/x.NPY"), model.encode_text("a"))
    assert [path.name for path in Path("folder").iterdir()] == ["x.NPY"]


@pytest.mark.parametrize(
    ("error", "code", "phrase"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "cannot be written (No space left on device)"),
        (KeyboardInterrupt(), 130, ""),
        (RuntimeError("a bug"), 1, ""),
    ],
    ids=["full", "interrupt", "bug"],
)
def test_a_write_that_fails_leaves_the_old_file(images, monkeypatch, error, code, phrase):
    def half(path, embeddings, metadata):
        path.write_bytes(b"half")
        raise error

    Path("x.npy").write_bytes(b"old")
    before = sorted(Path().iterdir())
    monkeypatch.setattr(embed, "_save", half)
    result = run("embed", "a", "-o", "x.npy")
    assert result.exit_code == code
    assert phrase in result.stderr
    assert Path("x.npy").read_bytes() == b"old"
    assert sorted(Path().iterdir()) == before


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_write_leaves_the_old_file(images):
    script = (
        "import os, signal\nfrom npsiglip.cli import embed, main\n"
        "def half(path, embeddings, metadata):\n"
        "    path.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "embed._save = half\n"
        "main()"
    )
    Path("x.npy").write_bytes(b"old")
    result = run_process("-c", script, "embed", "a", "-o", "x.npy", "--model", TINY)
    assert result.returncode == -9
    assert Path("x.npy").read_bytes() == b"old"
