"""LoRA adapters merged into a model: against what PEFT computes (golden/adapters.safetensors), and what is refused."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from npsiglip import Checkpoint, CheckpointError, SigLIP, SigLIPConfig, reference, save_folder
from npsiglip.convert.formats import convert
from npsiglip.convert.quantize import quantize_folder
from npsiglip.metrics import relative_l2
from npsiglip.params import cast
from tests.helpers.command import invoke
from tests.helpers.golden_data import GOLDEN, TINY

FILE = GOLDEN / "adapters.safetensors"
with safe_open(FILE, "np") as opened:
    CONFIGS = {key: json.loads(value) for key, value in sorted(opened.metadata().items()) if key != "peft"}
ARRAYS = load_file(FILE)
TEXT_HEAD = "base_model.model.text_model.head"
QUERY = "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj"
# Merged weights are rounded once to float32 where PEFT ran in double precision beside its base: at most 1.5e-7 of the
# largest value away from what PEFT merges, over 14 kinds of adapter.
BOUND = 3e-7


def write(folder, case="plain", change=dict, **settings):
    """The folder of an adapter; `change` gets its tensors."""
    folder.mkdir(exist_ok=True)
    start = f"{case}/adapter/"
    tensors = {key.removeprefix(start): value for key, value in ARRAYS.items() if key.startswith(start)}
    save_file(change(tensors), folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(CONFIGS[case] | settings))
    return folder


def open_with(folder):
    return Checkpoint.open(TINY, adapter=folder)


def message(folder, base=TINY):
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(base, adapter=folder)
    return str(error.value)


@pytest.mark.parametrize("case", CONFIGS)
def test_as_peft_computes(tmp_path, case, golden):
    checkpoint = open_with(write(tmp_path / "adapter", case))
    params, config = cast(checkpoint, np.float64), checkpoint.config
    plain = cast(Checkpoint.open(TINY), np.float64)
    pixels, ids = golden["inputs.pixel_values"], golden["inputs.input_ids"]
    image = reference.image_tower(params, config.image, pixels)
    text = reference.text_tower(params, config.text, ids)
    assert relative_l2(image, ARRAYS[f"{case}/zimg"]) < BOUND
    assert relative_l2(text, ARRAYS[f"{case}/ztxt"]) < BOUND
    assert any((params[name] != plain[name]).any() for name in plain)
    base = relative_l2(reference.image_tower(plain, config.image, pixels), ARRAYS[f"{case}/zimg"])
    assert base > 1e-3, "an adapter that changes nothing would pass"


def test_public_interface(tmp_path, golden):
    folder = write(tmp_path / "adapter")
    model = SigLIP.from_pretrained(TINY, adapter=str(folder))
    found = model.encode_image(golden["inputs.pixel_values"], normalize=False)
    assert relative_l2(found, ARRAYS["plain/zimg"]) < 1e-6
    assert model.encode_text("a cat").shape == (1, 36)
    with pytest.raises(CheckpointError, match=r"\(LoRA\), not a model: .* trained on, golden/tiny, .*--adapter"):
        SigLIP.from_pretrained(folder)


def test_commands(tmp_path, golden):
    folder = write(tmp_path / "adapter")
    result = invoke("embed", "a cat", "--model", TINY, "--adapter", folder, "-o", tmp_path / "x.npy")
    assert result.exit_code == 0, result.stderr
    expected = SigLIP.from_pretrained(TINY, adapter=folder).encode_text("a cat")
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), expected)
    result = invoke("embed", "a cat", "--model", folder, "-o", tmp_path / "y.npy")
    assert result.exit_code == 1 and "is an adapter" in result.stderr


def test_quantised(tmp_path, golden):
    folder = write(tmp_path / "adapter")
    quantize_folder(TINY, tmp_path / "int8", adapter=folder)
    ids = golden["inputs.input_ids"]
    packed = SigLIP.from_pretrained(TINY, adapter=folder, dtype="int8")
    np.testing.assert_array_equal(SigLIP.from_pretrained(tmp_path / "int8").encode_text(ids), packed.encode_text(ids))


@pytest.mark.parametrize("tower", ["vision_model.", "text_model."])
@pytest.mark.parametrize("bare", [True, False])
def test_towers_alone(tmp_path, tower, bare):
    """A stand-alone tower's adapter has the keys of transformers 5, without its name, or of 4."""
    base, name = Checkpoint.open(TINY), {"vision_model.": "image", "text_model.": "text"}[tower]
    config = SigLIPConfig(**{"image": None, "text": None, name: getattr(base.config, name)})
    save_folder(tmp_path / "tower", config, {k: v for k, v in base.items() if k.startswith(f"{name}.")})

    def own(tensors):
        mine = {key: value for key, value in tensors.items() if f".{tower}" in key}
        return {key.replace(f".{tower}", ".") if bare else key: value for key, value in mine.items()}

    found = Checkpoint.open(tmp_path / "tower", adapter=write(tmp_path / "adapter", change=own))
    whole = open_with(write(tmp_path / "both"))
    for key in found:
        np.testing.assert_array_equal(found[key], whole[key])


