"""Model folders: what is read back, what is refused and with which words, and that nothing half-written stays."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.finite import all_finite
from npsiglip.formats.hf_names import layout
from npsiglip.params import param_shapes, random_params
from npsiglip.save import save_folder

DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}

IMAGE = ImageConfig(width=12, depth=2, num_heads=3, mlp_dim=20, image_size=17, patch_size=4)
TEXT = TextConfig(width=8, depth=1, num_heads=2, mlp_dim=14, seq_len=5, vocab_size=11, projection_dim=12)
BOTH = SigLIPConfig(IMAGE, TEXT)
ALONE = {"vision_model.": SigLIPConfig(IMAGE, None), "text_model.": SigLIPConfig(None, TEXT)}
PARAMS = random_params(BOTH, seed=1)

FC1 = "vision_model.encoder.layers.1.mlp.fc1.weight"


def write(folder, config=BOTH, **options):
    save_folder(folder, config, random_params(config, seed=1), **options)
    return folder


def rewrite(folder, change, config=BOTH):
    """A good folder, with `change` done to the dictionary of its stored tensors."""
    write(folder, config)
    tensors = load_file(folder / "model.safetensors")
    tensors = change(tensors) or tensors
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def assert_same(actual, expected, dtype=np.float32):
    assert list(actual) == list(expected)
    for name, value in expected.items():
        assert actual[name].dtype == dtype, name
        assert actual[name].shape == value.shape, name
        np.testing.assert_array_equal(actual[name], value.astype(dtype), err_msg=name)


def message(folder):
    with pytest.raises(CheckpointError) as error:
        Checkpoint.open(folder)
    return str(error.value)


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


towers = st.fixed_dictionaries(
    {
        "num_heads": st.integers(1, 3),
        "depth": st.integers(1, 3),
        "mlp_dim": st.integers(1, 9),
        "width": st.integers(1, 5),
    }
).map(lambda t: t | {"width": t["width"] * t["num_heads"]})


@st.composite
def configs(draw):
    kind = draw(st.sampled_from(["both", "image", "text"]))
    image = ImageConfig(**draw(towers), patch_size=draw(st.integers(1, 4)), image_size=draw(st.integers(4, 9)))
    text = TextConfig(
        **draw(towers),
        seq_len=draw(st.integers(1, 5)),
        vocab_size=draw(st.integers(1, 7)),
        projection_dim=image.width if kind == "both" else draw(st.integers(1, 5)),
    )
    return SigLIPConfig(None if kind == "text" else image, None if kind == "image" else text)


@settings(max_examples=60, deadline=None)
@given(configs(), st.sampled_from(list(DTYPES)), st.none() | st.integers(1, 4000), st.integers(0, 2**32))
def test_any_model_round_trips(tmp_path_factory, config, dtype, shard, seed):
    folder = tmp_path_factory.mktemp("model")
    params = random_params(config, seed, dtype=DTYPES[dtype])
    save_folder(folder, config, params, dtype, shard)
    checkpoint = Checkpoint.open(folder)
    assert checkpoint.config == config
    assert_same(checkpoint, params, DTYPES[dtype])


def test_axes_of_the_stored_tensors(tmp_path):
    """By index, because a transposition done twice would survive the round trip."""
    stored = load_file(write(tmp_path) / "model.safetensors")
    conv, rows = stored["vision_model.embeddings.patch_embedding.weight"], PARAMS["image.patch_embed.w"]
    assert conv.shape == (12, 3, 4, 4)
    for row, column, channel in [(0, 1, 2), (3, 0, 1), (2, 3, 0)]:
        np.testing.assert_array_equal(conv[:, channel, row, column], rows[(row * 4 + column) * 3 + channel])
    np.testing.assert_array_equal(stored[FC1][3], PARAMS["image.blocks.01.mlp.fc1.w"][:, 3])
    for i, part in enumerate("qkv"):
        in_proj = stored["vision_model.head.attention.in_proj_weight"]
        np.testing.assert_array_equal(in_proj[12 * i + 5], PARAMS[f"image.map_head.attn.{part}.w"][:, 5])
        in_proj = stored["vision_model.head.attention.in_proj_bias"]
        np.testing.assert_array_equal(in_proj[12 * i : 12 * i + 12], PARAMS[f"image.map_head.attn.{part}.b"])
    assert stored["vision_model.head.probe"].shape == (1, 1, 12)
    assert stored["logit_scale"].shape == stored["logit_bias"].shape == (1,)
    assert stored["logit_bias"] == PARAMS["bias"]
    assert stored["text_model.head.weight"].shape == (12, 8)


@pytest.mark.parametrize("side", [14, 16, 32])
def test_patches_of_every_released_size(side):
    conv = np.random.default_rng(0).standard_normal((2, 3, side, side), np.float32)  # [D, 3, P, P]
    place = layout("image.patch_embed.w", (3 * side**2, 2))
    assert place.shape == conv.shape
    found = place.view(conv).reshape(3 * side**2, 2)
    places = [(row, column, channel) for row in range(side) for column in range(side) for channel in range(3)]
    np.testing.assert_array_equal(found, [conv[:, channel, row, column] for row, column, channel in places])


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


# Forms of the keys


@pytest.mark.parametrize("wrapper", ["", "siglip.", "model.", "module."])
@pytest.mark.parametrize("prefix", ["", *ALONE])
def test_key_forms(tmp_path, wrapper, prefix):
    """Full (both towers), and each tower alone as bare and with its name; all of them behind a wrapper's name."""
    config = ALONE.get(prefix, BOTH)
    for form in {"", prefix}:
        folder = rewrite(tmp_path / f"_{form}", lambda t, p=wrapper + form: {p + k: v for k, v in t.items()}, config)
        assert_same(Checkpoint.open(folder), random_params(config, seed=1))


