"""Candidates held to a pack: each level by itself, mistakes by their names, what cannot be told."""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from npsiglip import InputError
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.packs import Pack
from npsiglip.verify.packs_export import export, tiny_model
from npsiglip.verify.packs_score import score
from tests.helpers.packs import computed, shown_golden, spoiled


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "pack"
    export(tiny_model(), folder, "safetensors", "tiny")
    return Pack(folder)


def wrong(report, level):
    """The taps of a level that do not conform."""
    return [one.check.tap for one in report.scored if one.check.level == level and not one.conforms]


# Mistake -> where it is at level 2, all of it: golden input keeps it from what comes after
AT_LEVEL_2 = {
    "erf_gelu": ["image.blocks.00.mlp.gelu", "image.map_head.mlp.gelu", "text.blocks.00.mlp.gelu"],
    "attention_scale_missing": [
        f"{part}.attn.probs" for part in ("image.blocks.00", "image.map_head", "text.blocks.00")
    ],
    "map_residual_missing": ["image.map_head.+mlp"],
    "patches_column_major": ["image.patch_embed"],
    "positions_transposed": ["image.embed"],
    "mean_pooling": ["image.pooled"],
    "causal_mask": ["text.blocks.00.attn.probs"],
    "text_first_token_pooled": ["text.pooled"],
    "not_normalised": ["zimg", "ztxt"],
    "logit_scale_without_exp": ["logits"],
    "softmax_for_sigmoid": ["probs"],
}


@pytest.mark.parametrize("mistake", AT_LEVEL_2)
def test_a_mistake_is_named_where_it_is_and_hides_nothing(pack, mistake):
    report = score(pack, computed(pack, [mistake]))
    assert report.verdict == "diverges"
    assert wrong(report, 2) == AT_LEVEL_2[mistake]
    assert {one.mistake for one in report.scored if one.check.level == 2 and not one.conforms} == {mistake}
    assert report.sentence().startswith(f"Diverges at level 2 (single operations), {AT_LEVEL_2[mistake][0]}: off by")
    assert f"matches `{mistake}`" in report.sentence()
    level = 4 if AT_LEVEL_2[mistake][0] in ("zimg", "logits", "probs") else 3
    first = report.first(level)  # whole towers: the same tap first, named the same; the rest has inherited it
    assert (first.check.tap, first.mistake) == (AT_LEVEL_2[mistake][0], mistake)


def test_whole_towers_alone_tell_it_as_well(pack):
    found = {name: x for name, x in computed(pack, ["erf_gelu"]).items() if not name.startswith("level2.")}
    report = score(pack, found)
    assert wrong(report, 2) == []
    assert report.first(3).check.tap == "image.blocks.00.mlp.gelu"
    inherited = [one.check.tap for one in report.scored if one.inherited]
    assert {"image.pooled", "zimg", "text.pooled", "ztxt", "logits"} <= set(inherited)
    assert report.first(4).sentence().endswith("inherited from a tap before it")


def test_embeddings_alone(pack):
    """A port that shows nothing but its ends is scored at level 4, and what it does wrong may still be known."""
    names = ("zimg", "ztxt", "logits", "probs")
    right, mistaken = computed(pack), computed(pack, ["map_residual_missing"])
    report = score(pack, {name: right[name] for name in names})
    assert report.verdict == "conforms"
    assert report.sentence() == "Conforms to the pack at level 4: 4 of 141 checks."
    assert report.counts(4) == (4, 0, 0)
    report = score(pack, {name: mistaken[name] for name in names})
    assert (report.first(4).check.tap, report.first(4).mistake) == ("zimg", "map_residual_missing")


def test_texts_and_pictures(pack):
    ids, pixels = pack.tensors[IDS], pack.tensors[PIXELS]
    assert score(pack, {IDS: ids.astype(np.int64), PIXELS: pixels}).verdict == "conforms"
    end = (ids == ids[0, -1]).argmax(axis=1)[:, None]  # the end of a text has the id of what pads it
    report = score(pack, {IDS: np.where(np.arange(ids.shape[1]) > end, 0, ids), PIXELS: pixels})
    assert (wrong(report, 0), wrong(report, 1), report.first(0).mistake) == ([IDS], [], "pad_id_0")
    report = score(pack, {IDS: ids, PIXELS: pixels[:, ::-1]})
    assert (wrong(report, 0), wrong(report, 1), report.first(1).mistake) == ([], [PIXELS], "bgr")
    one_level = pixels + np.float32(2 / 255) * (np.arange(pixels.size).reshape(pixels.shape) % 3 == 0)
    report = score(pack, {PIXELS: one_level})
    assert (report.verdict, "off by one level of 256" in report.notes[0]) == ("conforms", True)
    assert score(pack, {PIXELS: one_level + 2 / 255}).verdict == "diverges"


def test_wrong_pixels_do_not_hide_the_tower(pack):
    """Towers are given golden pixels and ids: what the port made of pictures is not what its taps are of."""
    found = computed(pack) | {PIXELS: pack.tensors[PIXELS][:, ::-1], IDS: np.zeros_like(pack.tensors[IDS])}
    report = score(pack, found)
    assert [wrong(report, level) for level in range(6)] == [[IDS], [PIXELS], [], [], [], []]


