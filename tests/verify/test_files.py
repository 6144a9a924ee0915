"""Traces in every form that is read; what is no trace, or a damaged one. Covers verify/golden.py as well."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from npsiglip import InputError, SigLIP
from npsiglip.verify.files import read_traces
from npsiglip.verify.golden import Golden, write_trace
from tests.helpers.golden_data import TINY

ARRAYS = {
    "image.blocks.00.ln1": np.arange(12, dtype=np.float32).reshape(3, 4),
    "zimg": np.full((2, 2), 0.5, np.float32),
}


def write(folder, form):
    if form == "safetensors":
        save_file(ARRAYS, folder / "t.safetensors")
        return folder / "t.safetensors"
    if form == "npz":
        np.savez(folder / "t.npz", **ARRAYS)
        return folder / "t.npz"
    if form == "npy":
        for name, value in ARRAYS.items():
            np.save(folder / f"{name}.npy", value)
    if form == "one a file":
        for name, value in ARRAYS.items():
            save_file({"data": value}, folder / f"{name}.safetensors")
    if form == "raw":
        manifest = {}
        for i, (name, value) in enumerate(ARRAYS.items()):
            (folder / f"{i}.bin").write_bytes(b"head" + value.tobytes())
            manifest[name] = {"file": f"{i}.bin", "shape": list(value.shape), "dtype": "float32", "offset": 4}
        (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.parametrize("form", ["safetensors", "npz", "npy", "one a file", "raw"])
def test_forms(tmp_path, form):
    found = read_traces(write(tmp_path, form))
    assert set(found) == set(ARRAYS)
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(found[name], value)


def test_a_trace_that_was_written_is_read_in_its_order(tmp_path):
    model = SigLIP.from_pretrained(TINY)
    golden = Golden(model, np.zeros((1, 3, 38, 38), np.float32), ["a", "b"], "tiny")
    for suffix in (".safetensors", ".npz"):
        path = tmp_path / f"t{suffix}"
        assert write_trace(path, golden, dtype="float64") == len(golden)
        found = read_traces(path)
        assert list(found) == list(golden)
        for name in golden:
            np.testing.assert_array_equal(found[name], golden[name])
        assert found.meta["model"] == "tiny"
        assert found.meta["texts"] == ["a", "b"]
        assert len(found.meta["weights"]) == len(found.meta["inputs"]["text.ids"]) == 64
    assert write_trace(path, golden, ["image.blocks.00.*"]) == 13
    with pytest.raises(InputError, match=r"no tap is called image\.block\.\*"):
        write_trace(path, golden, ["image.block.*"])
    with pytest.raises(InputError, match=r"must end in \.safetensors or \.npz"):
        write_trace(tmp_path / "t.bin", golden)
    with pytest.raises(InputError, match="cannot be written"):
        write_trace(tmp_path / "nowhere" / "t.npz", golden)


def test_what_is_no_trace(tmp_path):
    for place, content, message in (
        ("a.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", "holds no tensor"),
        ("b.safetensors", b"rubbish", "no whole safetensors file"),
        ("c.npz", b"PK\x03\x04rubbish", "no whole npz file"),
        ("d.bin", b"", "is no trace; expected a .safetensors or .npz"),
    ):
        (tmp_path / place).write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_traces(tmp_path / place)
    with pytest.raises(InputError, match="does not exist; expected"):
        read_traces(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no trace; expected"):
        read_traces(tmp_path / "empty")


def test_nothing_is_unpickled_and_nothing_outside_is_read(tmp_path):
    np.savez(tmp_path / "t.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="x cannot be read"):
        read_traces(tmp_path / "t.npz")["x"]
    (tmp_path / "t").mkdir()
    (tmp_path / "secret").write_bytes(b"12345678")
    entry = {"file": "../secret", "shape": [2], "dtype": "float32"}
    (tmp_path / "t" / "manifest.json").write_text(json.dumps({"x": entry}))
    with pytest.raises(InputError, match="lies outside of the folder"):
        read_traces(tmp_path / "t")["x"]


@pytest.mark.parametrize("wrong", [{"dtype": "float33"}, {"shape": 4}, {"offset": None}])
def test_a_manifest_that_makes_no_sense(tmp_path, wrong):
    (tmp_path / "x.bin").write_bytes(bytes(8))
    entry = {"file": "x.bin", "shape": [2], "dtype": "float32"} | wrong
    (tmp_path / "manifest.json").write_text(json.dumps({"x": entry}))
    with pytest.raises(InputError, match="x cannot be read"):
        read_traces(tmp_path)["x"]


def test_a_file_that_was_cut_short(tmp_path):
    path = write(tmp_path, "npz")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError):
        read_traces(path)["zimg"]
    folder = tmp_path / "raw"
    folder.mkdir()
    write(folder, "raw")
    (folder / "0.bin").write_bytes(b"head")
    with pytest.raises(InputError, match=r"image\.blocks\.00\.ln1 cannot be read"):
        read_traces(folder)["image.blocks.00.ln1"]


def test_a_folder_of_two_traces_is_refused(tmp_path):
    for name in "ab":
        save_file(ARRAYS, tmp_path / f"{name}.safetensors")
    with pytest.raises(InputError, match=r"holds image\.blocks\.00\.ln1 in several files, b\.safetensors among them"):
        read_traces(tmp_path)