def test_a_stand_alone_tower_is_saved_bare(tmp_path):
    assert "post_layernorm.weight" in load_file(write(tmp_path, ALONE["vision_model."]) / "model.safetensors")


@pytest.mark.parametrize("prefix", ["", *ALONE])
def test_position_ids_are_ignored(tmp_path, prefix):
    ids = {f"{tower}_model.embeddings.position_ids": np.arange(5)[None] for tower in ("text", "vision")}
    ids = {key.removeprefix(prefix): value for key, value in ids.items() if key.startswith(prefix)}
    config = ALONE.get(prefix, BOTH)
    folder = rewrite(tmp_path, lambda tensors: tensors | ids, config)
    assert_same(Checkpoint.open(folder), random_params(config, seed=1))


def test_scalars_without_an_axis(tmp_path):
    folder = rewrite(tmp_path, lambda t: t | {k: t[k].reshape(()) for k in ("logit_scale", "logit_bias")})
    assert_same(Checkpoint.open(folder), PARAMS)


# Tensors that do not belong together


def test_missing_and_unexpected_tensors_are_listed(tmp_path):
    text = message(rewrite(tmp_path, lambda t: {k.replace("head.probe", "head.prob"): v for k, v in t.items()}))
    assert "1 missing (-), 1 unexpected (+)" in text
    assert "- vision_model.head.probe (image.map_head.probe)\n" in text
    assert "+ vision_model.head.prob\n" in text


def test_what_shares_a_missing_tensor_is_named(tmp_path):
    def drop(tensors):
        del tensors["vision_model.head.attention.in_proj_bias"]

    text = message(rewrite(tmp_path, drop))
    assert "(image.map_head.attn.q.b, image.map_head.attn.k.b, image.map_head.attn.v.b)" in text


def test_long_lists_are_cut(tmp_path):
    folder = rewrite(tmp_path, lambda t: {k: v for k, v in t.items() if "vision_model.encoder" not in k})
    text = message(folder)
    assert "32 missing (-), 0 unexpected (+)" in text and "... and 24 more" in text
    assert len(text.splitlines()) < 15


