"""Runs that start from another model: where its shapes, parameters and vocabulary come from, and what of it is trained.

Covers preparing.first_tokenizer of such runs as well.
"""

from dataclasses import replace

import numpy as np
import pytest

from npsiglip.checkpoint import Checkpoint
from npsiglip.convert.formats import convert
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.told import Told
from npsiglip.params import param_shapes, random_params
from npsiglip.save import save_folder, save_npz
from npsiglip.train import memory
from npsiglip.train.config import read_config
from npsiglip.train.starting import SHAPES
from npsiglip.train.trainer import Trainer
from tests.helpers.golden_data import TINY
from tests.helpers.model_folders import BOTH
from tests.helpers.openclip_golden import copy_folder
from tests.helpers.train_runs import Recorder, bits, evaluation, run
from tests.helpers.train_standin import StandIn, config, tables

LARGER = replace(BOTH, text=replace(BOTH.text, vocab_size=70))  # as many pieces as training asks for


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A trained model: its folder."""
    folder = tmp_path_factory.mktemp("first") / "run"
    run(folder).run()
    return folder / "model"


def settings(init, shapes=(), **train):
    """Settings with the shapes of these towers alone."""
    content = tables(train={"init": str(init), "seed": 9} | train, optimizer={"weight_decay": 0.1})
    content["model"] = {tower: content["model"][tower] for tower in shapes}
    return read_config(content)


def test_shapes_are_those_of_the_model(first):
    whole = config(train={"init": str(first), "seed": 9}, optimizer={"weight_decay": 0.1})
    found = settings(first)
    assert found == whole
    assert set(SHAPES["image"]) == set(vars(found.model.image))
    assert set(SHAPES["text"]) == set(vars(found.model.text))
    assert found.new_tower == ""
    assert settings(first, ["image"]) == settings(first, ["text"]) == whole
    # beside a locked tower: anew if its shapes are given, the model's if not, and anything if it is said
    assert settings(first, ["text"], lock="image").new_tower == "text"
    assert settings(first, [], lock="image").new_tower == settings(first, ["image"], lock="image").new_tower == ""
    assert settings(first, ["text"], lock="image", new="").new_tower == ""
    assert settings(first, ["image"], lock="text").new_tower == "image"


@pytest.mark.parametrize("tower", ["image", "text"])
def test_fine_tuning_with_a_locked_tower(first, tmp_path, tower):
    """Its bits stay, everything else moves, and a run that was stopped ends with the bits of one that was not."""
    wanted = settings(first, lock=tower)
    tuned = run(tmp_path / "run", wanted)
    stored = Checkpoint.open(first)
    for name, view in tuned.params.views.items():
        np.testing.assert_array_equal(view, stored[name])
    tuned.run()
    for name, view in tuned.params.views.items():
        if name.startswith(f"{tower}."):
            np.testing.assert_array_equal(view, stored[name], err_msg=name)
        elif not name.endswith("attn.k.b"):  # whose gradient is rounding alone
            assert np.any(view != stored[name]), name
    run(tmp_path / "again", wanted, watcher=Recorder(2)).run()
    run(tmp_path / "again", wanted, resume=True).run()
    assert bits(tmp_path / "again") == bits(tmp_path / "run")


def test_another_text_tower_for_an_image_tower(first, tmp_path):
    """SigLiT with other shapes than the model's, and a vocabulary of its own; not locked, the image tower moves."""
    content = tables(train={"init": str(first), "lock": "image"})
    del content["model"]["image"]
    content["model"]["text"] |= {"width": 8, "seq_len": 6, "vocab_size": 128}
    started = Trainer(read_config(content), tmp_path / "run", False, None, StandIn(), evaluation=evaluation)
    assert started.params.views["text.token_embed"].shape == (128, 8)
    assert (tmp_path / "run" / "spiece.model").read_bytes() != (first / "spiece.model").read_bytes()
    stored = Checkpoint.open(first)
    np.testing.assert_array_equal(started.params.views["image.pos_embed"], stored["image.pos_embed"])
    assert float(started.params.views["bias"]) == -10.0
    started.run()
    np.testing.assert_array_equal(started.params.views["image.pos_embed"], stored["image.pos_embed"])
    content["train"] = content["train"] | {"lock": "", "new": "text"}
    free = Trainer(read_config(content), tmp_path / "free", False, None, StandIn(), evaluation=evaluation)
    np.testing.assert_array_equal(free.params.views["image.pos_embed"], stored["image.pos_embed"])
    free.run()
    assert np.any(free.params.views["image.pos_embed"] != stored["image.pos_embed"])


