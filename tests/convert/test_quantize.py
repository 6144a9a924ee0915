"""Models in 8 bits that are written: the same bits as the float folder computed in int8; and what is not quantised."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from npsiglip import Checkpoint, CheckpointError, SigLIP
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.convert import quantize as quantizer
from npsiglip.convert.quantize import quantize_folder
from npsiglip.formats.quantized import quantize_table, quantized_specs
from npsiglip.formats.safetensors import open_file
from npsiglip.formats.stored import Spec
from npsiglip.params import random_params
from tests.helpers.golden_data import TINY
from tests.helpers.model_folders import FC1, change_tensors, listing
from tests.helpers.quantized_folders import (
    IMAGE,
    ODD,
    PANELS,
    SCALE,
    TEXT,
    TOTAL,
    assert_same_bits,
    float_folder,
    results,
)

# What is stored


@pytest.mark.parametrize("config", [ODD, SigLIPConfig(IMAGE, None), SigLIPConfig(None, TEXT)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_the_same_bits_as_the_float_folder_in_int8(tmp_path, config, dtype):
    source = float_folder(tmp_path / "model", config, dtype)
    quantize_folder(source, tmp_path / "quantized")
    for passes in (1, 2):  # weights are packed into scratch memory, then for good
        expected = results(SigLIP.from_pretrained(source, "int8"), passes)
        assert_same_bits(results(SigLIP.from_pretrained(tmp_path / "quantized"), passes), expected)
    assert not np.array_equal(results(SigLIP.from_pretrained(source)).popitem()[1], expected.popitem()[1])


def test_the_same_bits_of_the_tiny_model(quantized):
    model, stored = SigLIP.from_pretrained(TINY, dtype="int8"), SigLIP.from_pretrained(quantized)
    assert_same_bits(results(stored), results(model))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    assert stored.classify(image, ["a cat", "two dogs"]) == model.classify(image, ["a cat", "two dogs"])


@pytest.mark.parametrize("config", [ODD, SigLIPConfig(IMAGE, None), SigLIPConfig(None, TEXT)])
def test_the_file_is_what_is_said_of_it(tmp_path, config):
    """Read by the library, and aligned as kernels like it."""
    quantize_folder(float_folder(tmp_path / "model", config), tmp_path / "quantized")
    specs = quantized_specs(config)
    tensors = load_file(tmp_path / "quantized" / "model.safetensors")
    stored = open_file(tmp_path / "quantized" / "model.safetensors")
    with safe_open(tmp_path / "quantized" / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "npsiglip"}
    names = {np.int8: "I8", np.int32: "I32", np.float32: "F32", ml_dtypes.bfloat16: "BF16"}
    assert {name: Spec(names[t.dtype.type], t.shape) for name, t in tensors.items()} == specs
    for name in specs:
        assert stored[name].offset % (64 if name.endswith(".panels") else 1 if name.endswith(".q") else 4) == 0, name


def test_panels_hold_the_columns(tmp_path):
    """By index: column n is in panel n // 16, number k of it in step k // 4."""
    quantize_folder(float_folder(tmp_path / "model"), tmp_path / "quantized")
    tensors = load_file(tmp_path / "quantized" / "model.safetensors")
    w = random_params(ODD, seed=4)["image.blocks.01.mlp.fc1.w"]
    panels, scale, total = tensors[PANELS], tensors[SCALE], tensors[TOTAL]
    for n, k in [(0, 0), (17, 5), (52, 41), (33, 2)]:
        assert scale[n] == np.abs(w[:, n]).max() / np.float32(127)
        assert panels[n // 16, k // 4, n % 16, k % 4] == np.rint(w[k, n] * (127 / np.abs(w[:, n]).max()))
        assert total[n] == panels[n // 16, :, n % 16].sum(dtype=int)
    assert (panels.reshape(4, 11, 16, 4)[3, :, 5:] == 0).all()  # beyond column 53
    assert (panels[:, 10, :, 2:] == 0).all()  # beyond number 42


def test_the_folder_is_complete(quantized):
    assert {path.name for path in quantized.iterdir()} == {
        "config.json", "model.safetensors", "preprocessor_config.json", "spiece.model", "tokenizer_config.json",
    }  # fmt: skip
    for name in ("preprocessor_config.json", "spiece.model", "tokenizer_config.json"):
        assert (quantized / name).read_bytes() == (TINY / name).read_bytes()
    original, content = (json.loads((folder / "config.json").read_text()) for folder in (TINY, quantized))
    ours = content.pop("quantization_config")
    assert content == original
    assert ours == {"library": "npsiglip", "format": 1, "dtype": "int8", "version": "0.1.0"}
    assert "quant_method" not in ours  # transformers would go on without it, and load nonsense


def test_about_a_quarter_of_the_size(tmp_path):
    config = SigLIPConfig(ImageConfig(128, 4, 4, 512, 32, 8), None)
    sizes = quantize_folder(float_folder(tmp_path / "model", config), tmp_path / "quantized")
    assert sizes.before == (tmp_path / "model" / "model.safetensors").stat().st_size
    assert sizes.after == (tmp_path / "quantized" / "model.safetensors").stat().st_size
    assert 0.25 < sizes.after / sizes.before < 0.35  # patches and the MAP head are a seventh of this one


def test_progress_is_told(tmp_path):
    told = []
    quantize_folder(TINY, tmp_path / "quantized", lambda *what: told.append(what))
    specs = quantized_specs(Checkpoint.open(TINY).config)
    assert [number for _, number, _ in told] == list(range(1, len(specs) + 1))
    assert {count for _, _, count in told} == {len(specs)}
    assert told[0][0] == "image.patch_embed" and "bias" in {name for name, _, _ in told}


def test_one_layer_is_in_memory_at_a_time(tmp_path):
    image = ImageConfig(width=128, depth=12, num_heads=4, mlp_dim=512, image_size=32, patch_size=8)
    config = SigLIPConfig(image, TextConfig(128, 1, 4, 512, seq_len=7, vocab_size=20_000, projection_dim=128))
    source = float_folder(tmp_path / "model", config)
    quantize_folder(source, tmp_path / "first")  # compiles the kernels
    tracemalloc.start()
    sizes = quantize_folder(source, tmp_path / "second")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sizes.after > 5e6
    assert peak < 5e6  # of the table 524 KB at once, as float32, three times; a layer takes 262 KB


def test_tables_are_quantised_in_parts(tmp_path, monkeypatch):
    source = float_folder(tmp_path / "model")
    expected, parts = quantize_table(Checkpoint.open(source)["text.token_embed"]), []
    monkeypatch.setattr(quantizer, "ROWS", 250)
    monkeypatch.setattr(quantizer, "quantize_table", lambda rows: (parts.append(len(rows)), quantize_table(rows))[1])
    quantize_folder(source, tmp_path / "quantized")
    assert parts == 2 * [250, 250, 250, 250, 9]
    stored = Checkpoint.open(tmp_path / "quantized")
    for part, values in zip(("q", "scale"), expected, strict=True):
        np.testing.assert_array_equal(stored[f"text.token_embed.{part}"], values)


# What is not quantised


def refused(source, target, phrase):
    """Refused, and all is as it was."""
    before = listing(target.parent), sorted(target.parent.rglob("*"))
    with pytest.raises(CheckpointError, match=phrase):
        quantize_folder(source, target)
    assert (listing(target.parent), sorted(target.parent.rglob("*"))) == before


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path, value):
    def change(tensors):
        tensors[FC1][1, 2] = value

    source = change_tensors(Path(shutil.copytree(TINY, tmp_path / "model")), change)
    refused(source, tmp_path / "quantized", rf"{FC1}.* 1 of 1,872 values not finite")
    (tmp_path / "quantized").mkdir()
    refused(source, tmp_path / "quantized", "not finite")  # and a folder that was there stays


def test_a_table_that_is_not_finite(tmp_path):
    def change(tensors):
        tensors["text_model.embeddings.token_embedding.weight"][900, 2] = np.nan

    source = change_tensors(Path(shutil.copytree(TINY, tmp_path / "model")), change)
    refused(source, tmp_path / "quantized", "token_embed .* values not finite")


def test_a_quantised_model(quantized_copy):
    phrase = f"{quantized_copy} is quantised already: expected the original model"
    refused(quantized_copy, quantized_copy.parent / "again", phrase)


def test_the_model_itself(tmp_path):
    source = Path(shutil.copytree(TINY, tmp_path / "model"))
    (tmp_path / "link").symlink_to(source)
    for target in (source, tmp_path / "link", tmp_path / "model" / ".." / "model"):
        refused(source, target, "is the model itself, which stays as it is: choose another folder")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "model-00001-of-00002.safetensors", "model.safetensors.index.json",
             "pytorch_model.bin"]
)  # fmt: skip
def test_a_folder_with_another_model(tmp_path, name):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / name).write_text("{}")
    refused(TINY, tmp_path / "other", rf"already holds a model \({name}\): choose another folder, or remove")


