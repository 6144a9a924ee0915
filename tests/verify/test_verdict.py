"""Candidates as people have them: names and axes of others, element types, traces of other things; and what is said.

Covers verify/names.py, verify/layouts.py and verify/report.py as well.
"""

import json
from functools import partial
from xml.etree import ElementTree

import numpy as np
import pytest

from npsiglip import InputError
from npsiglip.verify import compare
from npsiglip.verify.mistakes import BY_NAME
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.verdict import guess_dtype
from tests.helpers import planted
from tests.helpers.golden_data import TINY
from tests.helpers.planted import port, truth_of

candidate = partial(planted.candidate, TINY)


def test_it_conforms(golden):
    report = compare(candidate(), golden)
    assert (report.verdict, report.exit_code, report.dtype) == ("conforms", 0, "float32")
    assert report.coverage == (len(golden.ops), (), ())
    assert report.sentence().startswith(f"Conforms: {len(golden.ops)} of {len(golden.ops)} taps are what float32 makes")


def test_it_diverges(golden):
    report = compare(candidate("erf_gelu"), golden)
    found = report.to_dict()
    assert (found["verdict"], report.exit_code) == ("diverges", 1)
    assert set(found["first"]) == {"tap", "operation", "added", "inherited", "floor", "where"}
    assert found["first"]["tap"] == "image.blocks.00.mlp.gelu"
    assert [match["name"] for match in found["diagnosis"]] == ["erf_gelu"]
    assert found["coverage"] == {"compared": len(golden.ops), "missing": [], "unknown": []}
    assert set(found["taps"][0]) == {"tap", "error", "added", "floor", "cosine"}
    assert "It matches `erf_gelu` to" in report.sentence()
    json.dumps(found, allow_nan=True)
    assert all(len(line) <= 80 for line in report.table().splitlines())


def test_junit(golden):
    suite = ElementTree.fromstring(compare(candidate("map_residual_missing"), golden).junit())
    assert (suite.get("tests"), suite.get("failures")) == (str(len(golden.ops)), "1")
    assert suite.find("testcase/failure").get("message").endswith("map_residual_missing")


def hugging_face(taps):
    """Some of them as hooks on `SiglipModel` give them: convolution's axes, batches, other names."""
    n, length, width = taps["image.patch_embed"].shape
    side = int(length**0.5)
    found = {
        "vision_model.embeddings.patch_embedding": taps["image.patch_embed"]
        .reshape(n, side, side, width)
        .transpose(0, 3, 1, 2),
        "vision_model.encoder.layers.0.layer_norm1": taps["image.blocks.00.ln1"],
        "vision_model.encoder.layers.1.self_attn.q_proj": taps["image.blocks.01.attn.q"],
        "vision_model.encoder.layers.1.mlp.activation_fn": taps["image.blocks.01.mlp.gelu"],
        "vision_model.head": taps["image.pooled"],
        "text_model.encoder.layers.0": taps["text.blocks.00.+mlp"],
        "logits_per_image": taps["logits"],
        "vision_model.encoder": taps["image.final_ln"],
    }
    return {f"model.{name}": value for name, value in found.items()}


def test_names_and_axes_of_hugging_face(golden):
    report = compare(hugging_face(candidate()), golden)
    assert report.verdict == "conforms"
    assert report.coverage.compared == 7
    assert report.coverage.unknown == ("model.vision_model.encoder",)
    assert any("names are those of hf" in what for what in report.assumed)
    assert any("in the order [0, 2, 3, 1]" in what for what in report.assumed)
    report = compare(hugging_face(candidate("quick_gelu")), golden)
    assert report.first.tap == "image.blocks.01.attn.q"  # the first that is shown behind a GELU
    assert "image.blocks.00.mlp.gelu" in report.first.stretch
    assert report.diagnosis[0].name == "quick_gelu"


