"""SigLIP 2 NaFlex, masks, interpolated positions, the insides of towers, classifiers; against golden/family.npz."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from npsiglip import Checkpoint, InputError, SigLIP, SigLIPConfig, reference
from npsiglip.config import ClassifierConfig, ImageConfig, TextConfig
from npsiglip.convert.quantize import quantize_folder
from npsiglip.metrics import relative_l2
from npsiglip.params import cast, random_params
from tests.helpers.golden_data import GOLDEN

REFERENCE_BOUND = 1e-12  # what the project promises
KERNELS_BOUND = 1e-6  # 4.4e-7 at worst
WIDTHS = {"width": 20, "depth": 2, "num_heads": 2, "mlp_dim": 28}
TEXT = TextConfig(width=12, depth=1, num_heads=2, mlp_dim=18, seq_len=7, vocab_size=23, projection_dim=20)
FLEXIBLE = ImageConfig(**WIDTHS, image_size=12, patch_size=3, naflex=True)
CONFIGS = {
    "naflex": SigLIPConfig(FLEXIBLE, TEXT),
    "classifier": SigLIPConfig(FLEXIBLE, None, ClassifierConfig(("cat", "dog", "owl"))),
    "fixed": SigLIPConfig(ImageConfig(**WIDTHS, image_size=12, patch_size=3), TEXT),
}
EVERYTHING = {"output_hidden_states": True, "output_attentions": True}


@pytest.fixture(scope="module")
def truth():
    return dict(np.load(GOLDEN / "family.npz"))


@pytest.fixture(scope="module")
def checkpoints(truth, tmp_path_factory):
    """Folders with the golden's weights."""
    found = {}
    for name, config in CONFIGS.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text(json.dumps(config.to_hf()))
        prefix = f"{name}/"
        tensors = {key.removeprefix(prefix): value for key, value in truth.items() if key.startswith(prefix)}
        save_file(tensors, folder / "model.safetensors")
        found[name] = Checkpoint.open(folder)
        assert found[name].config == config
    return found


@pytest.fixture(scope="module")
def models(checkpoints):
    return {name: SigLIP(checkpoint.config, checkpoint) for name, checkpoint in checkpoints.items()}


@pytest.fixture(scope="module")
def batch(truth):
    return {
        "pixel_values": truth["patches"],
        "pixel_attention_mask": truth["mask"],
        "spatial_shapes": truth["shapes"],
    }


def test_the_reference(checkpoints, truth, batch):
    params = {name: cast(checkpoint, np.float64) for name, checkpoint in checkpoints.items()}
    arrays = tuple(batch.values())
    found = reference.naflex_tower(params["naflex"], FLEXIBLE, *arrays)
    assert relative_l2(found, truth["naflex.pooled"]) <= REFERENCE_BOUND
    found = reference.text_tower(params["naflex"], TEXT, truth["ids"], mask=truth["text_mask"].astype(bool))
    assert relative_l2(found, truth["naflex.masked_text"]) <= REFERENCE_BOUND
    trace = {}
    reference.naflex_tower(params["classifier"], FLEXIBLE, *arrays, trace)
    found = reference.classify(params["classifier"], trace["image.final_ln"], mask=truth["mask"])
    assert relative_l2(found, truth["classifier.logits"]) <= REFERENCE_BOUND
    for name in ("wide", "large"):
        found = reference.image_tower(params["fixed"], CONFIGS["fixed"].image, truth[f"{name}.pixels"])
        assert relative_l2(found, truth[f"{name}.pooled"]) <= REFERENCE_BOUND


def test_the_kernels(models, truth, batch):
    def close(found, expected):
        assert relative_l2(found, truth[expected]) <= KERNELS_BOUND, expected

    close(models["naflex"].encode_image(batch, normalize=False), "naflex.pooled")
    close(models["naflex"](batch, truth["ids"]).logits_per_image, "naflex.logits")
    masked = models["naflex"].encode_text(truth["ids"], normalize=False, attention_mask=truth["text_mask"])
    close(masked, "naflex.masked_text")
    close(models["classifier"].class_logits(batch), "classifier.logits")
    for name in ("wide", "large"):
        pixels = truth[f"{name}.pixels"]
        close(models["fixed"].encode_image(pixels, False, interpolate_pos_encoding=True), f"{name}.pooled")


