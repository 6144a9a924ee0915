"""Packs: what is in them, in every kind of files; what is no pack, or a damaged one. Covers verify/packs_formats.py."""

import json
import shutil

import numpy as np
import pytest

from npsiglip import InputError
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.packs import FORMAT, KINDS, PACK, WEIGHTS, Pack
from npsiglip.verify.packs_export import export, tiny_model
from npsiglip.verify.packs_score import score
from tests.helpers.packs import shown_golden


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """A pack of each kind; ONNX's where its package is."""
    folder, found = tmp_path_factory.mktemp("packs"), {}
    for kind in KINDS:
        if kind == "onnx-pb":
            try:
                import onnx  # noqa: F401
            except ImportError:
                continue
        export(tiny_model(), folder / kind, kind, "tiny")
        found[kind] = folder / kind
    return found


def test_every_kind_holds_the_same(packs):
    first, *others = (Pack(folder) for folder in packs.values())
    assert {PIXELS, IDS, "image.decoded.0", "zimg", "probs", "ranking.texts", f"{WEIGHTS}t_prime"} <= set(first.tensors)
    assert {x.dtype.name for x in first.tensors.values()} == {"float32", "int32", "uint8"}
    for other in others:
        assert other.checks == first.checks
        assert set(other.tensors) == set(first.tensors)
        for name, value in first.tensors.items():
            np.testing.assert_array_equal(other.tensors[name], value, strict=True)


def test_it_says_where_it_comes_from(packs):
    about = Pack(packs["npz"]).about
    assert (about["format"], about["model"], about["kind"]) == (FORMAT, "tiny", "npz")
    assert {"npsiglip", "numpy", "pillow", "python", "weights", "tensors"} == set(about["provenance"])
    assert [level["level"] for level in about["levels"]] == [0, 1, 2, 3, 4, 5]
    assert len(about["texts"]) == len(about["pieces"]) == 6


def test_it_conforms_to_itself(packs):
    """What float64 gives, rounded to float32, is as good as it gets."""
    for folder in packs.values():
        pack = Pack(folder)
        report = score(pack, shown_golden(pack))
        assert (report.verdict, report.missing, report.unknown) == ("conforms", (), ())


def test_a_golden_result_is_the_models_own(packs):
    """`Pack.golden` computes from the pack's weights in float64, whatever numbers the pack shows as results."""
    pack = Pack(packs["c"])
    for op in pack.golden.ops:
        np.testing.assert_allclose(pack.tensors[op.tap], pack.golden[op.tap], rtol=1.3e-7, atol=1e-30)


def test_no_onnx_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(InputError, match="pip install onnx"):
        export(tiny_model(), tmp_path / "pack", "onnx-pb", "tiny")
    with pytest.raises(InputError, match="no whole pack"):
        Pack(tmp_path / "pack")


def test_what_is_no_pack(tmp_path, packs):
    with pytest.raises(InputError, match="no whole pack"):
        Pack(tmp_path)
    for content in ("", "[]", "{}", json.dumps({"format": FORMAT})):
        (tmp_path / PACK).write_text(content)
        with pytest.raises(InputError, match="no whole pack"):
            Pack(tmp_path)
    (tmp_path / PACK).write_text(json.dumps({"format": "npsiglip pack 9"}))
    with pytest.raises(InputError, match="expected 'npsiglip pack 1'"):
        Pack(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors", "npz", "c"])
def test_a_damaged_pack(tmp_path, packs, kind):
    folder = shutil.copytree(packs[kind], tmp_path / "pack")
    file = max(folder.glob("tensors.*"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1  # one bit of one weight
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"is not what was exported|cannot be read"):
        Pack(folder)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"cannot be read|no whole"):
        Pack(folder)
    file.unlink()
    with pytest.raises(InputError, match=r"cannot be read|does not exist"):
        Pack(folder)
