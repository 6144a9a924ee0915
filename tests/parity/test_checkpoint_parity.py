"""Model folders exchanged with the living transformers: every tensor equal, no key missing or left over."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from npsiglip.params import random_params
from npsiglip.save import save_folder

VISION = {
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 30,
    "patch_size": 7,
}
TEXT = {
    "hidden_size": 20,
    "intermediate_size": 33,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "vocab_size": 99,
    "max_position_embeddings": 9,
    "projection_size": 24,
}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

KINDS = {
    "both": lambda: SiglipModel(SiglipConfig(text_config=TEXT, vision_config=VISION)),
    "image": lambda: SiglipVisionModel(SiglipVisionConfig(**VISION)),
    "text": lambda: SiglipTextModel(SiglipTextConfig(**TEXT)),
}
CLASSES = {"both": SiglipModel, "image": SiglipVisionModel, "text": SiglipTextModel}
TOWER = {"both": "", "image": "vision_model.", "text": "text_model."}


def make(kind, dtype=torch.float32):
    """A model whose parameters are all random and all different, rounded to `dtype`."""
    torch.manual_seed(3)
    model = KINDS[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    return model.to(dtype).eval()


def size(model):
    return sum(parameter.nbytes for parameter in model.parameters())


def numbers(tensor):
    return tensor.detach().to(torch.float64).numpy()


def expected(model):
    """Our name -> values from the modules themselves, not through key names."""

    def linear(name, module):
        yield f"{name}.w", numbers(module.weight).T
        yield f"{name}.b", numbers(module.bias)

    def norm(name, module):
        yield f"{name}.scale", numbers(module.weight)
        yield f"{name}.b", numbers(module.bias)

    def mlp(name, module):
        yield from linear(f"{name}.fc1", module.fc1)
        yield from linear(f"{name}.fc2", module.fc2)

    def blocks(tower, module):
        for i, layer in enumerate(module.encoder.layers):
            name = f"{tower}.blocks.{i:02d}"
            yield from norm(f"{name}.ln1", layer.layer_norm1)
            for part in ("q", "k", "v", "out"):
                yield from linear(f"{name}.attn.{part}", getattr(layer.self_attn, f"{part}_proj"))
            yield from norm(f"{name}.ln2", layer.layer_norm2)
            yield from mlp(f"{name}.mlp", layer.mlp)

    def image(module):
        embed, head = module.embeddings, module.head
        conv = numbers(embed.patch_embedding.weight)  # [D, channel, row, column]
        yield "image.patch_embed.w", np.stack([kernel.transpose(1, 2, 0).ravel() for kernel in conv], axis=1)
        yield "image.patch_embed.b", numbers(embed.patch_embedding.bias)
        yield "image.pos_embed", numbers(embed.position_embedding.weight)
        yield from blocks("image", module)
        yield from norm("image.final_ln", module.post_layernorm)
        yield "image.map_head.probe", numbers(head.probe)[0, 0]
        weights, biases = (
            np.split(numbers(x), 3) for x in (head.attention.in_proj_weight, head.attention.in_proj_bias)
        )
        for part, weight, bias in zip("qkv", weights, biases, strict=True):
            yield f"image.map_head.attn.{part}.w", weight.T
            yield f"image.map_head.attn.{part}.b", bias
        yield from linear("image.map_head.attn.out", head.attention.out_proj)
        yield from norm("image.map_head.ln", head.layernorm)
        yield from mlp("image.map_head.mlp", head.mlp)

    def text(module):
        yield "text.token_embed", numbers(module.embeddings.token_embedding.weight)
        yield "text.pos_embed", numbers(module.embeddings.position_embedding.weight)
        yield from blocks("text", module)
        yield from norm("text.final_ln", module.final_layer_norm)
        yield from linear("text.head", module.head)

    values = {}
    if isinstance(model, SiglipVisionModel):
        values.update(image(getattr(model, "vision_model", model)))
    elif isinstance(model, SiglipTextModel):
        values.update(text(getattr(model, "text_model", model)))
    else:
        values.update(image(getattr(model.vision_model, "vision_model", model.vision_model)))
        values.update(text(getattr(model.text_model, "text_model", model.text_model)))
        values.update(t_prime=numbers(model.logit_scale)[0], bias=numbers(model.logit_bias)[0])
    return values


def assert_equal(checkpoint, model, dtype="float32"):
    values = expected(model)
    assert list(checkpoint) == list(values)
    for name, value in values.items():
        assert checkpoint[name].dtype.name == dtype, name
        assert checkpoint[name].shape == np.shape(value), name
        np.testing.assert_array_equal(checkpoint[name].astype(np.float64), value, err_msg=name)


@pytest.mark.parametrize("shard", [None, "50KB"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_reads_what_transformers_saves(tmp_path, kind, dtype, shard):
    model = make(kind, DTYPES[dtype])
    model.save_pretrained(tmp_path, **({"max_shard_size": shard} if shard else {}))
    assert (tmp_path / "model.safetensors.index.json").exists() == (shard is not None and size(model) > 50_000)
    assert_equal(Checkpoint.open(tmp_path), model, dtype)


@pytest.mark.parametrize("kind", ["image", "text"])
def test_reads_stand_alone_towers_of_both_generations(tmp_path, kind):
    """transformers 5 saves bare keys; version 4 kept the tower's name, and some had position_ids."""
    model = make(kind)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    bare = {key.removeprefix(TOWER[kind]): value for key, value in load_file(path).items()}
    ids = torch.arange(9)[None]
    for prefix in ("", TOWER[kind]):
        tensors = {prefix + key: value for key, value in (bare | {"embeddings.position_ids": ids}).items()}
        save_file(tensors, path, metadata={"format": "pt"})
        assert_equal(Checkpoint.open(tmp_path), model)


@pytest.mark.parametrize("shard", [None, 30_000])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_loads_what_we_save(tmp_path, kind, dtype, shard):
    content = json.loads(make("both").config.to_json_string())
    config = SigLIPConfig.from_hf(content)
    config = SigLIPConfig(config.image if kind != "text" else None, config.text if kind != "image" else None)
    save_folder(tmp_path, config, random_params(config, 4), dtype, max_shard_bytes=shard)
    for loader in [CLASSES[kind]] + [AutoModel] * (kind != "text"):  # it knows no stand-alone text tower
        model, info = loader.from_pretrained(tmp_path, dtype=DTYPES[dtype], output_loading_info=True)
        assert isinstance(model, CLASSES[kind])
        assert not any(info.values()), info
        assert_equal(Checkpoint.open(tmp_path), model, dtype)


@pytest.mark.parametrize("kind", KINDS)
def test_config_survives_transformers(tmp_path, kind):
    """Ours -> transformers' configuration -> its config.json -> ours."""
    make(kind).save_pretrained(tmp_path / "theirs")
    config = SigLIPConfig.from_folder(tmp_path / "theirs")
    save_folder(tmp_path / "ours", config, random_params(config, 4))
    CLASSES[kind].from_pretrained(tmp_path / "ours").save_pretrained(tmp_path / "again")
    assert SigLIPConfig.from_folder(tmp_path / "again") == config
    theirs, again = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("theirs", "again"))
    for section in ("text_config", "vision_config"):
        again.get(section, {}).pop("dtype", None)  # added whenever a model was loaded and not made
    assert again == theirs


def test_defaults_left_out_of_a_config_are_transformers_defaults():
    both = SiglipConfig()
    assert SigLIPConfig.from_hf({"model_type": "siglip"}) == SigLIPConfig.from_hf(both.to_dict())