def test_fused_projections_of_timm(golden):
    taps = candidate("qkv_order_kqv")
    shown = {
        "visual.trunk.blocks.0.norm1": taps["image.blocks.00.ln1"],
        "visual.trunk.blocks.0.attn.qkv": np.concatenate([taps[f"image.blocks.00.attn.{x}"] for x in "qkv"], axis=-1),
        "visual.trunk.blocks.0.mlp.fc1": taps["image.blocks.00.mlp.fc1"],
    }
    report = compare(shown, golden)
    assert report.first.tap == "image.blocks.00.attn.q"
    assert [tap.tap for tap in report.taps if tap.diverges][:2] == [f"image.blocks.00.attn.{x}" for x in "qk"]
    assert report.diagnosis[0].name == "qkv_order_kqv"


def test_names_that_nobody_knows_are_read_by_their_shape(golden):
    taps = candidate("tanh_pooler")
    shown = {"a": taps["image.blocks.00.mlp.gelu"], "b": taps["image.blocks.02.+mlp"], "c": np.zeros((5, 5))}
    report = compare(shown, golden)
    assert report.coverage.compared == 2
    assert report.coverage.unknown == ("c",)
    assert any("a is image.blocks.00.mlp.gelu, by its shape and a cosine of 1.0000" in what for what in report.assumed)


def test_the_element_type_is_seen_in_the_numbers():
    for dtype in ("float32", "bfloat16", "float16"):
        assert guess_dtype(candidate(dtype=dtype)) == dtype


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_conforms_as_what_it_is_and_not_as_float32(golden, dtype):
    assert compare(candidate(dtype=dtype), golden).verdict == "conforms"
    assert compare(candidate(dtype=dtype), golden, dtype="float32").verdict == "diverges"


def test_what_cannot_be_told(golden):
    taps = candidate()
    report = compare({"image.blocks.00.ln1": taps["image.blocks.00.ln1"][:, :-1]}, golden)
    assert (report.verdict, report.exit_code) == ("cannot tell", 2)
    assert "[2, 24, 36], and image.blocks.00.ln1 [2, 25, 36]" in report.sentence()
    report = compare({"something": np.zeros(3)}, golden)
    assert report.exit_code == 2
    assert "none of its 1 names is known, such as 'something'" in report.sentence()
    report = compare(hugging_face(taps), golden, names="timm")
    assert (report.exit_code, report.taps) == (2, ())
    assert "none of its 8 names is one of timm; 7 are those of hf: leave --names out" in report.sentence()
    with pytest.raises(InputError, match="names must be auto or one of npsiglip, hf"):
        compare(taps, golden, names="torch")
    with pytest.raises(InputError, match="dtype must be one of float32"):
        compare(taps, golden, dtype="int4")
    with pytest.raises(InputError, match="a plain mapping does not tell the model"):
        compare(taps, dict(golden))


def test_a_plain_mapping_with_a_model(model, golden):
    report = compare(candidate("relu"), {name: golden[name] for name in (PIXELS, IDS)}, model=model)
    assert report.diagnosis[0].name == "relu"


def test_nothing_that_was_given_is_changed(golden):
    taps = candidate("bias_missing")
    before = {name: value.copy() for name, value in taps.items()}
    compare(taps, golden)
    for name, value in taps.items():
        np.testing.assert_array_equal(value, before[name])


def test_a_mistake_at_one_place_of_a_gap(golden):
    """Where a mistake could be at several, such as an MLP that is not added."""
    truth, _ = truth_of(TINY)
    one = BY_NAME["mlp_missing"]
    taps = port(truth, "float32", [one._replace(changes={"image.blocks.01.+mlp": one.changes["*.blocks.*.+mlp"]})])
    report = compare({tap: taps[tap] for tap in taps if tap.endswith(("+mlp", ".embed"))}, golden)
    assert report.first.tap == "image.blocks.01.+mlp"
    assert [match.name for match in report.diagnosis] == ["mlp_missing"]


def test_a_trace_of_other_inputs_cannot_be_told(golden):
    """Unless it shows its inputs: then these diverge."""
    other, _ = truth_of(TINY, seed=1)
    taps = port(other, "float32")
    report = compare(taps, golden)
    assert (report.exit_code, report.taps) == (2, ())
    assert "was it fed golden's image.pixels and text.ids" in report.sentence()
    report = compare({**taps, PIXELS: other.inputs[PIXELS].astype(np.float32), IDS: other.inputs[IDS]}, golden)
    assert (report.exit_code, report.first.tap) == (1, PIXELS)


