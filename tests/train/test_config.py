"""Settings of training: what is refused, and in which words; defaults, phases, files."""

import re
import tomllib

import numpy as np
import pytest

from npsiglip.errors import InputError
from npsiglip.train.config import check_world_settings, defaults, load_config, read_config
from tests.helpers.golden_data import ROOT
from tests.helpers.train_standin import TABLES, config, tables


def without(section, key):
    result = tables()
    part = result
    for name in section.split("."):
        part = part[name]
    del part[key]
    return result


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {"rate": 1e-3}}, "unknown key `optimiser`: did you mean `optimizer`"),
        ({"optimizer": {"rates": 1e-3}}, r"\[optimizer\] has the unknown key `rates`: did you mean `rate`"),
        ({"train": {"zzz": 1}}, r"\[train\] has the unknown key `zzz`: known are steps, batch, seed"),
        ({"train": {"batch": 4.0}}, "train.batch must be a whole number at least 2, got 4.0"),
        ({"train": {"batch": True}}, "train.batch must be a whole number"),
        ({"train": {"batch": 1}}, "train.batch must be at least 2, got 1"),
        ({"train": {"loss": "sigmod"}}, "train.loss must be one of 'sigmoid', 'softmax'; got 'sigmod'"),
        ({"train": {"lock": "both"}}, "train.lock must be one of '', 'image', 'text'; got 'both'"),
        ({"train": {"lock": "image"}}, "needs a trained tower to lock"),
        ({"train": {"blocks": 2}}, "train.blocks keeps the blocks before the last as they are"),
        ({"train": {"blocks": -1, "init": "x"}}, "train.blocks must be at least 0, got -1"),
        ({"train": {"blocks": 1, "lock": "image", "init": "x"}}, "the text tower begins anew, with nothing worth"),
        ({"train": {"new": "text"}}, "does not start from train.init, which is not set"),
        ({"train": {"new": "text", "lock": "text", "init": "x"}}, "train.new and train.lock are both 'text'"),
        ({"train": {"init": 3}}, "train.init must be text, got 3"),
        ({"train": {"pool": "max"}}, "train.pool must be one of 'map', 'mean'; got 'max'"),
        ({"train": {"pool": "mean", "lock": "image", "init": "x"}}, "'mean' changes the image tower, and train.lock"),
        ({"data": {"label_noise": -0.1}}, "data.label_noise must be at least 0 and at most 1, got -0.1"),
        ({"data": {"label_noise": 1.5}}, "data.label_noise must be at least 0 and at most 1, got 1.5"),
        ({"data": {"label_noise": "some"}}, "data.label_noise must be a number at least 0 and at most 1, got 'some'"),
        ({"data": {"label_noise": 0.3}}, "data.label_noise 0.3 of a batch of 4 is less than two pairs"),
        ({"data": {"embedded": -1}}, "data.embedded must be at least 0, got -1"),
        ({"data": {"embedded": 9}}, "data.embedded 9 keeps .* unless train.lock is 'image', and it is ''"),
        (
            {"data": {"embedded": 9}, "train": {"lock": "text", "init": "x"}},
            "data.embedded 9 keeps .* unless train.lock is 'image', and it is 'text'",
        ),
        ({"optimizer": {"rate": 0}}, "optimizer.rate must be above 0, got 0"),
        ({"optimizer": {"rate": float("nan")}}, "optimizer.rate must be a number above 0, got nan"),
        ({"optimizer": {"rate": "1e-3"}}, "optimizer.rate must be a number above 0, got '1e-3'"),
        ({"optimizer": {"beta2": 1.0}}, "optimizer.beta2 must be at least 0 and at most 0.999999, got 1.0"),
        ({"optimizer": {"warmup": 6}}, "optimizer.warmup 6 must be less than the 6 of train.steps"),
        ({"model": {"image": 3}}, "model.image must be a table, got 3"),
        ({"data": {"phases": []}}, r"data.phases must be one or more tables, as \[\[data.phases\]\]"),
        ({"data": {"phases": [{"fraction": 0.5}]}}, "must add up to 1, got 0.5"),
        ({"data": {"phases": [{"fraction": 1.5}, {}]}}, r"data.phases\[0\].fraction must be above 0 and at most 1"),
        ({"data": {"phases": [{}, {}]}}, r"data.phases\[0\] needs `fraction` or `pairs`"),
        ({"data": {"phases": [{"fraction": 0.5, "pairs": 8}, {}]}}, "has both `fraction` and `pairs`"),
        ({"data": {"phases": [{"pairs": 24}, {}]}}, r"end at the steps \[6, 6\]: nothing is left"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        config(**changes)


def test_heads_that_do_not_divide_the_width():
    content = tables()
    content["model"]["image"]["num_heads"] = 3
    with pytest.raises(InputError, match=r"\[model\]: the image tower's width 16 is not a multiple of its 3 heads"):
        read_config(content)


@pytest.mark.parametrize(
    ("section", "key", "message"),
    [
        ("model.text", "depth", r"\[model.text\] lacks `depth`"),
        ("model", "text", r"\[model\] lacks `text`"),
        ("train", "steps", r"\[train\] lacks `steps`"),
    ],
)
def test_what_is_missing_is_named(section, key, message):
    with pytest.raises(InputError, match=message):
        read_config(without(section, key))
    with pytest.raises(InputError, match=r"lacks \[train\]"):
        read_config({"model": TABLES["model"]})


def test_files(tmp_path):
    path = tmp_path / "settings.toml"
    with pytest.raises(InputError, match=r"settings\.toml cannot be read"):
        load_config(path)
    path.write_text("[train\n")
    with pytest.raises(InputError, match="is not TOML"):
        load_config(path)
    path.write_text("[train]\nbatches = 3\n")
    with pytest.raises(InputError, match=r"settings.toml: the configuration lacks \[model\]"):
        load_config(path)


def test_defaults_are_those_of_the_paper():
    found = config(train={"steps": 10}).deciding()
    assert found["optimizer.beta2"] == 0.95
    assert found["optimizer.clip_norm"] == 1.0
    assert found["train.t_prime"] == np.log(10)
    assert found["train.bias"] == -10
    assert (found["train.pool"], found["data.label_noise"]) == ("map", 0.0)
    assert not any(name.startswith("run.") for name in found)


def test_defaults_are_what_is_left_out():
    given = {"train.steps", "train.batch"}
    short = read_config({"model": TABLES["model"], "train": {"steps": 6, "batch": 4}}).deciding()
    expected = {
        name: value
        for name, value in short.items()
        if not name.startswith(("model.", "data.phases", "data.sources", "data.tests"))
    }
    known = {
        name: value
        for name, value in defaults().items()
        if not name.startswith(("run.", "data.phases", "data.sources", "data.tests"))
    }
    assert known == {name: value for name, value in expected.items() if name not in given}


def test_changes_go_before_the_file():
    changed = read_config(tables(), {"init": "folder", "lock": "image"})
    assert (changed.train.init, changed.train.lock) == ("folder", "image")
    assert changed.train.steps == 6


@pytest.mark.parametrize(
    ("train", "tower"),
    [
        ({}, ""),
        ({"init": "x"}, ""),
        ({"init": "x", "lock": "image"}, "text"),
        ({"init": "x", "lock": "text"}, "image"),
        ({"init": "x", "lock": "image", "new": ""}, ""),
        ({"init": "x", "new": "text"}, "text"),
    ],
)
def test_the_tower_that_begins_anew(train, tower):
    assert config(train=train).new_tower == tower


def test_phases_are_cut_by_fractions_and_pairs():
    phases = [{"fraction": 0.25}, {"pairs": 41, "mix": {"a": 1}}, {}]
    made = config(data={"phases": phases}, train={"steps": 100, "batch": 4})
    assert made.phase_ends() == [25, 36, 100]
    assert made.data.phases[1].world == {"mix": {"a": 1}}


def test_settings_of_the_world_are_checked():
    def world(seed, image_size, split, mix, difficulty):
        pass

    check_world_settings(config(data={"phases": [{"difficulty": 0.5}]}), world)
    for key, message in (("dificulty", "did you mean `difficulty`"), ("split", "unknown key `split`")):
        with pytest.raises(InputError, match=message):
            check_world_settings(config(data={"phases": [{key: 0.5}]}), world)


def toml_blocks():
    for page in sorted((ROOT / "docs").glob("*.md")):
        for i, block in enumerate(re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)):
            if "[[mistake]]" not in block:  # of a catalogue of its own
                yield pytest.param(block, id=f"{page.name}-{i}")


@pytest.mark.parametrize("block", list(toml_blocks()))
def test_settings_on_the_pages_are_settings(block):
    read_config({"model": TABLES["model"], "train": {"steps": 60, "batch": 8}} | tomllib.loads(block))


def test_sources_that_do_not_fit_each_other():
    world = {"kind": "world"}
    with pytest.raises(InputError, match="'world' more than once"):
        config(data={"sources": [world, world]})
    with pytest.raises(InputError, match=r"phases\[0\].shares has the unknown key `wrld`: did you mean `world`"):
        config(data={"sources": [world], "phases": [{"shares": {"wrld": 1}}]})
    with pytest.raises(InputError, match="leave no source with a weight above 0"):
        config(data={"sources": [world], "phases": [{"shares": {"world": 0}}]})