def test_from_an_npz(first, tmp_path):
    """The same parameters whatever file they lie in; the vocabulary lies beside it."""
    stored, path = Checkpoint.open(first), tmp_path / "npz" / "model.npz"
    save_npz(path, stored.config, stored)
    wanted = config(train={"init": str(path), "seed": 9})  # with shapes: an npz does not tell heads of 8 numbers
    with pytest.raises(InputError, match=r"has no spiece.model, SigLIP's vocabulary"):
        run(tmp_path / "without", wanted)
    (path.parent / "spiece.model").write_bytes((first / "spiece.model").read_bytes())
    expected = run(tmp_path / "hf", settings(first)).params.vector
    np.testing.assert_array_equal(run(tmp_path / "run", wanted).params.vector, expected)


def test_from_open_clip(first, tmp_path):
    """Its models compute GELU by erf; what `convert --gelu tanh` makes of them can be trained."""
    folder = copy_folder(tmp_path, "siglip")
    vocabulary = {"data": {"tokenizer": str(first / "spiece.model")}}
    content = {"train": {"init": str(folder), "steps": 2, "batch": 4}, **vocabulary}
    with pytest.raises(InputError, match=r"the image tower of .* computes GELU by erf"):
        run(tmp_path / "run", read_config(content))
    convert(folder, tmp_path / "hf", told=Told("tanh"))
    content["train"]["init"] = str(tmp_path / "hf")
    started, stored = run(tmp_path / "run", read_config(content)), Checkpoint.open(folder)
    for name, view in started.params.views.items():
        np.testing.assert_array_equal(view, stored[name], err_msg=name)


def test_from_the_built_in_model():
    wanted = settings("builtin", lock="text")
    assert wanted.siglip == Checkpoint.open("builtin").config


def test_the_memory_is_said(first, tmp_path):
    watcher = Recorder()
    run(tmp_path / "run", settings(first), watcher=watcher)
    assert watcher.told[0].startswith("memory: about 0.")
    assert "GB needed, " in watcher.told[0]


def test_a_model_that_does_not_fit_is_refused_before_its_weights_are_read(first, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 1_000_000)
    monkeypatch.setattr(Checkpoint, "__getitem__", None)
    with pytest.raises(InputError, match=r"0.0 GB are available: this model fits with no batch at all: take a smaller"):
        run(tmp_path / "run", settings(first))
    assert not list((tmp_path / "run").iterdir())


def write(folder, changed):
    save_folder(folder, changed, random_params(changed, 1))
    return folder


@pytest.mark.parametrize(
    ("changed", "train", "message"),
    [
        (replace(BOTH, text=None), {}, r"has no text tower to start from: give the shapes of a new one as \[model.tex"),
        (replace(BOTH, image=None), {}, "has no image tower to start from"),
        (replace(BOTH, image=replace(BOTH.image, layer_norm_eps=1e-5)), {}, "has layer_norm_eps 1e-05, and training"),
        (replace(BOTH, image=replace(BOTH.image, naflex=True, image_size=16)), {}, r"any aspect ratio \(NaFlex\)"),
        (BOTH, {"new": "text"}, r"starts anew: give its shapes as \[model.text\]"),
        (LARGER, {"lock": "images"}, "train.lock must be one of"),
        (LARGER, {"lock": 3}, "train.lock must be one of"),
    ],
)
def test_models_that_training_cannot_start_from(tmp_path, changed, train, message):
    with pytest.raises(InputError, match=message):
        settings(write(tmp_path / "model", changed), **train)


def test_models_that_training_does_not_compute(tmp_path):
    second = replace(BOTH, text=replace(BOTH.text, vocab_size=256_000))
    with pytest.raises(InputError, match="has SigLIP 2's vocabulary"):
        settings(write(tmp_path / "second", second))
    headless = replace(BOTH, image=replace(BOTH.image, head=False), text=None)
    with pytest.raises(InputError, match="has no MAP head"):
        settings(write(tmp_path / "headless", headless))
    with pytest.raises(CheckpointError, match="does not exist"):
        settings(tmp_path / "nowhere")


def test_a_new_image_tower_has_the_width_that_the_text_tower_projects_to(tmp_path, first):
    content = tables(train={"init": str(first), "lock": "text"})
    content["model"] = {"image": content["model"]["image"] | {"width": 48}}
    with pytest.raises(InputError, match=r"projects to \d+ numbers, and model.image.width is 48: give the new"):
        run(tmp_path / "run", read_config(content))


def test_shapes_that_differ_are_refused(tmp_path):
    """They must agree where no tower begins anew."""
    with pytest.raises(InputError, match=r"leave \[model.image\] out, to take the shapes from there"):
        run(tmp_path / "run", config(train={"init": str(TINY)}))
    assert param_shapes(settings(TINY).siglip) == param_shapes(Checkpoint.open(TINY).config)