def renamed(taps, **more):
    """Names that no scheme has, beside the inputs as recipes save them."""
    return {f"my.{name}": np.asarray(x) for name, x in taps.items() if name not in (PIXELS, IDS)} | more


@pytest.mark.parametrize("names", [("pixel_values", "input_ids"), (PIXELS, IDS)])
@pytest.mark.parametrize("scheme", ["auto", "npsiglip", "hf", "timm", "big_vision"])
def test_inputs_have_their_names_in_every_scheme(golden, names, scheme):
    inputs = {name: golden[tap] for name, tap in zip(names, (PIXELS, IDS), strict=True)}
    shown = {tap: x for tap, x in candidate().items() if tap in ("image.pooled", "text.head")}
    report = compare(shown | inputs, golden, names=scheme)
    if scheme in ("auto", "npsiglip"):
        assert (report.verdict, report.coverage.compared, report.coverage.unknown) == ("conforms", 4, ())
    else:
        assert report.verdict == "cannot tell"
        assert "leave --names out" in report.reason


def test_right_inputs_alone_do_not_conform_where_other_names_are_not_known(golden):
    noise = np.random.default_rng(0).standard_normal(golden["image.pooled"].shape)
    report = compare({"port.out": noise, "pixel_values": golden[PIXELS], "input_ids": golden[IDS]}, golden)
    assert (report.verdict, report.exit_code) == ("cannot tell", 2)
    assert "its inputs are right, and nothing else of it is known: 1 names, such as 'port.out'" in report.reason
    only = compare({"pixel_values": golden[PIXELS], "input_ids": golden[IDS]}, golden)
    assert (only.verdict, only.coverage.compared) == ("conforms", 2)


def test_names_that_nobody_knows_are_read_by_their_shape_beside_inputs_too(golden):
    inputs = {"pixel_values": golden[PIXELS], "input_ids": golden[IDS]}
    right = compare(renamed(candidate(), **inputs), golden)
    assert right.verdict == "conforms"
    assert right.coverage.compared > 50
    wrong = compare(renamed(candidate("quick_gelu"), **inputs), golden)
    assert wrong.verdict != "conforms"


def test_what_is_like_no_tap_may_be_what_is_wrong(golden):
    """Only right tensors are known by their likeness: those that are left out could be the wrong ones."""
    report = compare(renamed(candidate("map_residual_missing")), golden)
    assert report.verdict == "cannot tell"
    assert "tensors are like none, such as 'my.image." in report.reason


def test_names_that_are_not_known_are_in_the_sentence(golden):
    shown = {"image.pooled": candidate()["image.pooled"], "spare": np.ones(3)}
    assert compare(shown, golden).sentence().endswith("1 of its names are not known, and were not compared.")


def test_the_tap_before_a_fault_is_one_that_was_shown(golden):
    taps = candidate("map_residual_after_layer_norm")
    last = max(tap for tap in taps if tap.startswith("image.blocks.") and tap.endswith(".+mlp"))
    report = compare({tap: taps[tap] for tap in (last, "image.pooled")}, golden)
    assert report.first.after == last
    assert f"The fault lies between {last} and image.pooled, in one of " in report.sentence()
    assert report.diagnosis[0].name == "map_residual_after_layer_norm"


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_ids_of_any_type_that_are_whole(golden, kind):
    taps = {tap: x for tap, x in candidate().items() if tap.startswith("text.")}
    report = compare(taps | {"input_ids": golden[IDS].astype(kind)}, golden)
    assert report.verdict == "conforms", report.sentence()


@pytest.mark.parametrize(
    "ids", [np.int64(3), np.full((3, 4, 5), 1), np.full((2, 24), 0.5), np.full((2, 24), np.nan), np.array(["a"])]
)
def test_ids_that_are_none(golden, ids):
    report = compare({"text.head": candidate()["text.head"], "input_ids": ids}, golden)
    assert report.exit_code == 2
    assert "and ids are whole [K, L]" in report.reason


@pytest.mark.parametrize("change", [-99_999, 99_999])
def test_ids_that_the_model_does_not_have(golden, change):
    report = compare(candidate() | {"input_ids": golden[IDS] + change}, golden)
    assert report.first.tap == IDS
