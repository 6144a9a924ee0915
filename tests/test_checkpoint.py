"""Model folders: what is read back, bit for bit, and values that are not finite."""

import json
import re
import resource

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError
from npsiglip.formats.hf_names import layout
from npsiglip.params import param_shapes, random_params
from npsiglip.save import save_folder
from tests.helpers.model_folders import BOTH, FC1, PARAMS, TEXT, assert_same, configs, rewrite, write, write_sparse

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


# Reading back


@pytest.mark.parametrize("shard", [None, 1, 3000, 10**9])
@pytest.mark.parametrize("dtype", DTYPES)
def test_round_trip_is_exact(tmp_path, dtype, shard):
    params = random_params(BOTH, seed=3, dtype=DTYPES[dtype])
    save_folder(tmp_path, BOTH, params, dtype, max_shard_bytes=shard)
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint.config == BOTH
    assert checkpoint.folder == tmp_path
    assert_same(checkpoint, params, DTYPES[dtype])
    files = {path.name for path in tmp_path.iterdir()}
    if shard in (None, 10**9):
        assert files == {"config.json", "model.safetensors"}
    else:
        assert {"config.json", "model.safetensors.index.json"} < files and "model.safetensors" not in files
        sizes = [sum(t.nbytes for t in load_file(f).values()) for f in tmp_path.glob("model-*.safetensors")]
        tensors = [len(load_file(f)) for f in tmp_path.glob("model-*.safetensors")]
        assert all(size <= shard or count == 1 for size, count in zip(sizes, tensors, strict=True))
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(sizes)


@settings(max_examples=60, deadline=None)
@given(configs(), st.sampled_from(list(DTYPES)), st.none() | st.integers(1, 4000), st.integers(0, 2**32))
def test_any_model_round_trips(tmp_path_factory, config, dtype, shard, seed):
    folder = tmp_path_factory.mktemp("model")
    params = random_params(config, seed, dtype=DTYPES[dtype])
    save_folder(folder, config, params, dtype, shard)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config == config
    assert_same(checkpoint, params, DTYPES[dtype])


def test_values_are_read_only_views_of_the_file(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path))
    for name in checkpoint:
        assert not checkpoint[name].flags.writeable, name
        if name != "image.patch_embed.w":
            assert np.shares_memory(checkpoint[name], checkpoint[name]), name


def test_float64_is_read(tmp_path):
    params = random_params(BOTH, seed=1, dtype=np.float64)

    def widen(tensors):
        wide = {}
        for name, value in params.items():
            place = layout(name, value.shape)
            view = place.view(wide.setdefault(place.key, np.empty(place.shape)))
            view[...] = value.reshape(view.shape)
        return wide

    assert_same(Checkpoint.open(rewrite(tmp_path, widen)), params, np.float64)


def test_tensors_that_the_file_does_not_align(tmp_path):
    path = write(tmp_path) / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    path.write_bytes((size + 3).to_bytes(8, "little") + raw[8 : 8 + size] + b"   " + raw[8 + size :])
    checkpoint = Checkpoint.open(tmp_path)
    assert_same(checkpoint, PARAMS)
    assert all(value.flags.aligned and not value.flags.writeable for value in checkpoint.values())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_that_the_file_aligns_to_two_bytes(tmp_path, dtype):
    """Enough for 16 bits, but compiled code reads them in lanes of 32."""
    path = write(tmp_path, dtype=dtype) / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    space = 4 - (8 + size) % 4 + 2  # so that the first tensor begins at an odd place for 16 bits
    path.write_bytes((size + space).to_bytes(8, "little") + raw[8 : 8 + size] + b" " * space + raw[8 + size :])
    checkpoint = Checkpoint.open(tmp_path)
    assert_same(checkpoint, PARAMS, DTYPES[dtype])
    assert all(value.ctypes.data % 4 == 0 for value in checkpoint.values())


def test_mapping(tmp_path):
    checkpoint = Checkpoint.open(write(tmp_path))
    assert len(checkpoint) == len(param_shapes(BOTH))
    assert "image.pos_embed" in checkpoint and "vision_model.head.probe" not in checkpoint
    with pytest.raises(KeyError):
        checkpoint["image.nothing"]
    assert str(tmp_path) in repr(checkpoint)


# NaN and infinity


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_non_finite_values_are_found_when_taken_and_not_before(tmp_path, value, dtype):
    write(tmp_path, dtype=dtype)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors[FC1][3, 5] = value
    tensors[FC1][7, 1] = value
    tensors["vision_model.head.attention.in_proj_bias"][13] = value
    save_file(tensors, tmp_path / "model.safetensors")

    checkpoint = Checkpoint.open(tmp_path)
    assert "image.blocks.01.mlp.fc1.w" in checkpoint and len(list(checkpoint)) == len(PARAMS)
    for name in checkpoint.keys() - {"image.blocks.01.mlp.fc1.w", "image.map_head.attn.k.b"}:
        assert np.isfinite(checkpoint[name]).all()
    for _ in range(2):  # not only the first time
        with pytest.raises(CheckpointError) as error:
            checkpoint["image.blocks.01.mlp.fc1.w"]
        assert str(tmp_path / "model.safetensors") in str(error.value) and FC1 in str(error.value)
        # [7, 1] as stored
        assert re.search(r"has 2 of 240 values not finite, the first -?(nan|inf) at \[1, 7\]", str(error.value))
    with pytest.raises(CheckpointError, match=r"attn\.k\.b .* 1 of 12 values not finite, the first .* at \[1\]"):
        checkpoint["image.map_head.attn.k.b"]


def test_opening_does_not_read_the_values(tmp_path):
    """A sparse file of 2 GB of zeros opens at once, and without memory."""
    text = TextConfig(8, 1, 2, 14, seq_len=5, vocab_size=2**26, projection_dim=12)
    path = write(tmp_path, SigLIPConfig(None, TEXT)) / "model.safetensors"
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    end = 0
    for key, entry in header.items():
        if key != "__metadata__":
            entry["shape"] = [2**26, 8] if key.endswith("token_embedding.weight") else entry["shape"]
            entry["data_offsets"] = [end, end := end + 4 * int(np.prod(entry["shape"]))]
    write_sparse(path, header, end)
    (tmp_path / "config.json").write_text(json.dumps(SigLIPConfig(None, text).to_hf()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint["text.pos_embed"].shape == (5, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