def test_deeper_or_shallower_than_the_config(tmp_path):
    write(tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c["vision_config"].update(num_hidden_layers=1))
    assert "+ vision_model.encoder.layers.1.layer_norm1.bias" in message(tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c["vision_config"].update(num_hidden_layers=3))
    assert "- vision_model.encoder.layers.2.layer_norm1.weight (image.blocks.02.ln1.scale)" in message(tmp_path)


def test_one_tower_of_a_pair(tmp_path):
    write(tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c.update(c.pop("vision_config")))
    assert "+ logit_bias" in message(tmp_path)


def test_wrong_shapes_show_both_shapes_and_names(tmp_path):
    folder = rewrite(tmp_path, lambda t: t | {FC1: t[FC1][:19].copy()})
    assert f"{FC1} (image.blocks.01.mlp.fc1.w): [19, 12] stored, [20, 12] by config.json" in message(folder)


def test_a_transposed_tensor_is_refused(tmp_path):
    assert "[12, 20] stored" in message(rewrite(tmp_path, lambda t: t | {FC1: t[FC1].T.copy()}))


def test_image_size_of_another_variant(tmp_path):
    write(tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c["vision_config"].update(image_size=24))
    text = message(tmp_path)
    assert "position_embedding.weight (image.pos_embed): [16, 12] stored, [36, 12] by config.json" in text


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.uint8, bool, np.complex64])
def test_types_other_than_floats(tmp_path, dtype):
    text = message(rewrite(tmp_path, lambda t: t | {FC1: t[FC1].astype(dtype)}))
    assert f"{FC1} (image.blocks.01.mlp.fc1.w): " in text and "not of a float type" in text


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


