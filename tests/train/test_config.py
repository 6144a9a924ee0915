"""Settings of training: what is refused, and in which words; schedules; initial parameters."""

import re
import tomllib

import numpy as np
import pytest

from npsiglip.errors import InputError
from npsiglip.params import param_shapes
from npsiglip.train.config import check_world_settings, defaults, load_config, read_config
from npsiglip.train.initial import initial_params, params_of
from npsiglip.train.schedule import schedule
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
        ({"train": {"lock": "text"}}, "train.lock must be one of '', 'image'"),
        ({"train": {"lock": "image"}}, "needs a trained tower to lock"),
        ({"train": {"blocks": 2}}, "train.blocks keeps the blocks before the last as they are"),
        ({"train": {"blocks": -1, "init": "x"}}, "train.blocks must be at least 0, got -1"),
        ({"train": {"init": 3}}, "train.init must be text, got 3"),
        ({"train": {"pool": "max"}}, "train.pool must be one of 'map', 'mean'; got 'max'"),
        ({"train": {"pool": "mean", "lock": "image", "init": "x"}}, "'mean' changes the image tower, and train.lock"),
        ({"data": {"label_noise": -0.1}}, "data.label_noise must be at least 0 and at most 1, got -0.1"),
        ({"data": {"label_noise": 1.5}}, "data.label_noise must be at least 0 and at most 1, got 1.5"),
        ({"data": {"label_noise": "some"}}, "data.label_noise must be a number at least 0 and at most 1, got 'some'"),
        ({"data": {"label_noise": 0.3}}, "data.label_noise 0.3 of a batch of 4 is less than two pairs"),
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


# -- schedule ---------------------------------------------------------------------------------------------------------


def test_schedule_by_hand():
    assert [schedule(i, 8, 4) for i in range(8)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]
    )
    assert [schedule(i, 2, 0) for i in range(2)] == pytest.approx([1.0, 0.5])
    assert schedule(99, 100, 0, floor=0.1) == pytest.approx(0.1, abs=1e-3)
    assert schedule(50, 100, 0, floor=0.1) == pytest.approx(0.55)


# -- initial parameters -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    content = tables()
    content["model"]["image"] |= {"width": 96, "mlp_dim": 384, "depth": 2}
    content["model"]["text"] |= {"width": 96, "mlp_dim": 384, "depth": 2, "vocab_size": 500}
    return read_config(content).siglip


def test_initial_parameters_have_the_deviations_of_big_vision(wide):
    params = initial_params(wide, 0, 2.0, -9.0)
    assert list(params) == list(param_shapes(wide))
    xavier = {(96, 96): (2 / 192) ** 0.5, (96, 384): (2 / 480) ** 0.5, (384, 96): (2 / 480) ** 0.5}
    for name, value in params.items():
        assert value.dtype == np.float32
        last = name.rsplit(".", 1)[-1]
        if name in ("image.patch_embed.w", "text.head.w"):
            deviation, limit = value.shape[0] ** -0.5, 2 * value.shape[0] ** -0.5 / 0.8796
        elif last == "w":
            deviation = xavier[value.shape]
            limit = 3**0.5 * deviation
        elif last in ("pos_embed", "token_embed"):
            deviation, limit = 96**-0.5, None
        elif last == "probe":
            deviation, limit = (2 / 97) ** 0.5, (6 / 97) ** 0.5
        elif ".mlp." in name:
            deviation, limit = 1e-6, None
        elif name in ("t_prime", "bias"):
            assert value == {"t_prime": 2.0, "bias": -9.0}[name]
            continue
        else:
            assert np.all(value == (last == "scale")), name
            continue
        few = 4 / (2 * value.size) ** 0.5  # of the estimate's own deviation, for normal values; smaller for others
        assert value.std() == pytest.approx(deviation, rel=few), name
        assert abs(value.mean()) < 4 * deviation / value.size**0.5, name
        if limit:
            assert 0.9 * limit < np.abs(value).max() <= limit * (1 + 1e-6), name


def test_every_parameter_has_a_stream_of_its_own(wide):
    content = tables()
    content["model"]["image"]["depth"] = 3
    shallow, deep = (initial_params(c, 5, 0.0, 0.0) for c in (config().siglip, read_config(content).siglip))
    for name, value in shallow.items():
        np.testing.assert_array_equal(value, deep[name])
    values = [v.tobytes() for k, v in deep.items() if v.size > 100 and not k.endswith((".b", ".scale"))]
    assert len(set(values)) == len(values)
    assert np.any(initial_params(config().siglip, 6, 0.0, 0.0)["text.head.w"] != shallow["text.head.w"])


def test_parameters_of_a_folder(tiny_folder, tiny_config):
    whole = params_of(tiny_folder, tiny_config)
    assert list(whole) == list(param_shapes(tiny_config))
    image = params_of(tiny_folder, tiny_config, "image")
    assert all(name.startswith("image.") for name in image)
    np.testing.assert_array_equal(image["image.pos_embed"], whole["image.pos_embed"])
    with pytest.raises(InputError, match=r"as image.patch_embed.w, \[model\] asks for \[192, 16\]"):
        params_of(tiny_folder, config().siglip, "image")


def toml_blocks():
    for page in sorted((ROOT / "docs").glob("*.md")):
        for i, block in enumerate(re.findall(r"^```toml\n(.*?)^```$", page.read_text(encoding="utf-8"), re.S | re.M)):
            if "[[mistake]]" not in block:  # of a catalogue of its own
                yield pytest.param(block, id=f"{page.name}-{i}")


@pytest.mark.parametrize("block", list(toml_blocks()))
def test_settings_on_the_pages_are_settings(block):
    read_config({"model": TABLES["model"], "train": {"steps": 60, "batch": 8}} | tomllib.loads(block))
