"""Files of weights: what is no such file, several files and their index, and files that are written."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from npsiglip.formats.safetensors import write_tensors
from npsiglip.formats.stored import Spec
from tests.helpers.model_folders import FC1, edit_json, message, sharded, write

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


def test_write_tensors_wants_what_it_was_told(tmp_path):
    specs = {"a": Spec("F32", (3,)), "b": Spec("I8", (2, 2))}
    values = {"a": [np.arange(2, dtype=np.float32), np.ones(1, np.float32)], "b": [np.ones((2, 2), np.int8)]}
    write_tensors(tmp_path / "x", specs, values.__getitem__)
    np.testing.assert_array_equal(load_file(tmp_path / "x")["a"], [0, 1, 1])
    for wrong in ({"a": values["a"][:1]}, {"b": [np.ones((2, 2), np.uint8)]}, {"a": [*values["a"], *values["a"]]}):
        with pytest.raises(AssertionError):
            write_tensors(tmp_path / "x", specs, (values | wrong).__getitem__)
