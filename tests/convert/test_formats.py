"""Between an npz and a folder, both ways: the same bits, what is refused, and nothing half-written.

Covers convert/files.py and cli/convert.py as well.
"""

import json
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from npsiglip import SigLIP
from npsiglip.checkpoint import Checkpoint
from npsiglip.convert import formats as converter
from npsiglip.convert.formats import check_equal, convert
from npsiglip.convert.quantize import quantize_folder
from npsiglip.errors import CheckpointError, InputError
from npsiglip.params import random_params
from npsiglip.save import save_folder, save_npz
from tests.helpers import big_vision_npz
from tests.helpers.command import invoke
from tests.helpers.golden_data import GOLDEN
from tests.helpers.npz_models import BOTH, FORMS, NAFLEX, TEXT, assert_same_files, of_folder, write_folder


@pytest.fixture
def folder(tmp_path):
    return write_folder(tmp_path)


@pytest.mark.parametrize(("stacked", "root"), FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("config", [BOTH, NAFLEX], ids=["fixed", "naflex"])
def test_npz_to_folder_to_npz(tmp_path, config, dtype, stacked, root):
    save_folder(tmp_path, config, random_params(config, seed=1), dtype)
    path = big_vision_npz.write(tmp_path / "model.npz", of_folder(tmp_path, stacked, root))
    convert(path, tmp_path / "folder")
    weights = [load_file(folder / "model.safetensors") for folder in (tmp_path, tmp_path / "folder")]
    assert weights[0].keys() == weights[1].keys()
    for name, value in weights[0].items():
        assert value.dtype == weights[1][name].dtype
        np.testing.assert_array_equal(value, weights[1][name], err_msg=name)
    assert Checkpoint.open(tmp_path / "folder").config == config
    convert(tmp_path / "folder", tmp_path / "back.npz", stacked=stacked, root=root)
    assert_same_files(path, tmp_path / "back.npz")


def test_each_tensor_keeps_its_type(tmp_path):
    """Where Hugging Face's tensor holds several, the one that holds all their values."""
    params = random_params(BOTH, seed=1)
    for name, kind in {"image.map_head.attn.k.w": np.float64, "text.token_embed": ml_dtypes.bfloat16}.items():
        params[name] = params[name].astype(kind)
    save_npz(tmp_path / "x.npz", BOTH, params)
    convert(tmp_path / "x.npz", tmp_path / "folder")
    tensors = load_file(tmp_path / "folder" / "model.safetensors")
    types = {name: value.dtype for name, value in tensors.items() if value.dtype != np.float32}
    assert types == {
        "vision_model.head.attention.in_proj_weight": np.float64,
        "text_model.embeddings.token_embedding.weight": ml_dtypes.bfloat16,
    }
    check_equal(Checkpoint.open(tmp_path / "x.npz"), Checkpoint.open(tmp_path / "folder"))


def test_a_difference_is_found(folder):
    arrays = of_folder(folder)
    value = arrays["params/txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_0/kernel"].copy()
    value[3, 4] = np.nextafter(value[3, 4], 9)
    arrays["params/txt/Encoder_0/encoderblock_1/MlpBlock_0/Dense_0/kernel"] = value
    path = big_vision_npz.write(folder / "x.npz", arrays)
    with pytest.raises(CheckpointError, match=r"text\.blocks\.01\.mlp\.fc1\.w of .*x\.npz is not that of"):
        check_equal(Checkpoint.open(folder), Checkpoint.open(path))


def test_a_difference_in_the_last_row_of_a_large_table_is_found(folder, monkeypatch):
    monkeypatch.setattr(converter, "CHECKED_ROWS", 4)  # of 11
    arrays = of_folder(folder)
    table = arrays["params/txt/Embed_0/embedding"].copy()
    table[10, 3] = -table[10, 3]
    arrays["params/txt/Embed_0/embedding"] = table
    path = big_vision_npz.write(folder / "x.npz", arrays)
    with pytest.raises(CheckpointError, match=r"text\.token_embed of .*x\.npz is not that of"):
        check_equal(Checkpoint.open(folder), Checkpoint.open(path))


def test_command(tmp_path, tiny_folder):
    path = tmp_path / "tiny.npz"
    result = invoke("convert", tiny_folder, path, "--layout", "stacked", "--bare")
    assert result.exit_code == 0 and "bit for bit those of" in result.stderr and result.stdout == ""
    assert "does not tell that images have 38 pixels along a side: for whoever reads it they have 35" in result.stderr
    with np.load(path) as file:
        assert "img/Transformer/encoderblock/LayerNorm_0/scale" in file.files
    result = invoke("convert", path, tmp_path / "no-tokenizer")
    assert result.exit_code == 0 and "put spiece.model of the model into it" in result.stderr
    result = invoke("convert", path, tmp_path / "folder", "--tokenizer", tiny_folder, "--image-size", 38)
    assert result.exit_code == 0 and "warning" not in result.stderr
    assert sorted(p.name for p in (tmp_path / "folder").iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "spiece.model",
        "tokenizer_config.json",
    ]
    given = golden_image(tmp_path), ["a cat", "two dogs"]
    ours, theirs = (SigLIP.from_pretrained(source)(*given) for source in (tmp_path / "folder", tiny_folder))
    np.testing.assert_array_equal(ours.logits_per_image, theirs.logits_per_image)


def golden_image(folder):
    from PIL import Image

    path = folder / "image.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return str(path)


def test_gemma_is_copied_for_siglip2(tmp_path):
    config = replace(NAFLEX, text=replace(TEXT, vocab_size=1003, seq_len=64))
    save_npz(tmp_path / "x.npz", config, random_params(config, seed=1))
    convert(tmp_path / "x.npz", tmp_path / "out", tokenizer=GOLDEN / "gemma")
    model = SigLIP.from_pretrained(tmp_path / "out")
    assert model.processor.max_num_patches == 16 and model.tokenizer.vocab_size == 1000
    content = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert content["image_processor_type"] == "Siglip2ImageProcessor" and content["resample"] == 2


def test_conversions_that_are_refused(folder, tmp_path, monkeypatch):
    npz = tmp_path / "x.npz"
    convert(folder, npz)
    before = npz.read_bytes()
    with pytest.raises(CheckpointError, match=r"exists already: choose another name"):
        convert(folder, npz)
    with pytest.raises(CheckpointError, match=r"already holds a model \(config\.json"):
        convert(npz, folder)
    with pytest.raises(CheckpointError, match=r"is a folder in Hugging Face's format already: name an \.npz"):
        convert(folder, tmp_path / "other")
    with pytest.raises(InputError, match="a tokenizer has no place in"):
        convert(folder, tmp_path / "y.npz", tokenizer=folder)
    with pytest.raises(InputError, match="image_size 20 does not fit: the model has 4 patches of 4 along a side"):
        convert(npz, tmp_path / "other", image_size=20)
    with pytest.raises(InputError, match="root must be 'params/' or nothing"):
        convert(folder, tmp_path / "y.npz", root="target/")
    with pytest.raises(CheckpointError, match=r"npsiglip convert .*x\.npz FOLDER"):
        quantize_folder(npz, tmp_path / "int8")
    with pytest.raises(CheckpointError, match=r"the tokenizer in .* has 1000 pieces, but the model only 11 rows"):
        convert(npz, tmp_path / "other", tokenizer=GOLDEN / "gemma")
    assert npz.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["model", "x.npz"]


def test_a_full_disk_leaves_nothing(folder, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", fail)
    with pytest.raises(CheckpointError, match=r"x\.npz cannot be written: .*No space left"):
        convert(folder, tmp_path / "x.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_what_came_out_wrong_is_removed(folder, tmp_path, monkeypatch):
    def differ(*_):
        raise CheckpointError("different")

    monkeypatch.setattr("npsiglip.convert.formats.check_equal", differ)
    with pytest.raises(CheckpointError, match="different"):
        convert(folder, tmp_path / "x.npz")
    assert not (tmp_path / "x.npz").exists()