def test_rankings(pack):
    order = pack.tensors["ranking.texts"]
    assert score(pack, {"ranking.texts": order, "ranking.images": pack.tensors["ranking.images"]}).verdict == "conforms"
    assert score(pack, {"ranking.texts": order[:, ::-1]}).verdict == "diverges"
    report = score(pack, {"ranking.texts": np.zeros_like(order)})
    assert "no order of 0, 1, 2" in report.sentence()


def test_rankings_may_exchange_what_is_as_good_as_equal(pack):
    order = pack.tensors["ranking.texts"].copy()
    logits = pack.golden["logits"].copy()
    first, second = order[0, :2]
    order[0, :2] = second, first
    assert score(pack, {"ranking.texts": order}).verdict == "diverges"
    close = pack.golden._made()
    kept = close["logits"]
    try:
        limit = pack.at(5)[0].limit
        logits[0, second] = logits[0, first] - limit / 2
        close["logits"] = logits
        assert score(pack, {"ranking.texts": order}).verdict == "conforms"
        logits[0, second] = logits[0, first] - limit * 2
        assert score(pack, {"ranking.texts": order}).verdict == "diverges"
    finally:
        close["logits"] = kept


@pytest.mark.parametrize("how", ["nan", "inf"])
def test_no_numbers(pack, how):
    found = shown_golden(pack)
    for name in ("level2.image.blocks.00.ln1", "zimg", PIXELS):
        report = score(pack, found | {name: spoiled(found[name], how)})
        assert report.verdict == "diverges"
        assert "not a number" in report.sentence()
        json.loads(json.dumps(report.to_dict()).replace("Infinity", "0").replace("NaN", "0"))
    assert score(pack, {"text.ids": spoiled(pack.tensors[IDS].astype(np.float32), how)}).verdict == "diverges"
    assert score(pack, {"ranking.texts": spoiled(order_of(pack), how)}).verdict == "diverges"


def order_of(pack):
    return pack.tensors["ranking.texts"].astype(np.float64)


def test_what_cannot_be_told(pack):
    report = score(pack, {"something": np.zeros(3)})
    assert (report.verdict, report.exit_code) == ("cannot tell", 2)
    assert "none of its 1 names is one of the pack's, such as 'something'" in report.sentence()
    assert "'level2.image.patch_embed'" in report.sentence()
    for name, x, said in (
        ("level2.zimg", np.zeros((2, 36)), "level2.zimg is [2, 36], and the pack's [3, 36]"),
        ("zimg", np.zeros((3, 35)), "zimg is [3, 35]"),
        ("image.pixels", np.zeros((3, 38, 38, 3)), "image.pixels is [3, 38, 38, 3]"),
        ("zimg", np.full((3, 36), "a"), "expected numbers"),
        ("text.ids", np.full((6, 20), "a"), "expected numbers"),
        ("ranking.texts", np.zeros((2, 2)), "ranking.texts is [2, 2]"),
    ):
        report = score(pack, {name: x})
        assert (report.verdict, report.exit_code) == ("cannot tell", 2)
        assert said in report.sentence()
    with pytest.raises(InputError, match="dtype must be one of float32"):
        score(pack, {"zimg": np.zeros((3, 36))}, "int4")


def test_a_batch_axis_more_or_less(pack):
    found = computed(pack)
    assert score(pack, {"zimg": found["zimg"][:, None], "logits": found["logits"][None]}).verdict == "conforms"


def test_what_is_not_shown_and_not_known_is_said(pack):
    report = score(pack, {"zimg": pack.tensors["zimg"], "what": np.zeros(1), "level2.what": np.zeros(1)})
    assert report.unknown == ("level2.what", "what")
    assert len(report.missing) == len(pack.checks) - 1
    found = report.to_dict()
    assert found["coverage"]["compared"] == 1
    assert {"level2.image.patch_embed", "image.patch_embed", IDS} <= set(found["coverage"]["missing"])


def test_bfloat16_is_judged_as_what_it_is(pack):
    found = computed(pack, dtype="bfloat16")
    assert score(pack, found, "bfloat16").verdict == "conforms"
    assert score(pack, found).verdict == "diverges"
    report = score(pack, computed(pack, ["map_residual_missing"], dtype="bfloat16"), "bfloat16")
    assert (report.first(2).check.tap, report.first(2).mistake) == ("image.map_head.+mlp", "map_residual_missing")


def test_what_is_said(pack):
    report = score(pack, computed(pack, ["quick_gelu"]))
    assert all(len(line) <= 80 for line in report.table().splitlines())
    levels = report.to_dict()["levels"]
    assert [(one["level"], one["verdict"]) for one in levels if one["verdict"] != "cannot tell"] == [
        (2, "diverges"), (3, "diverges"), (4, "diverges"),
    ]  # fmt: skip
    assert levels[2]["first"]["mistake"] == "quick_gelu"
    suite = ElementTree.fromstring(report.junit())
    failures = sum(not one.conforms for one in report.scored)
    assert (int(suite.get("tests")), int(suite.get("failures"))) == (len(report.scored), failures)
    assert "quick_gelu" in suite.find("testcase/failure").get("message")
    assert ElementTree.fromstring(score(pack, {"x": np.zeros(1)}).junit()).get("errors") == "1"
