"""Packs as they are written: what is checked, by how much a port may be off, and from where to where."""

from dataclasses import replace

import numpy as np
import pytest

from npsiglip import InputError, SigLIP
from npsiglip.params import random_params
from npsiglip.verify.arithmetic import HONEST
from npsiglip.verify.operations import IDS, PIXELS, Context, run
from npsiglip.verify.packs import PACK, Pack
from npsiglip.verify.packs_export import export, pictures, tiny_model
from npsiglip.verify.packs_score import score
from npsiglip.verify.replay import distance, norm
from tests.helpers.golden_data import TINY
from tests.helpers.packs import computed


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pack") / "deep" / "pack"
    export(tiny_model(), folder, "safetensors", "tiny")
    return Pack(folder)


def test_no_two_sizes_of_the_tiny_model_are_equal():
    image, text = tiny_model().config.image, tiny_model().config.text
    sizes = [image.width, image.mlp_dim, image.image_size, image.patch_size, image.seq_len, text.width, text.mlp_dim]
    sizes += [text.seq_len, text.vocab_size, image.width // image.num_heads, image.num_heads]
    assert len(set(sizes)) == len(sizes)
    assert image.depth != text.depth
    assert image.image_size % image.patch_size


def test_pictures_are_of_many_sizes_and_the_same_every_time():
    drawn, captions = pictures()
    assert [x.shape for x in drawn] == [(300, 240, 3), (200, 300, 3), (60, 50, 3)]
    assert all(x.dtype == np.uint8 and x.std() > 10 for x in drawn)
    assert len(set(captions)) == 3
    for one, other in zip(drawn, pictures()[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_checked(pack):
    taps = [op.tap for op in pack.golden.ops]
    assert [check.tap for check in (*pack.at(0), *pack.at(1))] == [IDS, PIXELS]
    assert [check.tap for check in pack.at(2)] == [tap for tap in taps if ".blocks." not in tap or ".blocks.00." in tap]
    assert [check.tap for check in (*pack.at(3), *pack.at(4))] == [
        *(tap for tap in taps if tap not in ("zimg", "ztxt", "logits", "probs")),
        *("zimg", "ztxt", "logits", "probs"),
    ]
    assert [check.tap for check in pack.at(5)] == ["ranking.texts", "ranking.images"]
    for check in pack.checks:
        assert 0 < check.floor < check.limit or check.level in (0,), check


def test_a_check_names_all_that_its_operation_reads(pack):
    ops = {op.tap: op for op in pack.golden.ops}
    for check in pack.at(2):
        context = Context(pack.config, {name: pack.params[name] for name in check.weights})
        found = run(context, ops[check.tap], {tap: pack.tensors[tap] for tap in check.inputs})
        assert distance(found, pack.golden[check.tap], norm(found)) <= check.limit, check.tap


@pytest.mark.parametrize("variant", range(len(HONEST["float32"])))
def test_honest_ports_are_well_within_the_limits(pack, variant):
    """Half of the limit at most, and not all at nothing: the limits are neither tight nor idle."""
    report = score(pack, computed(pack, variant=variant))
    assert report.verdict == "conforms"
    shares = [one.error / one.limit for one in report.scored]
    assert max(shares) < 0.5
    assert max(shares) > 0.02


def test_limits_grow_on_the_way_and_stay_small(pack):
    alone = {check.tap: check.limit for check in pack.at(2)}
    reached = {check.tap: check.limit for check in (*pack.at(3), *pack.at(4))}
    assert all(limit <= reached[tap] * 1.0001 for tap, limit in alone.items())
    probs = reached.pop("probs")
    assert max(reached.values()) < 3e-5  # 8 times the floor of a hundred roundings that are independent
    # a small probability is off by as much, relatively, as its logit is, absolutely: t times what the cosine is
    assert probs < np.exp(np.float64(pack.params["t_prime"])) * (reached["zimg"] + reached["ztxt"])
    assert reached["zimg"] > 3 * reached["image.patch_embed"]


def test_rankings_are_those_of_the_logits(pack):
    logits, order = pack.tensors["logits"], pack.tensors["ranking.texts"]
    assert order.shape == logits.shape
    assert (np.diff(np.take_along_axis(logits, order, axis=1), axis=1) <= 0).all()
    by_text = pack.tensors["ranking.images"]
    assert by_text.shape == logits.T.shape
    assert (np.diff(np.take_along_axis(logits.T, by_text, axis=1), axis=1) <= 0).all()


def test_a_folder_on_disk_and_one_tower_alone(tmp_path):
    whole = SigLIP.from_pretrained(TINY)
    export(whole, tmp_path / "both", "npz", str(TINY))
    assert Pack(tmp_path / "both").golden.tokenizer(["a"]).shape == (1, whole.config.text.seq_len)
    for tower, levels in (("image", {1, 2, 3, 4}), ("text", {2, 3, 4})):
        config = replace(tiny_model().config, **{{"image": "text", "text": "image"}[tower]: None})
        export(SigLIP(config, random_params(config, 1)), tmp_path / tower, "c", tower)
        pack = Pack(tmp_path / tower)
        assert {check.level for check in pack.checks} == levels
        assert score(pack, computed(pack)).verdict == "conforms"


def test_what_cannot_be_written(tmp_path):
    model = tiny_model()
    with pytest.raises(InputError, match="a pack is one of safetensors, npz, onnx-pb, c; got 'gguf'"):
        export(model, tmp_path / "pack", "gguf")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(InputError, match="is there, and no pack"):
        export(model, tmp_path)
    with pytest.raises(InputError, match="is there, and no pack"):
        export(model, tmp_path / "letter.txt")
    with pytest.raises(InputError, match="cannot be written"):
        export(model, tmp_path / "letter.txt" / "pack")
    export(model, tmp_path / "pack", "c")
    before = (tmp_path / "pack" / PACK).read_bytes()
    export(model, tmp_path / "pack", "npz")  # another is written over it, and nothing is left of the first
    assert not (tmp_path / "pack" / "tensors.bin").exists()
    export(model, tmp_path / "pack", "c")
    assert (tmp_path / "pack" / PACK).read_bytes() == before
