"""Image towers in larger models, or cut out of them: found by structure, with or without head, and said so."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from npsiglip import Checkpoint, CheckpointError, ImageConfig, InputError, SigLIP, SigLIPConfig, save_folder
from npsiglip.convert.quantize import quantize_folder
from npsiglip.params import random_params

IMAGE = ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=8, patch_size=4)
PIXELS = np.random.default_rng(1).uniform(-1, 1, (2, 3, 8, 8)).astype(np.float32)
LANGUAGE = {f"model.layers.{i}.mlp.up_proj.weight": np.ones((3, 4), np.float32) for i in range(5)}
# as LLaVA, PaliGemma and Gemma 3 have had it in files, and transformers 5 in memory; and names that nobody uses yet
PREFIXES = [
    "vision_tower.vision_model.",
    "model.vision_tower.vision_tower.vision_model.",
    "model.vision_tower.",
    "language.eyes.3.tower.",
    "vision_model.",
    "",
]


def config_of(head=True, naflex=False):
    return SigLIPConfig(replace(IMAGE, head=head, naflex=naflex), None)


def write(
    folder, prefix, head=True, naflex=False, host="llava", shards=None, extra=LANGUAGE, change=lambda t: t, **vision
):
    """A folder of a larger model with this tower, and the tower's own folder beside it."""
    config = config_of(head, naflex)
    alone = folder.parent / f"{folder.name}-alone"
    save_folder(alone, config, random_params(config, seed=1))
    tensors = load_file(alone / "model.safetensors")
    tensors = (
        change({f"{prefix}{name.removeprefix('vision_model.')}": value for name, value in tensors.items()}) | extra
    )
    section = json.loads((alone / "config.json").read_text()) | vision
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {"model_type": host, "vision_config": section, "text_config": {"model_type": "gemma"}} if host else section
        )
    )
    if shards is None:
        save_file(tensors, folder / "model.safetensors")
    else:
        files = {name: f"model-{i % shards}.safetensors" for i, name in enumerate(tensors)}
        for file in set(files.values()):
            save_file({name: tensors[name] for name, where in files.items() if where == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))
    return folder


def opened(folder):
    """The model, and what was said of it."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SigLIP.from_pretrained(folder)
    return model, [str(warning.message) for warning in caught]


def tokens(model):
    return model.image_output(PIXELS).last_hidden_state


@pytest.mark.parametrize("shards", [None, 3])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_in_a_larger_model(tmp_path, prefix, head, shards):
    folder = write(tmp_path / "vlm", prefix, head, shards=shards)
    model, (said,) = opened(folder)
    alone = SigLIP.from_pretrained(tmp_path / "vlm-alone")
    assert model.config == alone.config == config_of(head)
    np.testing.assert_array_equal(tokens(model), tokens(alone))
    assert f"{folder} is a 'llava' model: its image tower, SigLIP's, was found at {prefix or 'the top'} (" in said
    assert "width 12, 2 blocks, images of 8 pixels" in said and "5 other tensors are left out" in said
    assert ("without head: it gives tokens" in said) == (not head)
    if head:
        np.testing.assert_array_equal(model.encode_image(PIXELS), alone.encode_image(PIXELS))
    else:
        with pytest.raises(InputError, match="no head and so no embedding"):
            model.encode_image(PIXELS)


@pytest.mark.parametrize("said", [True, False, None])
@pytest.mark.parametrize("head", [True, False])
def test_the_weights_tell_whether_there_is_a_head(tmp_path, head, said):
    """Larger models say nothing of it, or something else."""
    vision = {"vision_use_head": said} if said is not None else {}
    folder = write(tmp_path / "vlm", "a.b.", head, **vision)
    assert Checkpoint.open(tmp_path / "vlm-alone").config == opened(folder)[0].config


@pytest.mark.parametrize("prefix", PREFIXES)
def test_cut_out(tmp_path, prefix):
    """With the tower's own config.json, under any prefix."""
    folder = write(tmp_path / "tower", prefix, host="", extra={})
    model, said = opened(folder)
    assert said == []
    np.testing.assert_array_equal(
        model.encode_image(PIXELS), SigLIP.from_pretrained(tmp_path / "tower-alone").encode_image(PIXELS)
    )


@pytest.mark.parametrize(
    ("head", "told"), [(False, "has a head .*, the weights have none"), (True, "has no head .*, the weights have one")]
)
def test_cut_out_with_another_head_than_it_says(tmp_path, head, told):
    folder = write(tmp_path / "tower", "x.", head, host="", extra={}, vision_use_head=not head)
    with pytest.warns(UserWarning, match=told):
        checkpoint = Checkpoint.open(folder)
    assert checkpoint.config == config_of(head)


