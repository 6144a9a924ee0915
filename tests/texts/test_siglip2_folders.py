"""siglip2.py in whole folders, from end to end: texts and images, the commands, 8 bits."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from npsiglip import CheckpointError, NaflexProcessor, SigLIP, Siglip2Tokenizer, save_folder
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.convert.quantize import quantize_folder
from npsiglip.params import random_params
from tests.helpers.command import invoke
from tests.helpers.golden_data import GOLDEN

GEMMA = GOLDEN / "gemma"
WIDTHS = {"width": 20, "depth": 1, "num_heads": 2, "mlp_dim": 28}
TEXT = TextConfig(**WIDTHS, seq_len=64, vocab_size=1003, projection_dim=20)
FILES = ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]


def write(folder, naflex):
    config = SigLIPConfig(ImageConfig(**WIDTHS, image_size=16, patch_size=4, naflex=naflex), TEXT)
    save_folder(folder, config, random_params(config, seed=5))
    for name in FILES:
        shutil.copy(GEMMA / name, folder)
    settings = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}, "resample": 2}
    if naflex:
        settings = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 4, "max_num_patches": 16}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module", params=[False, True], ids=["fixed", "naflex"])
def folder(request, tmp_path_factory):
    return write(tmp_path_factory.mktemp("siglip2"), request.param)


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    for name, shape in {"wide.png": (20, 50, 3), "tall.png": (41, 17, 3)}.items():
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(name)
    return ["wide.png", "tall.png"]


def test_texts(folder):
    model = SigLIP.from_pretrained(folder)
    assert type(model.tokenizer) is Siglip2Tokenizer and model.tokenizer.seq_len == 64
    texts = ["a photo of a cat", "A PHOTO of a Cat", "two dogs<eos>"]
    embeddings = model.encode_text(texts)
    np.testing.assert_array_equal(embeddings, model.encode_text(Siglip2Tokenizer.from_folder(GEMMA)(texts)))
    np.testing.assert_array_equal(embeddings[0], embeddings[1])
    assert (embeddings[0] != embeddings[2]).any()


def test_commands(folder, images):
    def run(*args):
        result = invoke(*args, "--model", folder)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    model = SigLIP.from_pretrained(folder)
    found = map(json.loads, run("classify", *images, "-l", "A Cat", "-l", "dog", "--json").splitlines())
    ranked = model.classify(images, ["A Cat", "dog"])
    assert [scores["scores"] for scores in found] == ranked
    run("embed", *images, "A Cat", "a cat", "-o", "out.npy")
    rows = np.load("out.npy")
    np.testing.assert_array_equal(rows, np.concatenate([model.encode_image(images), model.encode_text(["a cat"] * 2)]))


def test_quantised_folders(folder, images, tmp_path):
    """The files of processor and tokenizer are copied, and what is loaded is what a model packs in 8 bits."""
    quantize_folder(folder, tmp_path / "int8")
    for name in [*FILES, "preprocessor_config.json"]:
        assert (tmp_path / "int8" / name).read_bytes() == (folder / name).read_bytes()
    stored, packed = SigLIP.from_pretrained(tmp_path / "int8"), SigLIP.from_pretrained(folder, dtype="int8")
    assert stored.processor == packed.processor
    assert isinstance(stored.processor, NaflexProcessor) == stored.config.image.naflex
    texts = ["a photo of a cat", "A dog"]
    for name in ("logits_per_image", "image_embeds", "text_embeds"):
        np.testing.assert_array_equal(getattr(stored(images, texts), name), getattr(packed(images, texts), name))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("preprocessor_config.json", '{"image_processor_type": "SiglipImageProcessor"}', "Siglip2ImageProcessor"),
        ("tokenizer.json", "{}", "tokenizer.json cannot be read"),
    ],
)
def test_files_that_cannot_be_used_matter_when_they_are_needed(tmp_path, name, content, message, images):
    source = tmp_path / "model"
    source.mkdir()
    (write(source, True) / name).write_text(content)
    quantize_folder(source, tmp_path / "int8")
    for folder in (source, tmp_path / "int8"):
        model = SigLIP.from_pretrained(folder)
        pixels = {
            "pixel_values": np.ones((1, 4, 48), np.float32),
            "pixel_attention_mask": np.ones((1, 4), int),
            "spatial_shapes": np.array([[2, 2]]),
        }
        assert np.isfinite(model(pixels, np.array([[3, 4, 1]])).logits_per_image).all()
        with pytest.raises(CheckpointError, match=message):
            model(images, "a cat")
