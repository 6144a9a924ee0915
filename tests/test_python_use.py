"""A model in Python: pickled, copied, shown, given texts that are too long, on disks that cannot be mapped.

Covers describe.py and errors.py as well.
"""

import copy
import errno
import mmap
import os
import pickle
import shutil
import subprocess
import sys
import warnings

import numpy as np
import pytest

import npsiglip
from npsiglip import SigLIP, SigLIPConfig
from npsiglip.checkpoint import Checkpoint
from npsiglip.convert.quantize import quantize_folder
from npsiglip.errors import CheckpointError, InputWarning
from npsiglip.formats import safetensors as safetensors_files
from npsiglip.images.naflex import NaflexProcessor
from npsiglip.params import random_params
from npsiglip.save import save_npz
from tests.helpers.golden_data import ROOT, TINY

IMAGE = np.random.default_rng(3).integers(0, 256, (50, 40, 3), np.uint8)
TEXTS = ["a cat", "two dogs"]


def bits(model):
    return model.encode_image(IMAGE).tobytes(), model.encode_text(TEXTS).tobytes(), model(IMAGE, TEXTS).probs.tobytes()


# pickle and copies


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("again", [lambda m: pickle.loads(pickle.dumps(m)), copy.deepcopy, copy.copy])
def test_a_model_is_pickled_and_copied_with_its_bits(dtype, again):
    model = SigLIP.from_pretrained(TINY, dtype, threads=1, sixteen_bit="scale")
    expected = bits(model)
    other = again(model)
    assert other is not model
    assert (other.dtype, other.threads, other.config, other.processor) == (dtype, 1, model.config, model.processor)
    assert bits(other) == expected == bits(other)
    pickled, weights = pickle.dumps(model), (TINY / "model.safetensors").read_bytes()
    assert weights[-100:] not in pickled  # which names files, and does not hold them


def test_a_form_of_gelu_that_was_told_is_pickled():
    model = npsiglip.SigLIP.from_pretrained(TINY, gelu="erf")
    again = pickle.loads(pickle.dumps(model))
    assert again.config.image.activation == model.config.image.activation == "gelu_erf"
    np.testing.assert_array_equal(again.encode_image(IMAGE), model.encode_image(IMAGE))
    assert (model.encode_image(IMAGE) != npsiglip.SigLIP.from_pretrained(TINY).encode_image(IMAGE)).any()


def test_other_kinds_of_models_are_pickled(tmp_path):
    config = SigLIPConfig.from_folder(TINY)
    params = random_params(config, 5)
    in_memory = SigLIP(config, params, tokenizer=SigLIP.from_pretrained(TINY).tokenizer)
    quantize_folder(TINY, tmp_path / "int8")
    save_npz(tmp_path / "model.npz", config, params)
    for model in (
        in_memory,
        SigLIP.from_pretrained(tmp_path / "int8"),
        SigLIP.from_pretrained("builtin"),
    ):
        assert bits(pickle.loads(pickle.dumps(model))) == bits(model)
    npz = SigLIP.from_pretrained(tmp_path / "model.npz")
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(npz)).encode_image(IMAGE), npz.encode_image(IMAGE))


def test_tokenizers_are_pickled():
    siglip2 = npsiglip.Siglip2Tokenizer(ROOT / "golden/gemma/tokenizer.json", 8)
    sentencepiece = npsiglip.Siglip2Tokenizer(ROOT / "golden/gemma/tokenizer.model", 8)
    for tokenizer in (SigLIP.from_pretrained(TINY).tokenizer, siglip2, sentencepiece):
        other = pickle.loads(pickle.dumps(tokenizer))
        np.testing.assert_array_equal(other(TEXTS), tokenizer(TEXTS))
        assert other.truncated(TEXTS) == tokenizer.truncated(TEXTS)


def test_another_process_gets_the_same_bits(tmp_path, monkeypatch):
    shutil.copytree(TINY, tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    model = SigLIP.from_pretrained("model")
    (tmp_path / "pickle").write_bytes(pickle.dumps(model))
    code = (
        f"import pickle; model = pickle.load(open({str(tmp_path / 'pickle')!r}, 'rb'))\n"
        "print(model.encode_text('a cat').tobytes().hex())"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd="/", env=env, check=True)
    assert done.stdout.strip() == model.encode_text("a cat").tobytes().hex()


def test_a_pickle_does_not_load_other_weights(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(TINY, folder)
    model = SigLIP.from_pretrained(folder)
    pickled = pickle.dumps(model)
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="its files are gone"):
        pickle.dumps(model)
    (folder / "model.safetensors").write_bytes(content)
    os.utime(folder / "model.safetensors", (1, 1))
    with pytest.raises(CheckpointError, match=r"model\.safetensors changed"):
        pickle.loads(pickled)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match="does not exist"):
        pickle.loads(pickled)


# repr


