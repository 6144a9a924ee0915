"""Models in 8 bits: the stored folder is the float folder computed in int8, bit for bit; and what is refused."""

import json
import mmap
import os
import re
import resource
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
from safetensors.numpy import load_file, save_file

from npsiglip import Checkpoint, CheckpointError, InputError, SigLIP, save_folder
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.convert import quantize as quantizer
from npsiglip.convert.quantize import quantize_folder
from npsiglip.formats.quantized import gather_rows, quantize_table, quantized_specs
from npsiglip.formats.safetensors import open_file, write_tensors
from npsiglip.formats.stored import MappedTensor, Spec
from npsiglip.kernels.pack import panels_shape
from npsiglip.params import random_params
from tests.helpers.golden_data import TINY

# No size is a multiple of a panel's 16 columns or of a step's 4 numbers.
IMAGE = ImageConfig(width=42, depth=2, num_heads=3, mlp_dim=53, image_size=20, patch_size=5)
TEXT = TextConfig(width=27, depth=2, num_heads=3, mlp_dim=61, seq_len=7, vocab_size=1009, projection_dim=42)
ODD = SigLIPConfig(IMAGE, TEXT)

FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"
PANELS, SCALE, TOTAL = (f"image.blocks.01.mlp.fc1.{part}" for part in ("panels", "scale", "total"))


def float_folder(folder, config=ODD, dtype="float32", **options):
    """A model with random weights and tiny's tokenizer."""
    save_folder(folder, config, random_params(config, seed=4, **options), dtype)
    for name in ("spiece.model", "tokenizer_config.json") if config.text else ():
        shutil.copy(TINY / name, folder)
    return folder


@pytest.fixture(scope="module")
def quantized(tmp_path_factory):
    """The tiny model in 8 bits. Copy it before writing to it."""
    folder = tmp_path_factory.mktemp("quantized") / "tiny"
    quantize_folder(TINY, folder)
    return folder


@pytest.fixture
def copy(quantized, tmp_path):
    return Path(shutil.copytree(quantized, tmp_path / "copy"))


