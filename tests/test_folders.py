"""Model folders as people have them: what they lack is asked for when it is needed, what is chosen for them is said.

Covers formats/sentence_transformers.py, texts/generation.py and processors.py as well.
"""

import json
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from npsiglip import Checkpoint, CheckpointError, ImageConfig, InputError, SigLIP, SigLIPConfig, TextConfig, save_folder
from npsiglip.convert.quantize import quantize_folder
from npsiglip.params import random_params
from npsiglip.texts.generation import generation_of
from npsiglip.variants import VARIANTS
from tests.helpers.golden_data import TINY

IMAGE = ImageConfig(width=12, depth=1, num_heads=3, mlp_dim=20, image_size=8, patch_size=4)
TEXT = TextConfig(width=8, depth=1, num_heads=2, mlp_dim=14, seq_len=5, vocab_size=11, projection_dim=12)
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 50, 3), np.uint8))


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(TINY, tmp_path / "model", ignore=shutil.ignore_patterns("golden.safetensors"))


def pixels(size=38):
    return np.random.default_rng(2).uniform(-1, 1, (2, 3, size, size)).astype(np.float32)


# What is missing or damaged, and what goes on without it


@pytest.mark.parametrize("change", ["unlink", "empty", "other"])
@pytest.mark.parametrize("name", ["spiece.model", "tokenizer_config.json", "special_tokens_map.json"])
def test_only_texts_need_the_tokenizer(folder, name, change):
    whole, path = SigLIP.from_pretrained(TINY), folder / name
    path.unlink(missing_ok=True)
    if change != "unlink":
        path.write_text("" if change == "empty" else '{"padding_side": "left", "eos_token": []}')
    if name == "special_tokens_map.json":  # looked at if the configuration lists no tokens
        (folder / "tokenizer_config.json").write_text("{}")
    model = SigLIP.from_pretrained(folder)
    ids = whole.tokenizer(["a cat", "two dogs"])
    for images in (pixels(), [PICTURE]):
        np.testing.assert_array_equal(model(images, ids).logits_per_image, whole(images, ids).logits_per_image)
    if (name, change) == ("spiece.model", "unlink"):
        assert model.tokenizer is None
        with pytest.raises(InputError, match=f"no tokenizer, which texts need: put spiece.model .* into {folder}, or"):
            model.encode_text("a cat")
    elif change == "unlink":  # the defaults are SigLIP's
        np.testing.assert_array_equal(model.tokenizer(["a cat", "two dogs"]), ids)
    else:
        for _ in range(2):
            with pytest.raises(CheckpointError, match=str(folder)):
                model.encode_text("a cat")


def test_only_images_need_the_image_processor(folder):
    (folder / "preprocessor_config.json").write_text('{"size": {"height": 20, "width": 20}}')
    model, whole = SigLIP.from_pretrained(folder), SigLIP.from_pretrained(TINY)
    np.testing.assert_array_equal(model.encode_image(pixels()), whole.encode_image(pixels()))
    np.testing.assert_array_equal(model.encode_text(["a cat"]), whole.encode_text(["a cat"]))
    for _ in range(2):
        with pytest.raises(
            CheckpointError, match=r"preprocessor_config\.json: size is .*, but the model's config\.json"
        ):
            model.encode_image([PICTURE])


def test_a_tokenizer_that_does_not_fit_is_no_matter_for_ids(folder):
    """The message says to pass ids, which has to be possible."""
    (folder / "added_tokens.json").write_text('{"<image>": 1009}')
    (folder / "tokenizer_config.json").write_text("{}")
    model = SigLIP.from_pretrained(folder)
    assert np.isfinite(model.encode_text(np.ones((1, 24), int))).all()
    with pytest.raises(CheckpointError, match="pass token ids made elsewhere"):
        model.encode_text("a cat")


def test_what_is_given_is_used():
    whole = SigLIP.from_pretrained(TINY)
    checkpoint = Checkpoint.open(TINY)
    model = SigLIP(checkpoint.config, checkpoint, whole.processor, whole.tokenizer)
    assert model.tokenizer is whole.tokenizer and model.processor is whole.processor
    model.tokenizer = None
    with pytest.raises(InputError, match="no tokenizer"):
        model.encode_text("a cat")


# Which filter, where no file says it


