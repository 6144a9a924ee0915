"""Folders of open_clip and timm against what these libraries compute of them: golden/openclip, by make_openclip.py.

Covers formats/openclip_names.py as well.
"""

import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import GELU_ERF, GELU_TANH
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.told import Told
from npsiglip.metrics import relative_l2
from npsiglip.model import SigLIP
from npsiglip.params import cast
from npsiglip.reference import image_tower, siglip, text_tower
from tests.helpers.openclip_golden import OPEN_CLIP, TIMM, WEIGHTS, change_json, copy_folder

# Two float64 computations of the same expression: 1.2e-15 at worst was measured. 1e-12 is what the project promises.
BOUND = 1e-12


ACTIVATIONS = {"siglip": (GELU_ERF, GELU_ERF), "i18n": (GELU_TANH, GELU_ERF), "siglip2": (GELU_ERF, GELU_TANH)}


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_reference_is_open_clip(openclip_folders, openclip_arrays, name):
    checkpoint, truth = Checkpoint.open(openclip_folders[name]), openclip_arrays[name]
    config, params = checkpoint.config, cast(checkpoint, np.float64)
    assert (config.image.activation, config.text.activation) == ACTIVATIONS[name]
    assert relative_l2(image_tower(params, config.image, truth["pixels"]), truth["image"]) < BOUND
    assert relative_l2(text_tower(params, config.text, truth["ids"]), truth["text"]) < BOUND
    assert relative_l2(siglip(params, config, truth["pixels"], truth["ids"]), truth["logits"]) < BOUND


def test_reference_is_timm(openclip_folders, openclip_arrays):
    for name in TIMM:
        checkpoint, truth = Checkpoint.open(openclip_folders[name]), openclip_arrays[name]
        params = cast(checkpoint, np.float64)
        found = image_tower(params, checkpoint.config.image, truth["pixels"])
        if name == "classes":
            found = found @ params["classifier.w"] + params["classifier.b"]
        assert relative_l2(found, truth["image"]) < BOUND, name
    assert Checkpoint.open(openclip_folders["gap"]).config.image.mean
    classifier = Checkpoint.open(openclip_folders["classes"]).config.classifier
    assert classifier.labels == ("ant", "bee", "cow") and classifier.pooled


# Against double precision, for the worst of five models; measured 5.0e-7, 0.012 and 0.034. Narrow towers whose
# attention is sharp have larger errors than those of full size: benchmarks/openclip_parity.py compares with torch's.
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("bfloat16", 0.03), ("int8", 0.1)])
def test_kernels(openclip_folders, openclip_arrays, dtype, bound):
    for name, folder in openclip_folders.items():
        if name == "classes" and dtype != "float32":
            continue  # classifiers in these types have tests of their own
        own, truth = SigLIP.from_pretrained(folder, dtype), openclip_arrays[name]
        run = own.class_logits if name == "classes" else lambda x, own=own: own.encode_image(x, normalize=False)
        for _ in range(3):  # from Python, recorded, repeated
            found = run(truth["pixels"])
            assert np.isfinite(found).all()
            assert relative_l2(found, truth["image"]) < bound, name
        if name in OPEN_CLIP:
            found = own.encode_text(truth["ids"], normalize=False)
            assert np.isfinite(found).all()
            assert relative_l2(found, truth["text"]) < bound, name


def test_trace_has_the_form_of_each_tower(openclip_folders, openclip_arrays):
    own, truth = SigLIP.from_pretrained(openclip_folders["i18n"]), openclip_arrays["i18n"]
    config, params, taps = own.config, cast(Checkpoint.open(openclip_folders["i18n"]), np.float64), {}
    image_tower(params, config.image, truth["pixels"], taps)
    text_tower(params, config.text, truth["ids"], taps)
    found = own.trace(truth["pixels"], truth["ids"])
    for name, tap in taps.items():
        if name.endswith(".gelu"):
            assert relative_l2(found[name], tap) < 1e-6, name