def rewrite(folder, change):
    """The folder, with `change` done to the dictionary of its stored tensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors) or tensors, folder / "model.safetensors")
    return folder


def edit_config(folder, change):
    content = json.loads((folder / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def inputs_of(config, n=3):
    rng = np.random.default_rng(0)
    pixels = config.image and rng.uniform(-1, 1, (n, 3, config.image.image_size, config.image.image_size))
    ids = config.text and rng.integers(0, config.text.vocab_size, (n, config.text.seq_len))
    return {"images": config.image and pixels.astype(np.float32), "texts": ids}


def results(model, passes=1):
    """Every intermediate of a pass."""
    for _ in range(passes):
        taps = dict(model.trace(**inputs_of(model.config)))
    return taps


def assert_same_bits(one, other):
    assert list(one) == list(other)
    for name, tap in one.items():
        np.testing.assert_array_equal(tap, other[name], err_msg=name)


def message(folder):
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(folder)
    return str(error.value)


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


def test_float64_is_rounded_once(tmp_path):
    """The temperature, too: a model takes its parameters as float32."""
    params = random_params(ODD, seed=4, dtype=np.float64)
    model = SigLIP(ODD, params, dtype="int8")
    assert model.t_prime == float(np.float32(params["t_prime"])) != float(params["t_prime"])
    assert model.bias == float(np.float32(params["bias"])) != float(params["bias"])


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


def test_panels_are_those_of_the_kernels():
    specs = quantized_specs(ODD)
    for layer, (k, n) in {
        "image.patch_embed": (75, 42),
        "image.blocks.01.attn.qkv": (42, 126),
        "text.blocks.00.mlp.fc2": (61, 27),
        "image.map_head.attn.kv": (42, 84),
        "text.head": (27, 42),
    }.items():
        dtype = {"I8": "int8", "BF16": "bfloat16"}[specs[f"{layer}.panels"].dtype]
        assert dtype == ("int8" if "blocks" in layer else "bfloat16")
        shape = specs[f"{layer}.panels"].shape
        assert shape[:3] == panels_shape(k, n, dtype)
        assert shape[3] * {"int8": 1, "bfloat16": 2}[dtype] == 4
        assert specs[f"{layer}.b"] == Spec("F32", (n,))


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


# Rounding


def test_rows_of_a_table():
    rows = np.random.default_rng(0).standard_normal((50, 33)).astype(np.float32) * np.logspace(-20, 20, 50)[:, None]
    rows[7] = 0
    q, scale = quantize_table(rows)
    assert (q.dtype, scale.dtype, scale[7]) == (np.int8, np.float32, 0)
    assert np.abs(q).max(1).tolist() == [127 if i != 7 else 0 for i in range(50)]
    error = np.abs(q * scale[:, None].astype(np.float64) - rows)
    assert (error <= scale[:, None] * 0.5001).all()


@pytest.mark.parametrize("largest", [1e-45, 1e-40, 1e-37, 3e38])
def test_rows_at_the_ends_of_float32(largest):
    """Warnings are errors here."""
    row = np.array([[0, largest, -largest / 3]], np.float32)
    q, scale = quantize_table(row)
    np.testing.assert_allclose(q * scale[:, None], row, rtol=0, atol=max(1e-36, largest / 250))


def test_gathered_rows_are_those_of_the_stored_table():
    rng = np.random.default_rng(0)
    table, ids = rng.standard_normal((20, 9)).astype(np.float32), rng.integers(0, 20, (4, 5))
    q, scale = quantize_table(table)
    expected = gather_rows({"t.q": q, "t.scale": scale}, "t", ids, "int8")
    assert (expected.dtype, expected.shape) == (np.float32, (4, 5, 9))
    np.testing.assert_array_equal(expected, (q * scale[:, None])[ids])
    np.testing.assert_array_equal(gather_rows({"t": table}, "t", ids, "int8"), expected)
    np.testing.assert_array_equal(gather_rows({"t": table}, "t", ids, "bfloat16"), table[ids])


def test_channels_of_zeros_are_exact(tmp_path):
    """Of weights, and so are rows of zeros of the table: what is left is the bias."""
    params = random_params(ODD, seed=4)
    params["image.blocks.01.mlp.fc1.w"][:, [3, 16]] = 0
    params["image.blocks.00.attn.k.w"][:] = 0
    params["text.token_embed"][5] = 0
    source = float_folder(tmp_path / "model")
    save_folder(source, ODD, params)
    quantize_folder(source, tmp_path / "quantized")
    stored = Checkpoint.open(tmp_path / "quantized")
    assert stored[SCALE][3] == stored[SCALE][16] == 0 == stored["text.token_embed.scale"][5]
    for model in (SigLIP.from_pretrained(tmp_path / "quantized"), SigLIP.from_pretrained(source, "int8")):
        taps = results(model)
        bias = params["image.blocks.01.mlp.fc1.b"]
        for channel in (3, 16):
            assert (taps["image.blocks.01.mlp.fc1"][..., channel] == bias[channel]).all()
        assert np.ptp(taps["image.blocks.01.mlp.fc1"], axis=(0, 1)).astype(bool).sum() == 51
        assert (gather_rows(model._text.params, "text.token_embed", np.array([5]), "int8") == 0).all()
        assert np.isfinite(taps["probs"]).all()


# Loading


def test_weights_stay_in_the_file(quantized):
    model = SigLIP.from_pretrained(quantized)
    checkpoint = model._text.params
    results(model, passes=2)
    mapped = np.frombuffer(checkpoint._entries[PANELS][1].memory, np.uint8)
    linears = model._image.linears | model._text.linears
    assert len(linears) == 4 * 5 + 5 + 1
    for name, linear in linears.items():
        assert np.shares_memory(linear.packed(keep=True).panels, mapped), name
        assert not linear.packed(keep=True).panels.flags.writeable
    assert np.shares_memory(checkpoint["text.token_embed.q"], mapped)


def test_loading_does_not_read_the_weights(tmp_path):
    """A sparse file of 1.6 GB of zeros, most of them the table, is loaded at once, and without memory."""
    text = TextConfig(8, 1, 2, 16, seq_len=5, vocab_size=2**27, projection_dim=12)
    folder = float_folder(tmp_path / "model", SigLIPConfig(None, TextConfig(8, 1, 2, 16, 5, 1009, 12)))
    quantize_folder(folder, tmp_path / "quantized")
    path, config = tmp_path / "quantized" / "model.safetensors", SigLIPConfig(None, text)
    header, end = {}, 0
    for name, spec in quantized_specs(config).items():
        header[name] = {"dtype": spec.dtype, "shape": spec.shape, "data_offsets": [end, end := end + spec.nbytes]}
    head = json.dumps(header).encode()
    head += b" " * (-(8 + len(head)) % 64)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + end)
    edit_config(tmp_path / "quantized", lambda c: c.update(vocab_size=2**27))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = SigLIP.from_pretrained(tmp_path / "quantized")
    assert model.config.text == text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("dtype", [None, "int8"])
def test_the_dtype_is_that_of_the_folder(quantized, dtype):
    model = SigLIP.from_pretrained(quantized, dtype=dtype)
    assert model.dtype == "int8"
    checkpoint = Checkpoint.open(quantized)
    assert checkpoint.quantized and not Checkpoint.open(TINY).quantized
    assert SigLIP(checkpoint.config, checkpoint, dtype=dtype).dtype == "int8"
    assert SigLIP.from_pretrained(TINY).dtype == "float32"
    assert SigLIP.from_pretrained(TINY, dtype="bfloat16").dtype == "bfloat16"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_dtype_is_refused(quantized, dtype):
    checkpoint = Checkpoint.open(quantized)
    expected = rf"{quantized} holds weights quantised to int8.* in {dtype}: .*load the original model in {dtype}"
    with pytest.raises(InputError, match=expected):
        SigLIP.from_pretrained(quantized, dtype=dtype)
    with pytest.raises(InputError, match=expected):
        SigLIP(checkpoint.config, checkpoint, dtype=dtype)


def test_an_unknown_dtype_is_refused_before_the_folder_is_opened():
    with pytest.raises(InputError, match="float32, bfloat16, int8; got 'float8'"):
        SigLIP.from_pretrained("nowhere", dtype="float8")


def test_files_that_do_not_align_their_tensors(copy):
    expected = results(SigLIP.from_pretrained(copy))
    path = copy / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for more in (1, 2):
        path.write_bytes((size + more).to_bytes(8, "little") + raw[8 : 8 + size] + b" " * more + raw[8 + size :])
        assert_same_bits(results(SigLIP.from_pretrained(copy)), expected)
        for name, values in Checkpoint.open(copy).items():
            assert values.ctypes.data % 4 == 0 and not values.flags.writeable, name


def test_files_in_another_order(copy):
    """As the library sorts them."""
    expected = results(SigLIP.from_pretrained(copy))
    assert_same_bits(results(SigLIP.from_pretrained(rewrite(copy, lambda tensors: None))), expected)


# Bad folders


def test_another_format_is_refused(copy):
    def change(**entries):
        return message(edit_config(copy, lambda c: c["quantization_config"].update(entries)))

    text = change(format=2, version="9.9")
    assert text.startswith(f"{copy} holds weights quantised by npsiglip 9.9, to int8 in format 2; this version reads ")
    assert "reads int8 in format 1: quantise the original model again with `npsiglip quantize`" in text
    assert "to int4 in format 1" in change(format=1, dtype="int4")
    edit_config(copy, lambda c: c["quantization_config"].pop("format"))
    assert "in format None" in message(copy)


@pytest.mark.parametrize("entry", [None, {}, "npsiglip", {"library": "other", "format": 1, "dtype": "int8"}])
def test_without_our_mark_the_tensors_are_foreign(copy, entry):
    text = message(edit_config(copy, lambda c: c.update(quantization_config=entry)))
    assert "- vision_model.embeddings.patch_embedding.weight" in text and "+ bias" in text


def test_our_mark_on_float_weights(copy):
    shutil.copy(TINY / "model.safetensors", copy)
    text = message(copy)
    assert "- image.patch_embed.panels" in text and "+ logit_bias" in text and "quantise the original again" in text


BAD_TENSORS = {
    "missing": (lambda t: t.pop(SCALE), ["1 missing (-), 0 unexpected (+)", f"- {SCALE}"]),
    "extra": (lambda t: t.update(extra=np.zeros(1, np.int8)), ["0 missing (-), 1 unexpected (+)", "+ extra"]),
    "shape": (lambda t: t.update({SCALE: np.ones(51, np.float32)}), [f"{SCALE}: F32 [51] stored, F32 [52] expected"]),
    "panels": (lambda t: t.update({PANELS: t[PANELS][:3].copy()}), [f"{PANELS}: I8 [3, 9, 16, 4] stored, I8 [4, 9, "]),
    "type": (lambda t: t.update({TOTAL: t[TOTAL].astype(np.int64)}), [f"{TOTAL}: I64 [52] stored, I32 [52] expected"]),
    "half": (lambda t: t.update({SCALE: t[SCALE].astype(np.float16)}), [f"{SCALE}: F16 [52] stored, F32 [52]"]),
    "scalar": (lambda t: t.update(bias=t["bias"].reshape(1)), ["bias: F32 [1] stored, F32 [] expected"]),
}


@pytest.mark.parametrize("case", BAD_TENSORS)
def test_bad_tensors(copy, case):
    change, phrases = BAD_TENSORS[case]

    def apply(tensors):
        change(tensors)

    text = message(rewrite(copy, apply))
    for phrase in [*phrases, str(copy), "quantise the original again"]:
        assert phrase in text


@pytest.mark.parametrize("size", [0.5, 0.99, 1 - 1e-9])
def test_a_truncated_file(copy, size):
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * size)])
    assert message(copy).startswith(f"{path} is cut short")


@pytest.mark.parametrize(
    ("name", "place"), [(SCALE, 3), ("text.blocks.00.attn.qkv.b", 1), ("text.token_embed.scale", 700)]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_and_biases_that_are_not_finite(copy, name, place, value):
    def change(tensors):
        tensors[name][place] = value

    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} .* has 1 of [\d,]+ values not finite"):
        results(SigLIP.from_pretrained(rewrite(copy, change)))


def test_bfloat16_panels_that_are_not_finite(copy):
    def change(tensors):
        tensors["text.head.panels"][1, 2, 3, 0] = np.nan

    with pytest.raises(CheckpointError, match=r"text.head.panels .* the first nan at \[1, 2, 3, 0\]"):
        SigLIP.from_pretrained(rewrite(copy, change))


# What is not quantised


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


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

    source = rewrite(Path(shutil.copytree(TINY, tmp_path / "model")), change)
    refused(source, tmp_path / "quantized", rf"{FC1}.* 1 of 1,872 values not finite")
    (tmp_path / "quantized").mkdir()
    refused(source, tmp_path / "quantized", "not finite")  # and a folder that was there stays


def test_a_table_that_is_not_finite(tmp_path):
    def change(tensors):
        tensors["text_model.embeddings.token_embedding.weight"][900, 2] = np.nan

    source = rewrite(Path(shutil.copytree(TINY, tmp_path / "model")), change)
    refused(source, tmp_path / "quantized", "token_embed .* values not finite")


def test_a_quantised_model(copy):
    refused(copy, copy.parent / "again", f"{copy} is quantised already: expected the original model")


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


def test_write_tensors_wants_what_it_was_told(tmp_path):
    specs = {"a": Spec("F32", (3,)), "b": Spec("I8", (2, 2))}
    values = {"a": [np.arange(2, dtype=np.float32), np.ones(1, np.float32)], "b": [np.ones((2, 2), np.int8)]}
    write_tensors(tmp_path / "x", specs, values.__getitem__)
    np.testing.assert_array_equal(load_file(tmp_path / "x")["a"], [0, 1, 1])
    for wrong in ({"a": values["a"][:1]}, {"b": [np.ones((2, 2), np.uint8)]}, {"a": [*values["a"], *values["a"]]}):
        with pytest.raises(AssertionError):
            write_tensors(tmp_path / "x", specs, (values | wrong).__getitem__)


# Memory


def resident(memory):
    """Bytes of a mapped file that are in this process's memory."""
    address = np.frombuffer(memory, np.uint8).ctypes.data
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = address <= int(found[1], 16) < address + len(memory)
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


