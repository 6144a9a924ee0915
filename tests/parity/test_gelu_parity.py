"""hidden_act "gelu", the exact form, as Hugging Face's SigLIP computes it; and the form by tanh in the other tower."""

import numpy as np
import pytest
import torch
from transformers import SiglipConfig, SiglipModel

from npsiglip.checkpoint import Checkpoint
from npsiglip.metrics import relative_l2
from npsiglip.model import SigLIP
from npsiglip.params import cast
from npsiglip.reference import siglip
from npsiglip.reference.model import gelu_erf

FORMS = {"gelu": "gelu_erf", "gelu_pytorch_tanh": "gelu_tanh"}


def test_gelu_erf_is_torchs():
    x = np.linspace(-9, 9, 10_001)
    theirs = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    # x times a number up to 1, with two roundings here and three in torch, whose 1 + erf has an error of its own
    assert np.all(np.abs(gelu_erf(x) - theirs) <= 5 * 2.0**-53 * np.abs(x))


@pytest.mark.parametrize(("image", "text"), [("gelu", "gelu"), ("gelu", "gelu_pytorch_tanh")])
def test_models(tmp_path, image, text):
    sizes = {"hidden_size": 20, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 28}
    config = SiglipConfig(
        vision_config=sizes | {"image_size": 12, "patch_size": 4, "hidden_act": image},
        text_config=sizes | {"vocab_size": 31, "max_position_embeddings": 6, "hidden_act": text, "projection_size": 20},
    )
    torch.manual_seed(3)
    model = SiglipModel(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.3 * torch.randn_like(value))
    model.save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    assert (checkpoint.config.image.activation, checkpoint.config.text.activation) == (FORMS[image], FORMS[text])
    rng = np.random.default_rng(0)
    pixels, ids = rng.uniform(-1, 1, (2, 3, 12, 12)).astype(np.float32), rng.integers(0, 31, (3, 6))
    model = SiglipModel.from_pretrained(tmp_path, dtype=torch.float64, attn_implementation="sdpa").eval()
    with torch.no_grad():
        truth = model(input_ids=torch.from_numpy(ids), pixel_values=torch.from_numpy(pixels).double())
    trace = {}
    siglip(cast(checkpoint, np.float64), checkpoint.config, pixels, ids, trace)
    for name, theirs in (("zimg", truth.image_embeds), ("ztxt", truth.text_embeds), ("logits", truth.logits_per_image)):
        assert relative_l2(trace[name], theirs.numpy()) < 1e-12, name
    found = SigLIP(checkpoint.config, checkpoint)(pixels, ids)
    assert relative_l2(found.image_embeds, truth.image_embeds.numpy()) < 2e-6
    assert relative_l2(found.text_embeds, truth.text_embeds.numpy()) < 2e-6