def test_what_models_and_results_say_of_themselves(tiny_config):
    model = SigLIP.from_pretrained(TINY)
    text = repr(model)
    assert text.count("\n") == 1
    for part in ("images: 38 x 38, patch", "texts: 24 tokens", "M parameters, float32, ", repr(str(TINY))):
        assert part in text
    assert "in memory" in repr(SigLIP(tiny_config, random_params(tiny_config, 1)))
    output = model(IMAGE, TEXTS)
    width = output.image_embeds.shape[1]
    assert repr(output) == (
        f"SigLIPOutput(logits_per_image: float32 [1, 2], image_embeds: float32 [1, {width}], "
        f"text_embeds: float32 [2, {width}])"
    )
    results = [
        model.image_output(IMAGE, output_hidden_states=True),
        model.trace(images=IMAGE),
        NaflexProcessor()(IMAGE),
        npsiglip.sigmoid_loss(output.image_embeds, output.text_embeds[:1], 1.0, -1.0),
    ]
    for result in results:
        assert len(repr(result)) < 400, repr(result)
        assert "\n" not in repr(result)
    assert "hidden_states: 4 x float32" in repr(results[0])
    assert "attentions: None" in repr(results[0])


# texts too long

LONG = "a photograph of " * 10


@pytest.mark.parametrize(
    "call",
    [
        lambda m, t: m.encode_text(t),
        lambda m, t: m.text_output(t),
        lambda m, t: m.trace(texts=t),
        lambda m, t: m(IMAGE, t),
        lambda m, t: m.classify(IMAGE, t),
    ],
)
def test_texts_that_are_cut_are_warned_of_once(call):
    model = SigLIP.from_pretrained(TINY)
    with pytest.warns(InputWarning) as caught:
        call(model, ["a", LONG, "b", LONG])
    (message,) = [str(each.message) for each in caught]
    for part in ("2 of 4 texts have more than the 24 tokens", "texts[1]", "a photograph of a", "truncated(texts)"):
        assert part in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(model, ["a", "b"])


def test_texts_from_a_generator_and_the_line_that_is_blamed():
    model = SigLIP.from_pretrained(TINY)
    with pytest.warns(InputWarning, match="1 of 2 texts has more") as caught:
        result = model.encode_text(text for text in ("a", LONG))
    assert caught[0].filename == __file__
    with pytest.warns(InputWarning):
        np.testing.assert_array_equal(result, model.encode_text(["a", LONG]))


@pytest.mark.parametrize("length", range(1, 40))
def test_what_is_warned_of_is_what_truncated_tells(length):
    tokenizer = SigLIP.from_pretrained(TINY).tokenizer
    texts = [("a " * length).strip(), ("a " * length).strip() + "</s>"]
    assert [i in tokenizer.rows(texts)[1] for i in range(2)] == tokenizer.truncated(texts)


# disks that cannot be mapped


@pytest.fixture
def unmappable(monkeypatch):
    """Every mapping fails, that of the safetensors library too."""

    def refuse(*args, **options):
        raise OSError(errno.ENODEV, "No such device")

    monkeypatch.setattr(
        "npsiglip.formats.stored.mmap", type("mmap", (), {**vars(mmap), "mmap": type("mmap", (), {"__new__": refuse})})
    )
    monkeypatch.setattr(safetensors_files, "safe_open", refuse)


def test_files_that_cannot_be_mapped_are_read(tmp_path, unmappable, monkeypatch):
    tensors = safetensors_files.open_file(TINY / "model.safetensors")
    assert all(isinstance(tensor.memory, bytes) for tensor in tensors.values())
    config = SigLIPConfig.from_folder(TINY)
    save_npz(tmp_path / "x.npz", config, Checkpoint.open(TINY))
    read, npz = SigLIP.from_pretrained(TINY), SigLIP.from_pretrained(tmp_path / "x.npz")
    expected = read.encode_image(IMAGE), read.encode_text(TEXTS), npz.encode_image(IMAGE)
    assert not Checkpoint.open(TINY)["bias"].flags.writeable
    monkeypatch.undo()
    mapped, mapped_npz = SigLIP.from_pretrained(TINY), SigLIP.from_pretrained(tmp_path / "x.npz")
    for found, wanted in zip(
        (mapped.encode_image(IMAGE), mapped.encode_text(TEXTS), mapped_npz.encode_image(IMAGE)), expected, strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


def test_what_is_no_safetensors_file_is_told_there_too(tmp_path, unmappable):
    path = tmp_path / "x.safetensors"
    path.write_bytes((TINY / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cut short, damaged"):
        safetensors_files.open_file(path)


def test_other_failures_of_mapping_stay_errors(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("npsiglip.formats.stored.mmap.mmap", refuse)
    with pytest.raises(CheckpointError, match="Cannot allocate memory"):
        safetensors_files.open_file(TINY / "model.safetensors")