def test_what_it_was_trained_on_may_be_stored_in_bfloat16(tmp_path):
    save_folder(tmp_path / "half", Checkpoint.open(TINY).config, Checkpoint.open(TINY), "bfloat16")
    name = "image.blocks.00.attn.q.w"
    half = Checkpoint.open(tmp_path / "half")
    merged = Checkpoint.open(tmp_path / "half", adapter=write(tmp_path / "adapter"))
    assert merged[name].dtype == np.float32 and half[name].dtype != np.float32
    a, b = (ARRAYS[f"plain/adapter/{QUERY}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    expected = half[name].astype(np.float64) + 1.5 * (b @ a).T
    np.testing.assert_array_equal(merged[name], expected.astype(np.float32))


# Refused


def other(key, value):
    return lambda tensors: tensors | {key: value}


ONES = np.ones((2, 3), np.float32)
REFUSED = {
    "not LoRA": ({"peft_type": "IA3"}, "peft_type is 'IA3', and only 'LORA'"),
    "PiSSA": ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa', which is not computed"),
    "LoftQ": ({"init_lora_weights": "loftq"}, "init_lora_weights = 'loftq'"),
    "unknown": ({"use_new_lora": True}, "use_new_lora = True, which is not computed here: merge it with PEFT"),
    "new tokens": ({"trainable_token_indices": [1]}, "trainable_token_indices = [1]"),
    "r": ({"r": 3}, "says r = 3 for text_model.encoder.layers.0.self_attn.q_proj, whose lora_A has 2"),
    "r as text": ({"r": "2"}, "r must be a number, got '2'"),
    "alpha": ({"lora_alpha": None}, "lora_alpha must be a number, got None"),
    "alpha NaN": ({"lora_alpha": float("nan")}, "lora_alpha must be a number, got nan"),
    "rslora": ({"use_rslora": "no"}, "use_rslora must be true or false, got 'no'"),
    "patterns": ({"alpha_pattern": [3]}, "alpha_pattern must be an object"),
    "bad pattern": ({"alpha_pattern": {"(": 3}}, "no regular expression"),
    "no A": ({"change": lambda t: {k: v for k, v in t.items() if k != f"{QUERY}.lora_A.weight"}}, "expected A and B"),
    "other width": (
        {"change": other(f"{QUERY}.lora_A.weight", ONES)},
        "a weight of [36, 3], the base has [36, 36]",
    ),
    "other rank": ({"change": other(f"{QUERY}.lora_A.weight", np.ones((3, 36), np.float32))}, "do not fit"),
    "other layer": ({"change": other("base_model.model.x.weight", ONES)}, "not in the base, such as x.weight"),
    "classifier": (
        {"change": other("base_model.model.classifier.weight", ONES)},
        "classifier.weight. A classifier",
    ),
    "whole of another shape": (
        {"change": other(f"{TEXT_HEAD}.weight", ONES)},
        "is [2, 3], the base has",
    ),
    "no root": ({"change": other("x.weight", ONES)}, "x.weight (F32) is no tensor of a LoRA adapter"),
    "nothing": ({"change": lambda t: {}}, "holds no tensors"),
}


@pytest.mark.parametrize(("options", "expected"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path, options, expected):
    assert expected in message(write(tmp_path / "adapter", **options))


def test_dora_of_convolutions_is_refused(tmp_path):
    key = "base_model.model.vision_model.embeddings.patch_embedding.lora_magnitude_vector"
    folder = write(tmp_path / "adapter", "convolution", other(key, np.ones((1, 36, 1, 1), np.float32)), use_dora=True)
    assert "DoRA of vision_model.embeddings.patch_embedding" in message(folder)


def test_the_attention_of_the_head_is_refused(tmp_path):
    key = "base_model.model.vision_model.head.attention.lora_"
    pair = {f"{key}A.weight": np.ones((2, 36), np.float32), f"{key}B.weight": np.ones((108, 2), np.float32)}
    found = message(write(tmp_path / "adapter", change=lambda tensors: tensors | pair))
    assert "the MAP head's attention, whose output PEFT adapts twice" in found


def test_folders_that_are_none(tmp_path):
    folder = write(tmp_path / "adapter")
    assert "is no folder" in message(tmp_path / "nowhere")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "adapter_model.bin, a pickle" in message(folder) and "save_pretrained" in message(folder)
    (folder / "adapter_model.bin").unlink()
    assert "has no adapter_model.safetensors" in message(folder)
    (folder / "adapter_config.json").unlink()
    assert "has no adapter_config.json" in message(folder)


def test_bases_that_take_none(tmp_path):
    folder = write(tmp_path / "adapter")
    quantize_folder(TINY, tmp_path / "int8")
    assert "is quantised and takes no adapter" in message(folder, tmp_path / "int8")
    convert(TINY, tmp_path / "x.npz")
    assert "convert it to a folder first" in message(folder, tmp_path / "x.npz")


def test_not_finite(tmp_path):
    key = f"{QUERY}.lora_B.weight"
    spoilt = np.where(np.arange(72).reshape(36, 2) == 3, np.nan, ARRAYS[f"plain/adapter/{key}"])
    model = open_with(write(tmp_path / "adapter", change=other(key, spoilt.astype(np.float32))))
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors: image\.blocks\.00\.attn\.q\.w .* finite"):
        _ = model["image.blocks.00.attn.q.w"]
