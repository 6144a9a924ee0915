"""The float64 reference against Hugging Face's SiglipModel in double precision, at every tap."""

import numpy as np
import pytest
import torch

from golden import random_folder
from npsiglip.checkpoint import Checkpoint
from npsiglip.metrics import relative_l2
from npsiglip.reference import siglip
from npsiglip.variants import variant
from tests.helpers.golden_data import above, group
from tests.parity.hf_taps import hf_model, hf_taps

# float64 against float64. The unit roundoff is 1.1e-16; measured: 3e-15 at worst on the tiny model, 5e-14 at
# B/16-224. What the project promises leaves a factor of 20 for another BLAS or another machine.
BOUND = 1e-12


def reference_taps(folder, pixels, ids):
    """Every tap of the reference for the checkpoint in `folder`."""
    checkpoint, taps = Checkpoint.open(folder), {}
    params = {name: np.asarray(value, np.float64) for name, value in checkpoint.items()}
    siglip(params, checkpoint.config, pixels, ids, taps)
    return taps


def outlier_ratio(x):
    """The largest magnitude against the median one."""
    return np.abs(x).max() / np.median(np.abs(x))


def test_hooks_catch_what_hugging_face_returns(tiny_folder, golden):
    pixels, ids = golden["inputs.pixel_values"], golden["inputs.input_ids"]
    model = hf_model(tiny_folder, "float64")
    taps = hf_taps(model, pixels, ids)
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        output = model(
            pixel_values=torch.from_numpy(pixels), input_ids=torch.from_numpy(ids), output_hidden_states=True
        )
    for tower, own in (("image", output.vision_model_output), ("text", output.text_model_output)):
        depth = len(own.hidden_states) - 1
        names = [f"{tower}.embed"] + [f"{tower}.blocks.{i:02d}.+mlp" for i in range(depth)]
        for name, hidden in zip(names, own.hidden_states, strict=True):
            np.testing.assert_array_equal(taps[name], hidden.numpy(), err_msg=name)
        np.testing.assert_array_equal(taps[f"{tower}.final_ln"], own.last_hidden_state.numpy())
    np.testing.assert_array_equal(taps["image.pooled"], output.vision_model_output.pooler_output.numpy())
    np.testing.assert_array_equal(taps["text.head"], output.text_model_output.pooler_output.numpy())
    np.testing.assert_array_equal(taps["logits"], output.logits_per_text.numpy().T)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_float32_taps_computed_beside_the_hooks_are_hugging_face_s_own(tiny_folder, golden, attn):
    pixels, ids = golden["inputs.pixel_values"], golden["inputs.input_ids"]
    model = hf_model(tiny_folder, torch.float32, attn)
    taps = hf_taps(model, pixels, ids)
    assert {value.dtype for value in taps.values()} == {np.dtype(np.float32)}

    mix = torch.from_numpy(taps["image.map_head.attn.mix"][:, 0])
    out = model.vision_model.head.attention.out_proj(mix).detach().numpy()
    np.testing.assert_array_equal(out, taps["image.map_head.attn.out"][:, 0])
    if attn == "eager":
        with torch.no_grad():
            output = model(
                pixel_values=torch.from_numpy(pixels), input_ids=torch.from_numpy(ids), output_attentions=True
            )
        for tower, own in (("image", output.vision_model_output), ("text", output.text_model_output)):
            for i, probs in enumerate(own.attentions):
                np.testing.assert_array_equal(taps[f"{tower}.blocks.{i:02d}.attn.probs"], probs.numpy())


def test_eager_attention_of_a_double_model_is_not_double(tiny_folder, golden):
    inputs = golden["inputs.pixel_values"], golden["inputs.input_ids"]
    eager, sdpa = (hf_taps(hf_model(tiny_folder, "float64", attn), *inputs) for attn in ("eager", "sdpa"))
    assert relative_l2(eager["image.embed"], sdpa["image.embed"]) == 0
    assert 1e-9 < relative_l2(eager["image.pooled"], sdpa["image.pooled"]) < 1e-6


def test_goldens_are_what_hugging_face_computes_today(tiny_folder, golden):
    taps = hf_taps(hf_model(tiny_folder, "float64"), golden["inputs.pixel_values"], golden["inputs.input_ids"])
    truth = group(golden, "taps")
    assert set(taps) == set(truth)
    assert above(BOUND, taps, truth) == {}


def test_tiny(tiny_folder, golden):
    inputs = golden["inputs.pixel_values"], golden["inputs.input_ids"]
    ours, theirs = reference_taps(tiny_folder, *inputs), hf_taps(hf_model(tiny_folder, "float64"), *inputs)
    assert set(ours) == set(theirs)
    assert above(BOUND, ours, theirs) == {}


def random_inputs(config):
    """Two images and three texts, the first padded, as most texts are."""
    rng = np.random.default_rng(224)
    pixels = rng.uniform(-1, 1, (2, 3, config.image.image_size, config.image.image_size))
    ids = rng.integers(0, config.text.vocab_size, (3, config.text.seq_len))
    ids[0, 9:] = 1
    return pixels, ids


def test_given_model(given_folder):
    inputs = random_inputs(Checkpoint.open(given_folder).config)
    ours, theirs = reference_taps(given_folder, *inputs), hf_taps(hf_model(given_folder, "float64"), *inputs)
    assert above(BOUND, ours, theirs) == {}


@pytest.mark.parametrize("outlier", [1, 100])
def test_base_patch16_224(tmp_path, outlier):
    config = variant("siglip-base-patch16-224")
    random_folder.write(tmp_path, config, outlier=outlier)
    pixels, ids = random_inputs(config)
    ours, theirs = reference_taps(tmp_path, pixels, ids), hf_taps(hf_model(tmp_path, "float64"), pixels, ids)
    (tmp_path / "model.safetensors").unlink()  # 0.8 GB
    assert set(ours) == set(theirs)
    assert above(BOUND, ours, theirs) == {}

    if outlier == 100:
        streams = [name for name in ours if name.endswith((".+attn", ".+mlp")) and "map_head" not in name]
        assert len(streams) == 2 * (config.image.depth + config.text.depth)
        assert {name: r for name in streams if (r := outlier_ratio(ours[name])) < outlier} == {}
