import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from golden import random_folder
from npsiglip.checkpoint import Checkpoint
from npsiglip.images.processor import ImageProcessor
from npsiglip.params import random_params
from npsiglip.reference import siglip, sigmoid_loss
from npsiglip.texts.siglip import Tokenizer
from npsiglip.variants import variant
from tests.helpers.golden_data import GOLDEN, above, group

# Two float64 computations of the same expression, summed in another order, over at most 56 terms and 3 blocks:
# 3e-15 at worst was measured, over all taps and gradients. 1e-12 is what the project promises.
BOUND = 1e-12

MEGABYTES = 1_000_000


@pytest.fixture(scope="module")
def trace(tiny_params, tiny_config, golden):
    taps = {}
    siglip(tiny_params, tiny_config, golden["inputs.pixel_values"], golden["inputs.input_ids"], taps)
    return taps


def test_files_are_those_of_the_manifest():
    manifest = json.loads((GOLDEN / "manifest.json").read_text())
    listed = manifest["files"]
    present = {
        path.relative_to(GOLDEN).as_posix(): path.read_bytes()
        for path in sorted(GOLDEN.rglob("*"))
        if path.is_file() and path.suffix not in {".py", ".pyc", ".md"} and path.name != "manifest.json"
    }
    assert list(listed) == sorted(listed)
    assert {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in present.items()} == {
        name: (entry["bytes"], entry["sha256"]) for name, entry in listed.items()
    }
    # 6.6: clones should stay small; the largest are the taps, in double precision, of two models
    assert sum(len(data) for data in present.values()) < 7 * MEGABYTES


def test_tiny_model_hides_no_swapped_axis(tiny_config, golden):
    image, text = tiny_config.image, tiny_config.text
    n, (k, length) = len(golden["inputs.pixel_values"]), golden["inputs.input_ids"].shape
    sizes = [n, k, length, image.seq_len, image.width, image.mlp_dim, image.image_size, image.patch_size]
    sizes += [text.width, text.mlp_dim, text.vocab_size, image.width // image.num_heads]
    sizes += [text.width // text.num_heads, text.num_heads]  # image.num_heads is the number of texts, both 4
    assert len(set(sizes)) == len(sizes)
    assert image.image_size % image.patch_size
    assert image.depth != text.depth


def test_tiny_model_has_no_special_weights(tiny_params):
    for name, values in tiny_params.items():
        assert not np.isin(values, (-1.0, 0.0, 1.0)).any(), name
        assert values.size == 1 or values.std() > 0.05, name
        assert np.unique(values).size > 0.99 * values.size, name


def test_reference_has_the_golden_taps_and_no_others(trace, golden):
    assert set(trace) == set(group(golden, "taps"))


def test_reference_taps(trace, golden):
    assert above(BOUND, trace, group(golden, "taps")) == {}


def test_golden_attention_and_probabilities_are_spread(golden):
    taps = group(golden, "taps")
    for name, probs in taps.items():
        if name.endswith("attn.probs"):
            assert 0.3 < probs.max(axis=-1).mean() < 0.9, name
    assert taps["probs"].min() < 0.05
    assert taps["probs"].max() > 0.5


LOSS_CASES = ["0", "1", "2", "3", "4", "5", "model"]


def test_loss_cases_are_all_here(golden):
    assert {name.split(".")[0] for name in group(golden, "loss")} == set(LOSS_CASES)


@pytest.mark.parametrize("case", LOSS_CASES)
def test_reference_loss_and_gradients(golden, case):
    truth = group(golden, f"loss.{case}")
    inputs = {name: truth.pop(name) for name in ("zimg", "ztxt", "t_prime", "bias")}
    result = {name: np.asarray(value) for name, value in sigmoid_loss(**inputs)._asdict().items()}
    assert set(result) == set(truth)
    assert above(BOUND, result, truth) == {}


def test_loss_of_the_model_is_that_of_its_embeddings(trace, tiny_params, golden):
    pairs = len(trace["zimg"])
    loss = sigmoid_loss(trace["zimg"], trace["ztxt"][:pairs], tiny_params["t_prime"], tiny_params["bias"]).loss
    np.testing.assert_allclose(loss, golden["loss.model.loss"], rtol=BOUND)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_folder_is_a_model(tmp_path, tiny_config, dtype):
    image = replace(tiny_config.image, image_size=45)
    config = replace(tiny_config, image=image, text=replace(tiny_config.text, seq_len=13))
    random_folder.write(tmp_path, config, seed=5, outlier=100, dtype=dtype)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.config == config
    assert checkpoint["image.pos_embed"].shape == (36, 36)
    for name, values in random_params(config, seed=5, outlier=100).items():
        np.testing.assert_array_equal(checkpoint[name], values.astype(checkpoint[name].dtype), err_msg=name)
        assert checkpoint[name].dtype.name == dtype
    assert Tokenizer.from_folder(tmp_path, 13)(["a photo"]).shape == (1, 13)
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["model_max_length"] == 13
    assert ImageProcessor.from_folder(tmp_path, 45)(np.zeros((5, 6, 3), np.uint8)).shape == (1, 3, 45, 45)


def test_random_folder_command_line(tmp_path, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(random_folder, "write", lambda *args: calls.append(args))
    argv = ["random_folder.py", "siglip-so400m-patch14-224", str(tmp_path), "--outlier", "100", "--seed", "4"]
    monkeypatch.setattr("sys.argv", argv)
    random_folder.main()
    assert calls == [(tmp_path, variant("siglip-so400m-patch14-224"), 4, 100.0, "float32")]
    monkeypatch.setattr("sys.argv", ["random_folder.py", "clip", str(tmp_path)])
    with pytest.raises(SystemExit):
        random_folder.main()
    assert "siglip-base-patch16-224" in capsys.readouterr().err
