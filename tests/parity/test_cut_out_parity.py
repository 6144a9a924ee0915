"""Image towers of larger models as transformers saves them: LLaVA, PaliGemma and Gemma 3, tiny and random."""

import numpy as np
import pytest
import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from npsiglip import SigLIP
from npsiglip.metrics import relative_l2

VISION = {"model_type": "siglip_vision_model", "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
VISION |= {"intermediate_size": 40, "image_size": 16, "patch_size": 4, "vision_use_head": False}
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TEXT |= {"num_key_value_heads": 1, "vocab_size": 64}
HEAD = {"head_dim": 16}
MODELS = {
    "llava": lambda: LlavaForConditionalGeneration(
        LlavaConfig(vision_config=SiglipVisionConfig(**VISION), text_config=LlamaConfig(**TEXT, **HEAD))
    ),
    "llava_onevision": lambda: LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(vision_config=SiglipVisionConfig(**VISION), text_config=Qwen2Config(**TEXT))
    ),
    "paligemma": lambda: PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(vision_config=VISION, text_config=TEXT | HEAD | {"model_type": "gemma"}, projection_dim=32)
    ),
    "gemma3": lambda: Gemma3ForConditionalGeneration(
        Gemma3Config(vision_config=VISION, text_config=TEXT | HEAD | {"model_type": "gemma3_text"})
    ),
}


@pytest.mark.parametrize("shard", ["1GB", "40KB"])
@pytest.mark.parametrize("name", MODELS)
def test_tokens(tmp_path, name, shard):
    torch.manual_seed(3)
    theirs = MODELS[name]().eval()
    theirs.save_pretrained(tmp_path, max_shard_size=shard)
    (tower,) = (module for module in theirs.modules() if isinstance(module, SiglipVisionModel))
    pixels = np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        expected = tower(torch.from_numpy(pixels)).last_hidden_state.numpy()
    with pytest.warns(UserWarning, match=f"a '{name}' model: its image tower, SigLIP's, was found at .* without head"):
        model = SigLIP.from_pretrained(tmp_path)
    assert relative_l2(model.image_output(pixels).last_hidden_state, expected) < 2e-6  # float32 on both sides