def test_an_image_has_the_same_bits_in_any_batch(models, batch):
    model, classifier = models["naflex"], models["classifier"]
    together, classes = model.encode_image(batch), classifier.class_logits(batch)
    for i in range(len(together)):
        alone = {key: value[i : i + 1] for key, value in batch.items()}
        np.testing.assert_array_equal(model.encode_image(alone)[0], together[i])
        np.testing.assert_array_equal(classifier.class_logits(alone)[0], classes[i])
    order = np.array([3, 0, 4, 1, 2, 0])
    np.testing.assert_array_equal(model.encode_image({k: v[order] for k, v in batch.items()}), together[order])


def test_images_are_prepared_by_the_models_processor(models):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (h, w, 3), np.uint8) for h, w in ((20, 50), (64, 9), (33, 33)) * 30]
    model = models["naflex"]
    assert model.processor.patch_size == 3 and model.processor.max_num_patches == 16
    found = model.encode_image(images)
    np.testing.assert_array_equal(found, model.encode_image(model.processor(images)))
    np.testing.assert_array_equal(found[:3], model.encode_image(images[:3]))
    assert not np.array_equal(model.encode_image(images[0], max_num_patches=6)[0], found[0])


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_masked_tokens_have_no_influence(models, data):
    """Whatever stands where the mask is 0; but the pooled position attends, masked or not."""
    model = models["fixed"]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=7, max_size=7)))
    mask[data.draw(st.integers(0, 6))] = True
    ids = np.random.default_rng(1).integers(0, 23, (1, 7))
    other = np.where(mask | (np.arange(7) == 6), ids, data.draw(st.integers(0, 22)))
    first, second = (model.encode_text(x, attention_mask=mask[None]) for x in (ids, other))
    np.testing.assert_array_equal(first, second)


def test_a_mask_of_ones_changes_nothing(models, truth):
    model = models["fixed"]
    ones = np.ones(truth["ids"].shape, int)
    np.testing.assert_array_equal(model.encode_text(truth["ids"], attention_mask=ones), model.encode_text(truth["ids"]))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (np.ones((3, 6), int), r"attention_mask must be \[3, 7\] like the ids, got \[3, 6\]"),
        (np.full((3, 7), 2), "must hold 0 and 1"),
        (np.array([[1] * 7, [0] * 7, [1] * 7]), r"attention_mask\[1\] is all zeros"),
    ],
)
def test_bad_masks(models, truth, mask, expected):
    with pytest.raises(InputError, match=expected):
        models["fixed"].encode_text(truth["ids"], attention_mask=mask)


