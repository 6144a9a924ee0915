"""Models in 8 bits that are read: the same bits as computed in int8, where the weights lie, and what is refused."""

import re
import resource
import shutil

import numpy as np
import pytest

from npsiglip import Checkpoint, CheckpointError, InputError, SigLIP, save_folder
from npsiglip.config import SigLIPConfig, TextConfig
from npsiglip.convert.quantize import quantize_folder
from npsiglip.formats.quantized import gather_rows, quantize_table, quantized_specs
from npsiglip.formats.stored import Spec
from npsiglip.kernels.pack import panels_shape
from npsiglip.params import random_params
from tests.helpers.golden_data import TINY
from tests.helpers.model_folders import change_tensors, edit_json, message, write_sparse
from tests.helpers.quantized_folders import (
    ODD,
    PANELS,
    SCALE,
    TOTAL,
    assert_same_bits,
    float_folder,
    results,
)


def edit_config(folder, change):
    edit_json(folder / "config.json", change)
    return folder


# What is stored


def test_float64_is_rounded_once(tmp_path):
    """The temperature, too: a model takes its parameters as float32."""
    params = random_params(ODD, seed=4, dtype=np.float64)
    model = SigLIP(ODD, params, dtype="int8")
    assert model.t_prime == float(np.float32(params["t_prime"])) != float(params["t_prime"])
    assert model.bias == float(np.float32(params["bias"])) != float(params["bias"])


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
    write_sparse(path, header, end)
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


def test_files_that_do_not_align_their_tensors(quantized_copy):
    expected = results(SigLIP.from_pretrained(quantized_copy))
    path = quantized_copy / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for more in (1, 2):
        path.write_bytes((size + more).to_bytes(8, "little") + raw[8 : 8 + size] + b" " * more + raw[8 + size :])
        assert_same_bits(results(SigLIP.from_pretrained(quantized_copy)), expected)
        for name, values in Checkpoint.open(quantized_copy).items():
            assert values.ctypes.data % 4 == 0 and not values.flags.writeable, name


def test_files_in_another_order(quantized_copy):
    """As the library sorts them."""
    expected = results(SigLIP.from_pretrained(quantized_copy))
    assert_same_bits(results(SigLIP.from_pretrained(change_tensors(quantized_copy, lambda tensors: None))), expected)


# Bad folders


def test_another_format_is_refused(quantized_copy):
    def change(**entries):
        return message(edit_config(quantized_copy, lambda c: c["quantization_config"].update(entries)))

    text = change(format=2, version="9.9")
    assert text.startswith(
        f"{quantized_copy} holds weights quantised by npsiglip 9.9, to int8 in format 2; this version reads "
    )
    assert "reads int8 in format 1: quantise the original model again with `npsiglip quantize`" in text
    assert "to int4 in format 1" in change(format=1, dtype="int4")
    edit_config(quantized_copy, lambda c: c["quantization_config"].pop("format"))
    assert "in format None" in message(quantized_copy)


@pytest.mark.parametrize("entry", [None, {}, "npsiglip", {"library": "other", "format": 1, "dtype": "int8"}])
def test_without_our_mark_the_tensors_are_foreign(quantized_copy, entry):
    text = message(edit_config(quantized_copy, lambda c: c.update(quantization_config=entry)))
    assert "- vision_model.embeddings.patch_embedding.weight" in text and "+ bias" in text


def test_our_mark_on_float_weights(quantized_copy):
    shutil.copy(TINY / "model.safetensors", quantized_copy)
    text = message(quantized_copy)
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
def test_bad_tensors(quantized_copy, case):
    change, phrases = BAD_TENSORS[case]

    def apply(tensors):
        change(tensors)

    text = message(change_tensors(quantized_copy, apply))
    for phrase in [*phrases, str(quantized_copy), "quantise the original again"]:
        assert phrase in text


@pytest.mark.parametrize("size", [0.5, 0.99, 1 - 1e-9])
def test_a_truncated_file(quantized_copy, size):
    path = quantized_copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * size)])
    assert message(quantized_copy).startswith(f"{path} is cut short")


@pytest.mark.parametrize(
    ("name", "place"), [(SCALE, 3), ("text.blocks.00.attn.qkv.b", 1), ("text.token_embed.scale", 700)]
)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scales_and_biases_that_are_not_finite(quantized_copy, name, place, value):
    def change(tensors):
        tensors[name][place] = value

    with pytest.raises(CheckpointError, match=rf"{re.escape(name)} .* has 1 of [\d,]+ values not finite"):
        results(SigLIP.from_pretrained(change_tensors(quantized_copy, change)))


def test_bfloat16_panels_that_are_not_finite(quantized_copy):
    def change(tensors):
        tensors["text.head.panels"][1, 2, 3, 0] = np.nan

    with pytest.raises(CheckpointError, match=r"text.head.panels .* the first nan at \[1, 2, 3, 0\]"):
        SigLIP.from_pretrained(change_tensors(quantized_copy, change))
