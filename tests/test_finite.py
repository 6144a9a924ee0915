"""What users get is finite, or an error naming the input: pixels, weights, embeddings beyond float32, and NaN."""

import json
import re
import warnings

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from npsiglip import Checkpoint, CheckpointError, InputError, SigLIP, reference, sigmoid_loss
from npsiglip.config import ClassifierConfig, ImageConfig, SigLIPConfig, TextConfig
from npsiglip.element_types import DTYPES
from npsiglip.finite import all_finite
from npsiglip.metrics import relative_l2
from npsiglip.params import cast, random_params
from tests.helpers.command import invoke
from tests.helpers.golden_data import TINY

dtypes = pytest.mark.parametrize("dtype", DTYPES)
IMAGE = ImageConfig(width=32, depth=2, num_heads=2, mlp_dim=40, image_size=12, patch_size=3)
TEXT = TextConfig(width=24, depth=2, num_heads=2, mlp_dim=30, seq_len=7, vocab_size=40, projection_dim=32)
BOTH, CLASSES = SigLIPConfig(IMAGE, TEXT), SigLIPConfig(IMAGE, None, ClassifierConfig(("a", "b")))


def pixels(*largest):
    found = np.random.default_rng(0).uniform(-1, 1, (len(largest), 3, 12, 12)).astype(np.float32)
    return found * np.array(largest, np.float32)[:, None, None, None]


@pytest.fixture(scope="module")
def params():
    return random_params(BOTH, seed=2)


# -- attention of large scores --------------------------------------------------------------------------------------


def sharpened(params, factor):
    """Queries and keys so many times larger: scores of the blocks grow with the square."""
    return {
        name: value * np.float32(factor) if re.search(r"blocks.*attn\.[qk]\.", name) else value
        for name, value in params.items()
    }


@dtypes
@pytest.mark.parametrize("factor", [1e3, 2e4, 1e8])
def test_a_model_with_scores_beyond_a_billion(golden, tiny_config, dtype, factor):
    """Each query sees one key, whichever rounding lets it be; a model of one block, so that it is mostly the right one.

    The error that a wrong key makes is that of a token of 16: the mean of many, not the largest, is bounded.
    """
    params = sharpened(dict(Checkpoint.open(TINY)), factor)
    images, ids = golden["inputs.pixel_values"].astype(np.float32), golden["inputs.input_ids"]
    model, truth = SigLIP(tiny_config, params, dtype=dtype), {}
    reference.siglip(cast(params, np.float64), tiny_config, images, ids, truth)
    trace = model.trace(images, ids)
    assert all(np.isfinite(tap).all() for tap in trace.values())
    for tower in ("image", "text"):
        name = f"{tower}.blocks.00.attn.probs"
        np.testing.assert_allclose(trace[name].sum(-1), 1, rtol=1e-5)
        right = (trace[name].argmax(-1) == truth[name].argmax(-1)).mean()
        assert right >= {"float32": 0.99, "bfloat16": 0.9, "int8": 0.8}[dtype]
    if dtype == "float32":
        assert relative_l2(trace["image.blocks.00.+attn"], truth["image.blocks.00.+attn"]) < 1e-4
    assert np.isfinite(model.encode_image(images)).all()
    assert np.isfinite(model(images, ids).probs).all()


# -- results that cannot be finite ----------------------------------------------------------------------------------


@dtypes
def test_pixels_that_overflow(params, dtype):
    """8-bit and other types alike: no kernel makes a number of what is none."""
    model, classifier = SigLIP(BOTH, params, dtype=dtype), SigLIP(CLASSES, random_params(CLASSES, 2), dtype=dtype)
    strange = pixels(1, 3e38, 1)
    expected = r"^images\[1\] \(pixels from -[23]\.\d+e\+38 to [23]\.\d+e\+38\): the embedding is not finite"
    for call in (model.encode_image, lambda x: model(x, np.zeros((1, 7), int)), lambda x: model.encode_image(x, False)):
        with pytest.raises(InputError, match=expected):
            call(strange)
    with pytest.raises(InputError, match=r"^the image \(pixels from .*\): the embedding is not finite"):
        model.encode_image(strange[1:2])
    for call in (classifier.class_logits, classifier.classify):
        with pytest.raises(InputError, match=r"^images\[1\] .*: the logits are not finite"):
            call(strange)
    with pytest.raises(InputError, match=r"^images\[1\] .*: the intermediate image"):
        model.image_output(strange)
    assert np.isfinite(model.encode_image(strange[[0, 2]])).all()
    trace = model.trace(strange)  # shows where it began
    assert not np.isfinite(trace["zimg"][1]).any()
    assert np.isfinite(trace["zimg"][[0, 2]]).all()


@dtypes
def test_a_token_that_overflows(params, dtype):
    """One row of one matrix, in the middle of a model; in int8, its smallest and largest number do not show a NaN."""
    broken = dict(params)
    table = np.array(params["text.token_embed"])
    table[5] = 3e38 * np.sign(table[5])
    broken["text.token_embed"] = table
    broken["text.pos_embed"] = 3e38 * np.sign(params["text.pos_embed"])
    model = SigLIP(BOTH, broken, dtype=dtype)
    ids = np.zeros((3, 7), int)
    ids[1, 3] = 5
    with pytest.raises(InputError, match=r"^texts\[1\]: the embedding is not finite"):
        model.encode_text(ids)
    with pytest.raises(InputError, match=r"^texts\[1\]: the intermediate text"):
        model.text_output(ids)
    assert np.isfinite(model.encode_text(ids[[0, 2]])).all()