def test_gelu_can_be_told(openclip_folders, openclip_arrays):
    truth = openclip_arrays["siglip"]
    own = SigLIP.from_pretrained(openclip_folders["siglip"]).encode_image(truth["pixels"], normalize=False)
    tanh = SigLIP.from_pretrained(openclip_folders["siglip"], gelu="tanh")
    assert {tanh.config.image.activation, tanh.config.text.activation} == {GELU_TANH}
    params = cast(Checkpoint.open(openclip_folders["siglip"]), np.float64)
    expected = image_tower(params, tanh.config.image, truth["pixels"])
    found = tanh.encode_image(truth["pixels"], normalize=False)
    assert relative_l2(found, expected) < 1e-6 and relative_l2(found, own) > 1e-5
    both = Checkpoint.open(openclip_folders["i18n"], told=Told("erf,tanh")).config
    assert (both.image.activation, both.text.activation) == (GELU_ERF, GELU_TANH)
    for wrong in ("gelu", "erf,erf,erf", "", "erf,", 3):
        with pytest.raises(InputError, match="gelu must be tanh, erf, or one for each tower"):
            Told(wrong)


def test_gelu_can_be_told_of_a_folder_of_hugging_face(tiny_folder, tiny_config):
    config = Checkpoint.open(tiny_folder, told=Told("erf")).config
    assert config.image.activation == config.text.activation == GELU_ERF
    assert Checkpoint.open(tiny_folder, told=Told(image_heads=4)).config == tiny_config
    with pytest.raises(InputError, match="image_heads is 5, but the model has 4 heads in its image tower"):
        Checkpoint.open(tiny_folder, told=Told(image_heads=5))


def test_a_pickle_is_not_read(tmp_path):
    for name, weights, pickle in (
        ("siglip", WEIGHTS, "open_clip_pytorch_model.bin"),
        ("gap", "model.safetensors", "pytorch_model.bin"),
    ):
        folder = copy_folder(tmp_path, name)
        (folder / weights).unlink()
        with pytest.raises(CheckpointError, match=f"has no {weights}"):
            Checkpoint.open(folder)
        (folder / pickle).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
        with pytest.raises(CheckpointError, match=rf"only as {pickle}, a pickle.*weights_only=True"):
            Checkpoint.open(folder)


def test_tensors_missing_left_over_or_of_another_shape(tmp_path):
    folder = copy_folder(tmp_path, "siglip")
    whole = load_file(folder / WEIGHTS)
    for change, expected in (
        ({"visual.trunk.attn_pool.kv.bias": None}, "1 missing"),
        ({"visual.trunk.cls_token": np.zeros((1, 1, 24), np.float16)}, "+ visual.trunk.cls_token"),
        ({"text.ln_final.bias": np.zeros(21, np.float16)}, "text.ln_final.bias"),
        ({"logit_bias": None}, "no logit_bias: this model was not trained with SigLIP's loss"),
        ({"text.text_projection.weight": None, "text.text_projection.bias": None}, "the weights say otherwise"),
        ({"text.positional_embedding": None}, "has no text.positional_embedding"),
    ):
        tensors = {name: value for name, value in (whole | change).items() if value is not None}
        save_file(tensors, folder / WEIGHTS)
        with pytest.raises(CheckpointError) as error:
            Checkpoint.open(folder)
        assert expected in str(error.value)


def test_a_projection_without_bias_and_scalars_with_an_axis(tmp_path, openclip_arrays):
    folder = copy_folder(tmp_path, "siglip")
    tensors = load_file(folder / WEIGHTS)
    weight = tensors.pop("text.text_projection.weight")
    bias = tensors.pop("text.text_projection.bias").astype(np.float64)
    tensors |= {"text.text_projection": weight.T.copy()}
    tensors |= {name: tensors[name].reshape(1) for name in ("logit_scale", "logit_bias")}
    save_file(tensors, folder / WEIGHTS)
    checkpoint = Checkpoint.open(folder)
    found = text_tower(cast(checkpoint, np.float64), checkpoint.config.text, openclip_arrays["siglip"]["ids"])
    assert relative_l2(found + bias, openclip_arrays["siglip"]["text"]) < BOUND
    assert checkpoint["t_prime"].shape == checkpoint["bias"].shape == ()


def test_a_folder_of_two_formats_is_read_as_hugging_faces(tiny_folder, tiny_config, tmp_path):
    folder = copy_folder(tmp_path, "siglip")
    shutil.copyfile(tiny_folder / "config.json", folder / "config.json")
    shutil.copyfile(tiny_folder / "model.safetensors", folder / "model.safetensors")
    assert Checkpoint.open(folder).config == tiny_config
    change_json(folder / "config.json", model_type="marqo-siglip")  # of somebody's own code
    assert Checkpoint.open(folder).form == "open_clip"