def test_a_folder_with_other_files(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    quantize_folder(TINY, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert SigLIP.from_pretrained(tmp_path).dtype == "int8"


def test_folders_above_are_made(tmp_path):
    quantize_folder(TINY, tmp_path / "a" / "b")
    assert Checkpoint.open(tmp_path / "a" / "b").quantized


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    refused(TINY, tmp_path / "file", f"{tmp_path / 'file'} cannot be written")
    with pytest.raises(CheckpointError, match="cannot be written"):
        quantize_folder(TINY, tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    refused(TINY, tmp_path / "below", "cannot be written")


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (shutil.rmtree, "does not exist"),
        (lambda f: (f / "model.safetensors").unlink(), "neither model.safetensors"),
        (lambda f: (f / "config.json").write_text("[]"), "must hold a JSON object"),
    ],
)
def test_a_model_that_cannot_be_loaded(tmp_path, change, phrase):
    source = Path(shutil.copytree(TINY, tmp_path / "model"))
    change(source)
    refused(source, tmp_path / "quantized", phrase)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupt_leaves_nothing(tmp_path, monkeypatch, error):
    def half(path, specs, tensors):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(quantizer, "write_tensors", half)
    for target in (tmp_path / "new", tmp_path):
        with pytest.raises(error):
            quantize_folder(TINY, target)
        assert list(tmp_path.iterdir()) == []


def test_config_comes_last(tmp_path, monkeypatch):
    """Without it a folder is no model; so one is whole, or none, whatever happens."""
    order, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append(target.name), replace(self, target)))
    quantize_folder(TINY, tmp_path)
    assert order[-2:] == ["model.safetensors", "config.json"] and len(order) == 5


def test_a_full_disk_leaves_nothing(tmp_path):
    """Simulated by a limit on the size of files, in a process of its own."""
    code = (
        "import resource, sys; from npsiglip.convert.quantize import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (120_000, 120_000))\n"
        "try: quantize_folder(*sys.argv[1:])\n"
        "except CheckpointError as error: print(error)\n"
    )
    ignore = lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # noqa: E731
    run = subprocess.run(
        [sys.executable, "-c", code, TINY, tmp_path / "new"], capture_output=True, text=True, preexec_fn=ignore
    )
    assert run.stderr == "" and "cannot be written: " in run.stdout
    assert list(tmp_path.iterdir()) == []