def test_an_embedding_of_zeros(params):
    zeros = params | {name: np.zeros_like(params[name]) for name in ("text.head.w", "text.head.b")}
    model = SigLIP(BOTH, zeros)
    with pytest.raises(InputError, match=r"^the text: .*normalize=False"):
        model.encode_text(np.zeros((1, 7), int))
    assert not model.encode_text(np.zeros((1, 7), int), normalize=False).any()


@pytest.mark.parametrize("strange", [np.nan, np.inf, -np.inf])
def test_embeddings_to_compare(params, strange):
    model = SigLIP(BOTH, params)
    good, bad = np.full((3, 32), 32**-0.5, np.float32), np.full((3, 32), 32**-0.5, np.float32)
    bad[2, 7] = strange
    with pytest.raises(InputError, match=r"^image_embeds\[2\] is not finite"):
        model.compare(bad, good)
    with pytest.raises(InputError, match=r"^text_embeds\[2\] is not finite"):
        model.compare(good, bad)
    large = good.copy()
    large[1] *= 1e38
    with pytest.raises(
        InputError, match=r"^the logit of image_embeds\[1\] and text_embeds\[0\] is inf, beyond float32"
    ):
        model.compare(large, good)
    assert np.isfinite(model.compare(good, good).probs).all()


@pytest.mark.parametrize(
    "name", ["image.blocks.01.mlp.fc1.w", "text.token_embed", "t_prime", "bias", "image.pos_embed"]
)
def test_float64_parameters_beyond_float32(params, name, tmp_path):
    large = cast(params, np.float64)
    large[name] = np.array(large[name])
    large[name].reshape(-1)[0] = -1e300
    with warnings.catch_warnings(), pytest.raises(InputError, match=rf"^{name} is taken as float32.* got 1e\+300"):
        warnings.simplefilter("error")
        SigLIP(BOTH, large)


def test_a_float64_folder_beyond_float32(tmp_path):
    tensors = load_file(TINY / "model.safetensors")
    name = "vision_model.encoder.layers.1.mlp.fc1.weight"
    tensors[name] = tensors[name].astype(np.float64)
    tensors[name][0, 0] = 1e300
    save_file(tensors, tmp_path / "model.safetensors")
    for file in ("config.json", "preprocessor_config.json", "spiece.model", "tokenizer_config.json"):
        if (TINY / file).exists():
            (tmp_path / file).write_bytes((TINY / file).read_bytes())
    with pytest.raises(CheckpointError, match=rf"{re.escape(name)}.* has 1e\+300; it is taken as float32"):
        SigLIP.from_pretrained(tmp_path).encode_image(np.zeros((8, 8, 3), np.uint8))


def test_a_loss_beyond_float32():
    zimg = np.ones((3, 4), np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for left, right, t_prime in ((zimg * np.float32(1e38), -zimg, 3.0), (zimg, zimg * np.float32(3e38), 70.0)):
            with pytest.raises(
                InputError, match=r"leaves float32: expected embeddings of unit norm, got numbers up to"
            ):
                sigmoid_loss(left, right, t_prime, -10.0)
        result = sigmoid_loss(zimg, zimg, 80.0, -10.0)
    assert all(np.isfinite(value).all() for value in result)


def test_the_command_line_prints_no_nan(tmp_path, monkeypatch):
    """What cannot be finite is an error on stderr with exit code 2; JSON is JSON."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20), (200, 30, 90)).save("a.png")
    tensors = load_file(TINY / "model.safetensors")
    name = "vision_model.embeddings.patch_embedding.bias"
    tensors[name] = np.full_like(tensors[name], 3e38)
    tensors["vision_model.embeddings.position_embedding.weight"][:] = 3e38
    (tmp_path / "model").mkdir()
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    for file in TINY.iterdir():
        if file.suffix in (".json", ".model") and "golden" not in file.name:
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    for arguments in (["classify", "a.png", "-l", "a cat", "--json"], ["classify", "a.png", "-l", "a cat"]):
        result = invoke(*arguments, "--model", "model")
        assert result.exit_code != 0 and "nan" not in result.stdout.lower() and result.stdout == ""
        assert "'a.png'" in str(result.exception) + result.stderr
    result = invoke("embed", "a.png", "-o", "x.npy", "--model", "model")
    assert result.exit_code != 0 and not (tmp_path / "x.npy").exists()
    result = invoke("classify", "a.png", "-l", "a cat", "--json", "--model", TINY)
    assert json.loads(result.stdout, parse_constant=pytest.fail)["scores"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, ml_dtypes.bfloat16])
def test_all_finite_on_the_edges_of_each_type(dtype):
    info = ml_dtypes.finfo(dtype)
    good = np.array([info.max, info.min, info.smallest_subnormal, -info.smallest_subnormal, 0, -0.0], dtype)
    assert all_finite(np.stack([good] * 5)) and all_finite(np.stack([good] * 5).T)
    for bad in (np.inf, -np.inf, np.nan, -np.nan):
        for i in range(good.size):
            x = np.stack([good] * 5)
            x[3, i] = bad
            assert not all_finite(x) and not all_finite(x.T)
    assert all_finite(good[0]) and not all_finite(np.array(np.nan, dtype))


@given(st.lists(st.integers(0, 2**16 - 1), min_size=1), st.sampled_from([np.float16, ml_dtypes.bfloat16]))
def test_all_finite_is_isfinite_on_all_bit_patterns(bits, dtype):
    x = np.array(bits, np.uint16).view(dtype)
    assert all_finite(x) == np.isfinite(x).all()