def test_naflex(tmp_path):
    model, (said,) = opened(write(tmp_path / "vlm", "model.vision.", naflex=True))
    assert model.config == config_of(naflex=True) and "model.vision." in said


def test_other_prefixes_of_both_towers(tmp_path, tiny_folder):
    tensors = load_file(tiny_folder / "model.safetensors")
    save_file({f"my.wrapper.{name}": value for name, value in tensors.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((tiny_folder / "config.json").read_bytes())
    found, expected = Checkpoint.open(tmp_path), Checkpoint.open(tiny_folder)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def test_described_deeper_inside(tmp_path):
    folder = write(tmp_path / "vlm", "a.")
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": "omni", "thinker_config": content}))
    assert opened(folder)[0].config == config_of()


def test_quantised(tmp_path):
    folder = write(tmp_path / "vlm", "a.b.", head=True)
    with pytest.warns(UserWarning, match="'llava' model"):
        quantize_folder(folder, tmp_path / "int8")
        packed = SigLIP.from_pretrained(folder, dtype="int8")
    np.testing.assert_array_equal(
        SigLIP.from_pretrained(tmp_path / "int8").encode_image(PIXELS), packed.encode_image(PIXELS)
    )


def drop(name):
    return lambda tensors: {key: value for key, value in tensors.items() if not key.endswith(name)}


SECOND = {
    f"second.{name}": np.ones(1, np.float32)
    for name in ("embeddings.patch_embedding.weight", "embeddings.patch_embedding.bias",
                 "embeddings.position_embedding.weight", "post_layernorm.weight")
}  # fmt: skip
CLASS = {"a.embeddings.class_embedding": np.ones(12, np.float32)}
REFUSED = {
    "no tower": ({"change": lambda t: {}}, "its weights have none"),
    "no patches": ({"change": drop("patch_embedding.weight")}, "its weights have none"),
    "CLIP's tower": ({"extra": CLASS}, "its weights have none"),
    "two": ({"extra": SECOND}, "with 2 image towers like SigLIP's, at a., second.; expected one"),
    "no block": ({"change": drop("layers.1.mlp.fc2.bias")}, "1 missing (-), 0 unexpected (+)"),
    "half a head": ({"change": drop("head.probe")}, "- a.head.probe (image.map_head.probe)"),
    "more than SigLIP": ({"extra": {"a.encoder.layers.0.scale": np.ones(3)}}, "+ a.encoder.layers.0.scale"),
    "fewer blocks": ({"num_hidden_layers": 1}, "+ a.encoder.layers.1."),
    "more blocks": ({"num_hidden_layers": 3}, "- a.encoder.layers.2."),
    "other width": ({"hidden_size": 15}, "[12] stored, [15] by config.json"),
    "other family": ({"model_type": "clip_vision_model"}, "expected model_type 'siglip' or 'siglip2', got 'llava'"),
    "activation": ({"hidden_act": "quick_gelu"}, "hidden_act must be"),
}


@pytest.mark.parametrize(("options", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path, options, expected):
    folder = write(tmp_path / "vlm", "a.", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(CheckpointError) as error:
            Checkpoint.open(folder)
    assert expected in str(error.value)


def test_two_towers_in_config(tmp_path):
    folder = write(tmp_path / "vlm", "a.")
    content = json.loads((folder / "config.json").read_text())
    content["second_config"] = content["vision_config"]
    (folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="a 'llava' model has 2 image towers of SigLIP's, expected one"):
        Checkpoint.open(folder)


# Images


def processor_of(folder, **settings):
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    model, _ = opened(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.encode_image([Image.new("RGB", (20, 30))])
    return model.processor, [str(warning.message) for warning in caught]


def test_the_image_processor_of_a_larger_model(tmp_path):
    folder = write(tmp_path / "vlm", "a.")
    processor, (said,) = processor_of(
        folder, image_processor_type="LlavaOnevisionImageProcessor", size={"shortest_edge": 8}, resample=2,
        image_mean=[0.4, 0.5, 0.6], do_pad=True, do_center_crop=True, image_grid_pinpoints=[[8, 8]],
    )  # fmt: skip
    assert (processor.height, processor.resample, processor.image_mean) == (8, 2, (0.4, 0.5, 0.6))
    assert "LlavaOnevisionImageProcessor is the larger model's" in said and "squashed to 8 x 8" in said
    processor, said = processor_of(folder, image_processor_type="SiglipImageProcessor", size={"height": 8, "width": 8})
    assert processor.resample == 3 and said == []