@pytest.mark.parametrize("name", VARIANTS)
def test_every_released_model_and_its_filter(name):
    """Also of its image tower alone, where the shapes or the name tell; else SigLIP is a guess, and said to be one."""
    config, siglip2 = VARIANTS[name].config, name.startswith("siglip2")
    assert generation_of(config).siglip2 == siglip2
    model = SigLIPConfig(replace(config.image, depth=1, width=12, num_heads=3, mlp_dim=12), None)
    assert generation_of(model) == (config.image.naflex, "NaFlex is SigLIP 2's" if config.image.naflex else "")
    alone = generation_of(SigLIPConfig(config.image, None))
    assert alone.siglip2 == siglip2 or alone.reason == ""
    headless = generation_of(SigLIPConfig(replace(config.image, head=False), None))
    assert headless == alone


def test_some_shapes_are_of_one_family_alone():
    tells = {name for name, v in VARIANTS.items() if generation_of(SigLIPConfig(v.config.image, None)).reason}
    assert {"siglip2-base-patch32-256", "siglip2-giant-opt-patch16-384", "siglip2-large-patch16-512"} <= tells
    assert "siglip-base-patch16-224" not in tells and "siglip2-base-patch16-224" not in tells


def filter_of(folder):
    """The filter, and what the one warning says of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SigLIP.from_pretrained(folder)
        model.encode_image(np.zeros((1, 3, model.config.image.image_size, model.config.image.image_size), np.float32))
        assert caught == []  # pixels need none
        for _ in range(3):
            model.encode_image([PICTURE])
    return model.processor.resample, [str(warning.message) for warning in caught]


ALONE = SigLIPConfig(IMAGE, None)
CASES = {
    "vocabulary": (
        SigLIPConfig(IMAGE, replace(TEXT, vocab_size=256_000)),
        {},
        2,
        "a vocabulary of 256,000 is SigLIP 2's",
    ),
    "SigLIP's vocabulary": (SigLIPConfig(IMAGE, replace(TEXT, vocab_size=32_000)), {}, 3, "of 32,000 is SigLIP's"),
    "its name": (ALONE, {"_name_or_path": "google/siglip2-base-patch16-224"}, 2, "its name is google/siglip2-base"),
    "nothing": (ALONE, {}, 3, "because nothing there speaks of SigLIP 2, which has bilinear"),
    "other vocabulary": (SigLIPConfig(IMAGE, TEXT), {}, 3, "its vocabulary of 11 is not SigLIP 2's"),
}


@pytest.mark.parametrize("config, changes, resample, reason", CASES.values(), ids=CASES)
def test_the_filter_is_picked_by_the_model(tmp_path, config, changes, resample, reason):
    folder = tmp_path / "siglip-2024"  # which is no SigLIP 2
    save_folder(folder, config, random_params(config, seed=1), "bfloat16")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | changes))
    found, (message,) = filter_of(folder)
    assert found == resample and f"{'bilinear' if resample == 2 else 'bicubic'} filter" in message
    assert f"{folder} has no preprocessor_config.json" in message and reason in message
    quantize_folder(folder, tmp_path / "int8")
    assert filter_of(tmp_path / "int8")[0] == resample
    (folder / "preprocessor_config.json").write_text(f'{{"resample": {5 - resample}}}')
    assert filter_of(folder) == (5 - resample, [])


@pytest.mark.parametrize("name", ["siglip2-base-patch16-224", "my-SigLIP2", "models--google--siglip2-x/snapshots/1"])
def test_the_filter_is_picked_by_the_folders_name(tmp_path, name):
    folder = tmp_path / name
    save_folder(folder, ALONE, random_params(ALONE, seed=1))
    found, (message,) = filter_of(folder)
    assert found == 2 and f"its name is {name.partition('/')[0]}" in message
    quantize_folder(folder, tmp_path / "int8")  # whose name does not tell
    assert filter_of(tmp_path / "int8")[0] == 2


def test_the_filter_is_picked_by_the_tokenizer(tmp_path):
    config = SigLIPConfig(IMAGE, TEXT)
    save_folder(tmp_path, config, random_params(config, seed=1))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "GemmaTokenizer"}')
    found, (message,) = filter_of(tmp_path)
    assert found == 2 and "tokenizer_config.json is SigLIP 2's" in message


def test_models_of_parameters_pick_as_well():
    config = SigLIPConfig(IMAGE, replace(TEXT, vocab_size=256_000))
    assert SigLIP(config, random_params(config, seed=1)).processor.resample == 2
    assert SigLIP(ALONE, random_params(ALONE, seed=1)).processor.resample == 3


# Types that are none of the setting's


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ['{"a": 1, "a": 2}', "[" * 100_000, "\xff"])
def test_json_that_cannot_be_taken_at_its_word(folder, name, content):
    (folder / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        SigLIP.from_pretrained(folder)([PICTURE], ["a cat"])


def edited(folder, name, **changes):
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return SigLIP.from_pretrained(folder)


@pytest.mark.parametrize("value", ["false", "true", 0, 1, [], "no"])
def test_do_lower_case_is_true_or_false(folder, value):
    """Any text is true in Python, "false", too."""
    with pytest.raises(CheckpointError, match=r"do_lower_case .*, expected true or false"):
        edited(folder, "tokenizer_config.json", do_lower_case=value).encode_text("A cat")


@pytest.mark.parametrize("value", [3.0, True, "3", 2.5, -1, 6, [3]])
def test_resample_is_a_number_of_a_filter(folder, value):
    with pytest.raises(CheckpointError, match="unknown resample"):
        edited(folder, "preprocessor_config.json", resample=value).encode_image([PICTURE])


def test_a_siglip2_file_that_says_no_filter(tmp_path):
    folder = tmp_path / "siglip2"
    save_folder(folder, ALONE, random_params(ALONE, seed=1))
    (folder / "preprocessor_config.json").write_text("{}")
    found, (message,) = filter_of(folder)
    assert found == 3 and "says no filter (resample): bicubic, as in transformers" in message


# sentence-transformers


def sentence_transformers(folder, inside, *others, first="sentence_transformers.models.Transformer"):
    target = folder / inside
    shutil.copytree(TINY, target, ignore=shutil.ignore_patterns("golden.safetensors"))
    modules = [{"idx": 0, "name": "0", "path": inside, "type": first}]
    modules += [{"idx": i, "name": str(i), "path": f"{i}_x", "type": f"sentence_transformers.models.{other}"}
                for i, other in enumerate(others, 1)]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    return folder


@pytest.mark.parametrize("first", ["sentence_transformers.models.CLIPModel", "a.base.modules.transformer.Transformer"])
@pytest.mark.parametrize("inside", ["", "0_Transformer", "0_CLIPModel", "a/b"])
def test_folders_of_sentence_transformers(tmp_path, inside, first):
    folder = sentence_transformers(tmp_path / "model", inside, "Normalize", first=first)
    model, whole = SigLIP.from_pretrained(folder), SigLIP.from_pretrained(TINY)
    for images, texts in [([PICTURE], ["a cat", "dogs"])]:
        np.testing.assert_array_equal(model(images, texts).logits_per_image, whole(images, texts).logits_per_image)


def test_other_modules_of_sentence_transformers(tmp_path):
    folder = sentence_transformers(tmp_path / "dense", "", "Pooling", "Dense")
    with pytest.raises(CheckpointError, match="has Dense after the model, which changes embeddings"):
        SigLIP.from_pretrained(folder)
    with pytest.warns(UserWarning, match="has Pooling after the model, which is not looked at"):
        SigLIP.from_pretrained(sentence_transformers(tmp_path / "pooling", "0_x", "Pooling"))
    with pytest.raises(CheckpointError, match=r"begins with 'x\.WordEmbeddings'"):
        SigLIP.from_pretrained(sentence_transformers(tmp_path / "words", "", first="x.WordEmbeddings"))


@pytest.mark.parametrize("content", ["", "{}", "[]", "[3]", '[{"type": 3}]', '[{"type": "Transformer", "path": 1}]'])
def test_modules_that_cannot_be_read(folder, content):
    (folder / "modules.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        SigLIP.from_pretrained(folder)


@pytest.mark.parametrize("path", ["../model", "/etc", "0_x/../../model"])
def test_modules_that_point_outside(folder, path):
    (folder / "modules.json").write_text(json.dumps([{"type": "Transformer", "path": path}]))
    with pytest.raises(CheckpointError, match="expected a transformer in a folder inside"):
        SigLIP.from_pretrained(folder)