@pytest.mark.parametrize("dtype", [np.float64, *DTYPES.values()])
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
    head = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        file.truncate(8 + len(head) + end)
    (tmp_path / "config.json").write_text(json.dumps(SigLIPConfig(None, text).to_hf()))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = Checkpoint.open(tmp_path)
    assert checkpoint["text.pos_embed"].shape == (5, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


# Folders and files


def test_folders_that_are_none(tmp_path):
    assert "nowhere does not exist" in message(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "file is a file; expected a model folder" in message(tmp_path / "file")
    assert "config.json does not exist" in message(tmp_path)
    assert "cannot be opened" in message(tmp_path / ("long" * 100))


def test_folder_without_weights(tmp_path):
    (write(tmp_path) / "model.safetensors").unlink()
    assert "neither model.safetensors nor model.safetensors.index.json" in message(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin"])
def test_only_a_pickle(tmp_path, name):
    (write(tmp_path) / "model.safetensors").rename(tmp_path / name)
    text = message(tmp_path)
    assert "pickle" in text and f"from_pretrained('{tmp_path}').save_pretrained(" in text


def test_a_link_to_nothing(tmp_path):
    """As in a cache of Hugging Face whose download was interrupted."""
    path = write(tmp_path) / "model.safetensors"
    path.unlink()
    path.symlink_to(tmp_path / "blob")
    assert "neither model.safetensors nor" in message(tmp_path)


BAD_FILES = {
    "empty": (lambda raw: b"", "is empty"),
    "few bytes": (lambda raw: raw[:5], "is cut short, damaged or no safetensors file (5 bytes)"),
    "half a header": (lambda raw: raw[:100], "is cut short, damaged"),
    "last byte lost": (lambda raw: raw[:-1], "is cut short, damaged"),
    "half the data": (lambda raw: raw[: len(raw) // 2], "is cut short, damaged"),
    "more at the end": (lambda raw: raw + b"\0", "is cut short, damaged"),
    "web page": (lambda raw: b"<!DOCTYPE html>" + b" " * 1000, "is cut short, damaged"),
    "lfs pointer": (lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
    "pickle": (lambda raw: b"PK\x03\x04" + raw, "PyTorch pickle"),
    "header damaged": (lambda raw: raw[:8] + b"}" + raw[9:], "is cut short, damaged"),
    "type unknown": (lambda raw: raw.replace(b'"F32"', b'"F99"', 1), "is cut short, damaged"),
    "offset wrong": (lambda raw: re.sub(rb'"data_offsets":\[0', b'"data_offsets":[4', raw), "is cut short, damaged"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(tmp_path, case):
    change, expected = BAD_FILES[case]
    path = write(tmp_path) / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    assert message(tmp_path).startswith(f"{path} ") and expected in message(tmp_path)


def test_a_name_twice_in_a_header(tmp_path):
    path = write(tmp_path) / "model.safetensors"
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    entry = re.search(rb'"logit_bias":\{.*?\}', raw).group()
    header = raw[8 : 8 + size].rstrip()[:-1] + b"," + entry + b"}"
    path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + size :])
    assert "'logit_bias' is listed twice" in message(tmp_path)


def test_a_folder_in_place_of_the_file(tmp_path):
    path = write(tmp_path) / "model.safetensors"
    path.unlink()
    path.mkdir()
    assert "model.safetensors cannot be opened" in message(tmp_path)


def test_bad_config_stops_before_the_weights(tmp_path):
    (write(tmp_path) / "model.safetensors").unlink()
    edit_json(tmp_path / "config.json", lambda c: c.update(model_type="clip"))
    assert "expected model_type 'siglip' or 'siglip2', got 'clip'" in message(tmp_path)


# Several files


def sharded(folder):
    write(folder, max_shard_bytes=4000)
    return folder / "model.safetensors.index.json"


def shard_of(index, key):
    return index.parent / json.loads(index.read_text())["weight_map"][key]


def test_missing_shard(tmp_path):
    index = sharded(tmp_path)
    shard = shard_of(index, FC1)
    shard.unlink()
    assert f"lacks {shard.name}" in message(tmp_path)


def test_tensor_that_is_not_where_the_index_says(tmp_path):
    index = sharded(tmp_path)
    shard = shard_of(index, FC1)
    tensors = load_file(shard)
    del tensors[FC1]
    save_file(tensors | {"other": np.ones(3, np.float32)}, shard)
    assert f"{shard} has no {FC1}" in message(tmp_path)


def test_tensor_in_another_shard_than_the_index_says(tmp_path):
    index = sharded(tmp_path)
    other = shard_of(index, "logit_bias").name
    edit_json(index, lambda c: c["weight_map"].update({FC1: other}))
    assert f"{FC1}: the index and this file are of different saves" in message(tmp_path)


def test_tensor_that_the_index_does_not_list(tmp_path):
    index = sharded(tmp_path)
    edit_json(index, lambda c: c["weight_map"].pop(FC1))
    assert f"has, unlisted in the index, {FC1}" in message(tmp_path)


def test_tensor_in_two_shards(tmp_path):
    index = sharded(tmp_path)
    shard = shard_of(index, FC1)
    save_file(load_file(shard) | {"logit_bias": np.ones(1, np.float32)}, shard)
    assert "logit_bias is both in model-" in message(tmp_path)


def test_truncated_shard(tmp_path):
    shard = shard_of(sharded(tmp_path), FC1)
    shard.write_bytes(shard.read_bytes()[:-2])
    assert message(tmp_path).startswith(f"{shard} is cut short")


def test_index_with_a_key_twice(tmp_path):
    index = sharded(tmp_path)
    text = index.read_text()
    line = re.search(r'"logit_bias": "[^"]*"', text).group()
    index.write_text(text.replace(line, f"{line}, {line}"))
    assert "'logit_bias' is listed twice" in message(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', '{"weight_map": {"a": 1}}', "\xff"]
)
def test_bad_index(tmp_path, content):
    index = sharded(tmp_path)
    index.write_text(content, encoding="latin-1")
    assert str(index) in message(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "", "..", "a\\b", "a\0b"])
def test_index_that_points_out_of_the_folder(tmp_path, name):
    index = sharded(tmp_path)
    edit_json(index, lambda c: c["weight_map"].update({FC1: name}))
    assert "must name files of its own folder" in message(tmp_path)


# Writing


def listing(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.mark.parametrize("shard", [None, 4000])
def test_every_file_says_its_format(tmp_path, shard):
    """transformers 4 refuses files that do not."""
    for path in write(tmp_path, max_shard_bytes=shard).glob("*.safetensors"):
        with safe_open(path, "np") as file:
            assert file.metadata() == {"format": "pt"}


def test_files_have_the_usual_permissions(tmp_path):
    write(tmp_path)
    (tmp_path / "plain").touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_writing_again_replaces(tmp_path):
    write(tmp_path)
    old = Checkpoint.open(tmp_path)
    new = random_params(BOTH, seed=2)
    save_folder(tmp_path, BOTH, new)
    assert_same(Checkpoint.open(tmp_path), new)
    assert_same(old, PARAMS)  # what is open stays


def test_a_checkpoint_can_be_saved_as_another_type(tmp_path):
    save_folder(tmp_path / "half", BOTH, Checkpoint.open(write(tmp_path / "full")), "float16")
    assert_same(Checkpoint.open(tmp_path / "half"), PARAMS, np.float16)
    save_folder(tmp_path / "half", BOTH, Checkpoint.open(tmp_path / "half"), "float16")  # over itself
    assert_same(Checkpoint.open(tmp_path / "half"), PARAMS, np.float16)


@pytest.mark.parametrize("shard", [None, 2000])
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda p: p.pop("image.map_head.probe"), "- image.map_head.probe"),
        (lambda p: p.update(extra=np.ones(3)), r"\+ extra"),
        (lambda p: p.update(bias=np.ones(2)), r"bias must be \[\] by the configuration, got \[2\]"),
        (lambda p: p.update(t_prime=np.array(np.nan)), r"t_prime as float16 .* first nan at \[\]; the parameters"),
        (lambda p: p.update(bias=np.array(-7e4)), r"first -inf at \[\]; float16 ends at 65504: save as float32"),
    ],
)
def test_a_failed_save_leaves_all_files_as_they_were(tmp_path, change, expected, shard):
    write(tmp_path, max_shard_bytes=shard)
    before, params = listing(tmp_path), dict(PARAMS)
    change(params)
    with pytest.raises(CheckpointError, match=expected):
        save_folder(tmp_path, BOTH, params, "float16", shard)
    assert listing(tmp_path) == before
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_full_disk_leaves_all_files_as_they_were(tmp_path):
    """Simulated by a limit on the size of files, in a process of its own."""
    write(tmp_path)
    before = listing(tmp_path)
    code = (
        "import resource, signal, sys; from npsiglip.save import *; from npsiglip.params import random_params\n"
        "c = Checkpoint.open(sys.argv[1]).config; p = random_params(c, 2)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        "try: save_folder(sys.argv[1], c, p)\n"
        "except CheckpointError as error: print(error)\n"
    )
    signal_ignored = lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # noqa: E731
    run = subprocess.run(
        [sys.executable, "-c", code, tmp_path], capture_output=True, text=True, preexec_fn=signal_ignored
    )
    assert run.stderr == "" and "cannot be written: " in run.stdout
    assert listing(tmp_path) == before and len(list(tmp_path.iterdir())) == 2


def test_no_mix_of_one_file_and_several(tmp_path):
    write(tmp_path / "one")
    sharded(tmp_path / "several")
    for folder, shard, other in [
        (tmp_path / "one", 4000, "model.safetensors"),
        (tmp_path / "several", None, "model.safetensors.index.json"),
    ]:
        before = listing(folder)
        with pytest.raises(CheckpointError, match=rf"already holds weights in another form \({other}\)"):
            write(folder, max_shard_bytes=shard)
        assert listing(folder) == before


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "file")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path / "file" / "below")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match="cannot be written"):
        write(tmp_path)


def test_options(tmp_path):
    with pytest.raises(InputError, match="dtype must be one of float32, float16, bfloat16; got 'int8'"):
        write(tmp_path, dtype="int8")
    with pytest.raises(InputError, match="max_shard_bytes must be positive"):
        write(tmp_path, max_shard_bytes=0)
    assert list(tmp_path.iterdir()) == []