LARGE = SigLIPConfig(  # few tensors, so that there are few ends of tensors
    ImageConfig(width=256, depth=1, num_heads=4, mlp_dim=3000, image_size=32, patch_size=8),
    TextConfig(width=256, depth=1, num_heads=4, mlp_dim=3000, seq_len=7, vocab_size=9000, projection_dim=256),
)
linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps")


@linux
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_was_packed_is_let_go(tmp_path, dtype):
    model = SigLIP.from_pretrained(float_folder(tmp_path, LARGE), dtype)
    memory = model._text.params._entries["bias"][1].memory
    pixels, ids = inputs_of(LARGE)["images"], np.zeros((1, 7), int)  # one row of the table
    for _ in range(3):
        model(pixels, ids)
        assert len(memory) > 30e6
        assert resident(memory) < 5e6  # a page of the table, biases, ends of tensors, and what lies around them


@linux
def test_released_values_are_read_again(tmp_path):
    checkpoint = Checkpoint.open(float_folder(tmp_path, LARGE))
    name = "image.blocks.00.mlp.fc1.w"
    memory = checkpoint._entries[name][1].memory
    values = checkpoint[name]
    before, expected = resident(memory), random_params(LARGE, seed=4)[name]
    checkpoint.release(name)
    assert before > values.nbytes > 3e6 > 64 * mmap.PAGESIZE > resident(memory)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(checkpoint[name], expected)