def test_insides_are_those_of_a_trace(models, truth):
    model = models["fixed"]
    pixels = np.random.default_rng(2).uniform(-1, 1, (2, 3, 12, 12)).astype(np.float32)
    trace = model.trace(pixels, truth["ids"])
    for tower, output in (
        ("image", model.image_output(pixels, **EVERYTHING)),
        ("text", model.text_output(truth["ids"], **EVERYTHING)),
    ):
        depth = getattr(model.config, tower).depth
        assert len(output.hidden_states) == depth + 1 and len(output.attentions) == depth
        np.testing.assert_array_equal(output.hidden_states[0], trace[f"{tower}.embed"])
        np.testing.assert_array_equal(output.hidden_states[-1], trace[f"{tower}.blocks.{depth - 1:02d}.+mlp"])
        np.testing.assert_array_equal(output.attentions[0], trace[f"{tower}.blocks.00.attn.probs"])
        np.testing.assert_array_equal(output.last_hidden_state, trace[f"{tower}.final_ln"])
        np.testing.assert_allclose(output.attentions[0].sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(model.image_output(pixels).pooler_output, model.encode_image(pixels, False))
    assert model.image_output(pixels).hidden_states is None
    assert model.text_output(truth["ids"]).attentions is None


def test_insides_of_naflex_end_in_zeros(models, batch):
    output = models["naflex"].image_output(batch, **EVERYTHING)
    counts = batch["pixel_attention_mask"].sum(axis=1)
    assert output.last_hidden_state.shape == (5, max(counts), 20)
    for i, count in enumerate(counts):
        assert not output.last_hidden_state[i, count:].any() and output.last_hidden_state[i, :count].all()
        assert not output.attentions[0][i, :, count:].any() and not output.attentions[0][i, :, :, count:].any()


def test_a_trace_of_naflex_needs_one_grid(models, batch):
    with pytest.raises(InputError, match="trace them one by one"):
        models["naflex"].trace(batch)
    one = {key: value[:1] for key, value in batch.items()}
    assert models["naflex"].trace(one)["image.blocks.00.attn.probs"].shape == (1, 2, 16, 16)


def test_options_of_another_kind_of_model(models, batch):
    pixels = np.zeros((1, 3, 12, 12), np.float32)
    with pytest.raises(InputError, match="max_num_patches is for NaFlex"):
        models["fixed"].encode_image(pixels, max_num_patches=4)
    with pytest.raises(InputError, match="NaFlex always does"):
        models["naflex"].encode_image(batch, interpolate_pos_encoding=True)
    with pytest.raises(InputError, match="expected at least one patch of 3 x 3"):
        models["fixed"].encode_image(np.zeros((1, 3, 2, 12), np.float32), interpolate_pos_encoding=True)


def test_classification(models, truth, batch):
    scores = models["classifier"].classify(batch)
    logits = truth["classifier.logits"]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for ranked, row in zip(scores, probs, strict=True):
        assert {s["label"]: pytest.approx(s["score"], abs=1e-6) for s in ranked} == dict(
            zip(("cat", "dog", "owl"), row, strict=True)
        )
        assert [s["score"] for s in ranked] == sorted((s["score"] for s in ranked), reverse=True)
    with pytest.raises(InputError, match="`labels` are needed"):
        models["fixed"].classify(np.zeros((1, 3, 12, 12), np.float32))
    with pytest.raises(InputError, match="has no classifier"):
        models["fixed"].class_logits(np.zeros((1, 3, 12, 12), np.float32))


def test_several_labels_can_be_right(checkpoints, batch, truth):
    config = SigLIPConfig(FLEXIBLE, None, ClassifierConfig(("cat", "dog", "owl"), multi_label=True))
    scores = SigLIP(config, checkpoints["classifier"]).classify(batch)[0]
    expected = 1 / (1 + np.exp(-truth["classifier.logits"][0]))
    assert sorted(s["score"] for s in scores) == pytest.approx(sorted(expected), abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_tower_without_head(dtype):
    config = SigLIPConfig(ImageConfig(**WIDTHS, image_size=12, patch_size=3, head=False), None)
    params = random_params(config, 3)
    pixels = np.random.default_rng(2).uniform(-1, 1, (2, 3, 12, 12)).astype(np.float32)
    model = SigLIP(config, params, dtype=dtype)
    output = model.image_output(pixels)
    expected = reference.image_tower(cast(params, np.float64), config.image, pixels)
    assert output.pooler_output is None
    bound = {"float32": KERNELS_BOUND, "bfloat16": 0.02, "int8": 0.05}[dtype]  # eight bits of mantissa; one byte
    assert relative_l2(output.last_hidden_state, expected) <= bound
    assert "zimg" not in model.trace(pixels)
    with pytest.raises(InputError, match="has no head and so no embedding"):
        model.encode_image(pixels)


def test_a_quantised_classifier(checkpoints, batch, tmp_path):
    """What is stored in 8 bits computes what a model packs in 8 bits; with texts: tests/convert/test_quantize.py."""
    quantize_folder(checkpoints["classifier"].folder, tmp_path / "int8")
    stored = SigLIP.from_pretrained(tmp_path / "int8")
    packed = SigLIP(CONFIGS["classifier"], checkpoints["classifier"], dtype="int8")
    np.testing.assert_array_equal(stored.class_logits(batch), packed.class_logits(batch))
