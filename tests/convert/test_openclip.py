"""Between open_clip's and timm's folders and the other formats; and commands."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from golden.pictures import pil_image
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import GELU_ERF, GELU_TANH, ClassifierConfig, SigLIPConfig
from npsiglip.convert.formats import check_equal, convert
from npsiglip.convert.quantize import quantize_folder
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats import openclip_arch
from npsiglip.formats.told import HUGGING_FACE, OPEN_CLIP
from npsiglip.images.processor import ImageProcessor
from npsiglip.model import SigLIP
from npsiglip.params import random_params
from npsiglip.processors import folder_processor, preprocessor_config
from npsiglip.save import save_folder
from npsiglip.train.initial import params_of
from npsiglip.train.step import Gradients
from tests.helpers import openclip_golden
from tests.helpers.command import invoke
from tests.helpers.openclip_golden import CONFIG, WEIGHTS, change_json, copy_folder


@pytest.fixture
def narrow(monkeypatch):
    """Names of timm for towers as narrow as those of the goldens, for which open_clip has none."""
    shapes = {"width": 24, "depth": 2, "num_heads": 12, "mlp_dim": 42}
    monkeypatch.setattr(openclip_arch, "SHAPES", {"B": shapes})
    monkeypatch.setattr(openclip_arch, "_SIZES", {("base", 8): ((32,), ())})


def narrow_folder(place):
    """The folder "siglip" under such a name."""
    folder = copy_folder(place, "siglip")
    change_json(folder / CONFIG, "model_cfg", "vision_cfg", timm_model_name="vit_base_patch8_siglip_32")
    return folder


@pytest.mark.parametrize("name", ["siglip", "i18n", "siglip2"])
def test_to_hugging_face(tmp_path, name):
    """The activations of both towers are in config.json, the embeddings have the same bits, so have pixels and ids."""
    folder, golden = copy_folder(tmp_path, name), openclip_golden.arrays()[name]
    own, result = SigLIP.from_pretrained(folder), convert(folder, tmp_path / "hf")
    assert result.config == own.config and result.form == HUGGING_FACE
    if name == "siglip2":
        came = SigLIP.from_pretrained(tmp_path / "hf")
        assert came.tokenizer(["a photo of a cat"]).tolist() == own.tokenizer(["a photo of a cat"]).tolist()
    else:  # a Unigram file, which Hugging Face's SigLIP does not read
        assert not (tmp_path / "hf" / "tokenizer.json").exists()
        came = SigLIP(result.config, result, folder_processor(tmp_path / "hf", result.config))
    picture = np.array(a_picture())
    np.testing.assert_array_equal(came.processor(picture), own.processor(picture))
    np.testing.assert_array_equal(came.encode_image(golden["pixels"]), own.encode_image(golden["pixels"]))
    np.testing.assert_array_equal(came.encode_text(golden["ids"]), own.encode_text(golden["ids"]))


def a_picture():
    return pil_image(3, "RGB", 45, 61)


def test_there_and_back_in_every_format(tmp_path, narrow):
    folder = narrow_folder(tmp_path)
    source = Checkpoint.open(folder)
    hugging = convert(folder, tmp_path / "hf")
    back = convert(tmp_path / "hf", tmp_path / "back", to=OPEN_CLIP, tokenizer=folder)
    assert back.form == OPEN_CLIP and back.config == hugging.config == source.config
    before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "back" / WEIGHTS)
    assert before.keys() == after.keys()
    for name, values in before.items():
        assert values.dtype == after[name].dtype and values.shape == after[name].shape, name
        np.testing.assert_array_equal(values, after[name], err_msg=name)
    old, new = (json.loads((place / CONFIG).read_text()) for place in (folder, tmp_path / "back"))
    assert new["preprocess_cfg"] == old["preprocess_cfg"]
    assert new["model_cfg"]["vision_cfg"] == old["model_cfg"]["vision_cfg"]
    wanted = dict(old["model_cfg"]["text_cfg"], hf_tokenizer_name="local")
    assert new["model_cfg"]["text_cfg"] == wanted
    npz = convert(folder, tmp_path / "x.npz")
    assert npz.config.image.activation == GELU_TANH  # an npz has no place for another
    again = convert(tmp_path / "x.npz", tmp_path / "again", to=OPEN_CLIP, tokenizer=folder)
    assert again.config.image.activation == GELU_ERF and again.config.text.activation == GELU_TANH
    check_equal(source, again)
    loaded = SigLIP.from_pretrained(tmp_path / "back")
    assert loaded.tokenizer(["A_cat!"]).tolist() == SigLIP.from_pretrained(folder).tokenizer(["A_cat!"]).tolist()


def test_a_text_tower_without_projection(tmp_path, narrow):
    config = Checkpoint.open(narrow_folder(tmp_path)).config
    config = replace(config, text=replace(config.text, width=24, num_heads=4, activation=GELU_TANH))
    params = random_params(config, 1)
    params |= {"text.head.w": np.eye(24, dtype=np.float32), "text.head.b": np.zeros(24, np.float32)}
    save_folder(tmp_path / "hf", config, params)
    (tmp_path / "hf" / "preprocessor_config.json").write_text("{}")
    convert(tmp_path / "hf", tmp_path / "out", to=OPEN_CLIP)
    assert not [name for name in load_file(tmp_path / "out" / WEIGHTS) if "text_projection" in name]
    text_cfg = json.loads((tmp_path / "out" / CONFIG).read_text())["model_cfg"]["text_cfg"]
    assert text_cfg["proj_type"] == "none" and text_cfg["act_kwargs"] == {"approximate": "tanh"}


def test_image_towers_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(openclip_arch, "SHAPES", {"So400m": {"width": 32, "depth": 1, "num_heads": 16, "mlp_dim": 56}})
    monkeypatch.setattr(openclip_arch, "_SIZES", {("so400m", 8): ((64,), ())})
    monkeypatch.setattr(openclip_arch, "_TANH", {("so400m", 8)})
    folder = copy_folder(tmp_path, "gap")
    change_json(folder / "config.json", architecture="vit_so400m_patch8_siglip_gap_64")  # of another image size
    own = Checkpoint.open(folder).config
    hugging = convert(folder, tmp_path / "hf")
    assert hugging.config == SigLIPConfig(replace(own.image, mean=False), None)
    back = convert(tmp_path / "hf", tmp_path / "back", to=OPEN_CLIP)
    assert back.config == own and back.form == "timm"
    content = json.loads((tmp_path / "back" / "config.json").read_text())
    assert content["architecture"] == "vit_so400m_patch8_siglip_gap_64" and content["model_args"]["img_size"] == [
        32,
        32,
    ]
    assert content["pretrained_cfg"]["crop_mode"] == "squash"
    labels = ClassifierConfig(("a", "b"))
    config = SigLIPConfig(replace(own.image, mean=False), None, labels)
    save_folder(tmp_path / "labelled", config, random_params(config, 2))
    (tmp_path / "labelled" / "preprocessor_config.json").write_text("{}")
    came = convert(tmp_path / "labelled", tmp_path / "timm", to=OPEN_CLIP)
    assert came.config.classifier == labels


def test_a_classifier_on_the_map_head_is_not_hugging_faces(tmp_path):
    with pytest.raises(CheckpointError, match="it cannot be written in that format"):
        convert(copy_folder(tmp_path, "classes"), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_conversions_that_are_refused(tmp_path, narrow, tiny_folder):
    folder = narrow_folder(tmp_path)
    with pytest.raises(CheckpointError, match="is a folder in open_clip's format already"):
        convert(folder, tmp_path / "x", to=OPEN_CLIP)
    with pytest.raises(CheckpointError, match=r"Hugging Face's format already: name an \.npz to write to, or another"):
        convert(tiny_folder, tmp_path / "x")
    with pytest.raises(CheckpointError, match="timm has no image tower of width 36, depth 3"):
        convert(tiny_folder, tmp_path / "x", to=OPEN_CLIP)
    with pytest.raises(InputError, match="name a folder to write to"):
        convert(folder, tmp_path / "x.npz", to=OPEN_CLIP)
    with pytest.raises(InputError, match="to must be"):
        convert(folder, tmp_path / "x", to="jax")
    hugging = tmp_path / "hf"
    config = convert(folder, hugging).config
    change_json(hugging / "config.json", "vision_config", layer_norm_eps=1e-5)
    with pytest.raises(CheckpointError, match="layer_norm_eps is 1e-05, and timm's image towers have 1e-06"):
        convert(hugging, tmp_path / "x", to=OPEN_CLIP)
    change_json(hugging / "config.json", "vision_config", layer_norm_eps=1e-6)
    size = config.image.image_size
    settings = preprocessor_config(ImageProcessor(size, size, resample=1))  # Lanczos
    (hugging / "preprocessor_config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match="has steps that open_clip has no words for"):
        convert(hugging, tmp_path / "x", to=OPEN_CLIP)
    text = SigLIPConfig(None, config.text)
    save_folder(tmp_path / "text", text, random_params(text, 1))
    with pytest.raises(CheckpointError, match="a text tower alone has no form in open_clip"):
        convert(tmp_path / "text", tmp_path / "x", to=OPEN_CLIP)
    assert not (tmp_path / "x").exists()
    with pytest.raises(CheckpointError, match=r"has to become a folder first: npsiglip convert"):
        quantize_folder(folder, tmp_path / "x")


def test_a_quantised_model_keeps_its_gelu(tmp_path):
    folder, golden = copy_folder(tmp_path, "siglip2"), openclip_golden.arrays()["siglip2"]
    convert(folder, tmp_path / "hf")
    quantize_folder(tmp_path / "hf", tmp_path / "int8")
    expected = SigLIP.from_pretrained(folder, "int8").encode_image(golden["pixels"])
    quantized = SigLIP.from_pretrained(tmp_path / "int8")
    assert quantized.config.image.activation == GELU_ERF
    np.testing.assert_array_equal(quantized.encode_image(golden["pixels"]), expected)


def test_training_refuses_gelu_by_erf(tmp_path):
    folder = copy_folder(tmp_path, "siglip")
    config = Checkpoint.open(folder).config
    with pytest.raises(InputError, match="training computes GELU by tanh"):
        Gradients(config, 2, 16)
    with pytest.raises(InputError, match=r"the image tower of .* computes GELU by erf"):
        params_of(folder, config)
    with pytest.raises(InputError, match=r"the text tower of .* computes GELU by erf"):
        params_of(copy_folder(tmp_path, "i18n"), Checkpoint.open(folder).config)


# Commands


def test_commands(tmp_path):
    folder, picture = copy_folder(tmp_path, "siglip"), tmp_path / "a.png"
    a_picture().save(picture)
    results = []
    for i, options in enumerate(([], ["--gelu", "tanh"])):
        target = tmp_path / f"{i}.npy"
        result = invoke("embed", picture, "a_cat", "-o", target, "--model", folder, *options)
        assert result.exit_code == 0, result.output
        results.append(np.load(target))
    assert np.isfinite(results).all() and 1e-5 < np.abs(results[0] - results[1]).max() < 0.05
    expected = SigLIP.from_pretrained(folder).encode_image(picture)
    np.testing.assert_array_equal(results[0][:1], expected)
    change_json(folder / CONFIG, "model_cfg", "vision_cfg", timm_model_name="mine_siglip")
    result = invoke("classify", picture, "-l", "a cat", "--model", folder)
    assert result.exit_code == 1 and "--image-heads N and --gelu tanh or erf" in result.output.replace("\n", " ")
    result = invoke("classify", picture, "-l", "a cat", "--model", folder, "--image-heads", 12, "--gelu", "erf")
    assert result.exit_code == 0, result.output
    result = invoke("classify", picture, "--model", copy_folder(tmp_path, "classes"))
    assert result.exit_code == 0 and {"ant", "bee", "cow"} <= set(result.output.split()), result.output


def test_convert_command(tmp_path):
    folder = copy_folder(tmp_path, "siglip")
    result = invoke("convert", folder, tmp_path / "hf", "--to", "hugging-face")
    assert result.exit_code == 0 and "bit for bit those of" in result.stderr, result.output
    assert "has no tokenizer: put spiece.model" in result.stderr and "no place to say so" not in result.stderr
    result = invoke("convert", folder, tmp_path / "x.npz")
    assert result.exit_code == 0
    assert result.stderr.count("has no place to say so: whoever reads it computes gelu_tanh") == 2, result.stderr
    result = invoke("convert", folder, tmp_path / "y.npz", "--gelu", "tanh")
    assert result.exit_code == 0 and "no place to say so" not in result.stderr
    result = invoke("convert", copy_folder(tmp_path, "gap"), tmp_path / "gap-hf")
    assert result.exit_code == 0 and "the mean of the tokens is the embedding" in result.stderr
    assert "images are resized to 35 and cropped in the original" in result.stderr


def test_a_target_that_could_not_be_read_again_is_removed(tmp_path, narrow, monkeypatch):
    convert(narrow_folder(tmp_path), tmp_path / "hf")

    def differ(first, second):
        raise CheckpointError("the disk or memory is bad")

    monkeypatch.setattr("npsiglip.convert.formats.check_equal", differ)
    with pytest.raises(CheckpointError, match="disk or memory is bad"):
        convert(tmp_path / "hf", tmp_path / "out", to=OPEN_CLIP)
    assert not list(Path(tmp_path / "out").glob("*.safetensors")) and not (tmp_path / "out" / CONFIG).exists()


def test_a_folder_that_holds_open_clips_model_is_no_target(tmp_path, tiny_folder):
    (tmp_path / CONFIG).write_text("{}")
    convert(tiny_folder, tmp_path / "x.npz")
    (tmp_path / "x.npz").rename(tmp_path.parent / "moved.npz")
    with pytest.raises(CheckpointError, match="already holds a model"):
        convert(tmp_path.parent / "moved.npz", tmp_path)


def test_values_that_are_not_finite_are_refused(tmp_path):
    folder = copy_folder(tmp_path, "siglip")
    tensors = load_file(folder / WEIGHTS)
    tensors["text.ln_final.bias"][3] = np.nan
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(
        CheckpointError, match=r"text\.final_ln\.b \(stored as text\.ln_final\.bias\) has 1 of 20 values"
    ):
        convert(folder, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