@linux
def test_the_table_is_let_go_once_it_was_checked(tmp_path):
    checkpoint = Checkpoint.open(float_folder(tmp_path, LARGE))
    memory = checkpoint._entries["bias"][1].memory
    table = checkpoint["text.token_embed"]
    assert resident(memory) < 1e6 < table.nbytes
    assert table[::100].sum() != 0
    assert resident(memory) > 1e6
    _ = checkpoint["text.token_embed"]
    assert resident(memory) > 1e6  # not again: rows that were looked up may be looked up again


def test_values_are_checked_once_though_they_are_released(tmp_path, monkeypatch):
    checked = []
    float_folder(tmp_path)
    monkeypatch.setattr("npsiglip.checkpoint.all_finite", lambda values: checked.append(values.shape) or True)
    results(SigLIP.from_pretrained(tmp_path), passes=3)
    assert len(checked) == len(Checkpoint.open(tmp_path))


@pytest.mark.parametrize("shape", [(0,), (1,), (3000,)])
def test_small_tensors_have_no_page_of_their_own(tmp_path, shape):
    save_file({"a": np.ones(5, np.float32), "x": np.ones(shape, np.float32)}, tmp_path / "x")
    for tensor in open_file(tmp_path / "x").values():
        tensor.release()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system releases nothing")
@pytest.mark.parametrize(
    ("first", "end", "released"),
    [(0, 3, (0, 3)), (0.5, 3, (1, 3)), (1, 3.5, (1, 3)), (0.1, 3.9, (1, 3)), (1.2, 1.8, None), (1.2, 2.1, None)],
)
def test_only_whole_pages_are_released(first, end, released):
    """In pages, the place of a tensor and what the system is told: what lies beside it is not read anew."""

    class Memory:
        told = None

        def madvise(self, advice, start, length):
            self.told = start / mmap.PAGESIZE, (start + length) / mmap.PAGESIZE

    start = int(first * mmap.PAGESIZE)
    memory = Memory()
    MappedTensor(Path("x"), "I8", (int(end * mmap.PAGESIZE) - start,), start, memory).release()
    assert memory.told == released


def test_systems_that_cannot_release(tmp_path, monkeypatch):
    monkeypatch.delattr(mmap, "MADV_DONTNEED")
    expected = results(SigLIP.from_pretrained(TINY))
    assert_same_bits(results(SigLIP.from_pretrained(TINY), passes=2), expected)
    Checkpoint.open(TINY).release("text.token_embed")
