"""Pairs of others as sources of a training: which comes when, and whole runs on them.

Covers train/held_out.py as well.
"""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from npsiglip import SigLIP
from npsiglip.errors import InputError
from npsiglip.train import TrainingError, saving
from npsiglip.train.held_out import ClassTest
from npsiglip.train.memory import memory_needed
from npsiglip.train.mixture import Mixture
from npsiglip.train.trainer import Trainer
from tests.helpers import pairs_data
from tests.helpers.train_runs import Recorder, bits
from tests.helpers.train_standin import config


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    return pairs_data.several(tmp_path_factory.mktemp("pairs"))


def settings(collections, **run):
    sources = [
        {"kind": "classes", "path": f"{collections}/c", "augment": {"crop": 0.5, "flip": True, "colour": 0.3}},
        {"kind": "webdataset", "path": f"{collections}/a.tar", "labels": {"en": ["kind"]}, "augment": {"rotate": 20}},
        {
            "kind": "emoji",
            "path": [f"{collections}/e/one", f"{collections}/e/two"],
            "names": f"{collections}/e/names",
            "augment": {"background": ["noise", "pattern", "gradient", "light"], "blur": 0.5, "grey": 0.2},
        },
    ]
    tests = [{"kind": "classes", "path": f"{collections}/c", "name": "blocks"}]
    data = {"sources": sources, "tests": tests, "tokenizer_captions": 300}
    return config(data=data, train={"steps": 5, "batch": 8}, run={"eval_pictures": 6, "workers": 1, **run})


@pytest.fixture(scope="module")
def whole(collections, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    listener = Recorder()
    Trainer(settings(collections), folder, watcher=listener).run()
    return folder, listener


def test_what_a_run_tells(whole):
    folder, listener = whole
    assert listener.told[1].startswith("classes: 9 pictures, each ")
    bad = [line for line in listener.told if "green1" in line]
    assert len(bad) == 1
    assert bad[0].startswith("skipped, cannot be decoded: ")
    summary = json.loads((folder / "summary.json").read_text())
    assert [name.rpartition(" ")[2] for name in summary["skipped"]] == ["x/green1"]
    assert 0 <= summary["results"]["blocks"] <= 1
    model = SigLIP.from_pretrained(folder / "model")
    assert np.isfinite(model.encode_text(["a red thing", "waving hand"])).all()


def test_stopped_and_resumed_with_other_processes_and_threads(collections, whole, tmp_path):
    listener = Recorder(stop_after=2)
    first = Trainer(settings(collections, workers=2, ahead=1, threads=1), tmp_path / "run", watcher=listener).run()
    assert (first.step, first.finished) == (2, False)
    Trainer(settings(collections, workers=3), tmp_path / "run", resume=True).run()
    assert bits(tmp_path / "run") == bits(whole[0])


def test_neighbours_of_a_source_come_together(collections):
    source = {"kind": "classes", "path": f"{collections}/c", "neighbours": 3, "plain": 1.0}
    together = Mixture(config(data={"sources": [source]}, train={"steps": 8, "batch": 3}))
    said = [together.batch(step)[1] for step in range(8)]
    for captions in said:  # all three classes of the source, in its order, from any of them on
        kinds = [next(i for i, c in enumerate(("blue", "green", "red")) if c in name) for name in captions]
        assert kinds in ([0, 1, 2], [1, 2, 0], [2, 0, 1])


def test_neighbours_without_classes(collections):
    source = {"kind": "webdataset", "path": f"{collections}/a.tar", "labels": {"en": ["kind"]}, "neighbours": 2}
    with pytest.raises(
        InputError, match=r"sources\[0\]\.neighbours brings classes together, and .* has none: set `class_by`"
    ):
        Mixture(config(data={"sources": [source]}, train={"steps": 8, "batch": 3}))


def test_other_sources_are_another_run(collections, whole, tmp_path):
    changed = settings(collections)
    sources = (*changed.data.sources[:2],)
    changed = replace(changed, data=replace(changed.data, sources=sources))
    with pytest.raises(InputError, match=r"data\.sources\.2"):
        Trainer(changed, whole[0], resume=True)
    assert saving.load_state(whole[0]).step == 5


def test_decoded_pictures_need_memory_of_their_own(collections):
    with_sources = settings(collections)
    alone = replace(with_sources, data=replace(with_sources.data, sources=()))
    assert memory_needed(with_sources) - memory_needed(alone) == 192_000_000


def test_every_class_of_the_same_name_is_right(collections, whole):
    given = settings(collections).data.sources[0]
    test = ClassTest(given, "here", 16, 100)
    test.texts["en"] = ["a thing"] * 3
    logits, right = test.logits(SigLIP.from_pretrained(whole[0] / "model"), "en")
    assert logits.shape == right.shape == (9, 3)
    assert right.all()


def test_a_test_needs_classes(collections):
    path = pairs_data.table(collections / "t.csv", [{"picture": "red.png", "said": "x"}])
    source = {"kind": "captions", "path": str(path), "captions": {"en": "said"}}
    given = config(data={"tests": [source]}).data.tests[0]
    with pytest.raises(InputError, match="a test needs classes"):
        ClassTest(given, "data.tests[0]", 16, 10)


def mixed(tmp_path, **changes):
    folder = tmp_path / "c"
    if not folder.exists():
        pairs_data.class_folder(folder)
        pairs_data.drawings(tmp_path / "d.gz")
        pairs_data.tar(tmp_path / "a.tar", 3, broken=("green1",))
    sources = [
        {"kind": "classes", "path": str(folder), "weight": 3},
        {
            "kind": "drawings",
            "path": str(tmp_path / "d.gz"),
            "augment": {"background": ["plain", "noise"], "crop": 0.5},
        },
        {"kind": "webdataset", "path": str(tmp_path / "a.tar"), "labels": {"en": ["kind"]}, "weight": 0.7},
    ]
    data = {"sources": sources, "phases": [{"fraction": 0.5}, {"shares": {"classes": 0}}], "tokenizer_captions": 100}
    return config(data=data, train={"steps": 10, "batch": 8, **changes})


def test_shares_are_held_over_any_stretch(tmp_path):
    mixture = Mixture(mixed(tmp_path))
    given = np.array([mixture.given(step) for step in range(11)])
    assert (np.diff(given, axis=0).sum(axis=1) == 8).all()
    assert (np.diff(given, axis=0) >= 0).all()
    first = np.array([3, 1, 0.7]) / 4.7
    assert (np.abs(given[:6] - np.arange(6)[:, None] * 8 * first) < 2).all()
    second = np.array([0, 1, 0.7]) / 1.7
    assert (np.abs(given[5:] - given[5] - np.arange(6)[:, None] * 8 * second) < 2).all()


def test_a_batch_follows_from_its_number_in_any_process(tmp_path):
    mixture = Mixture(mixed(tmp_path))
    batches = [mixture.batch(step) for step in range(10)]
    other = pickle.loads(pickle.dumps(mixture))
    for step in (7, 2, 9):
        pictures, captions = other.batch(step)
        assert (pictures == batches[step][0]).all()
        assert captions == batches[step][1]
    assert batches[0][0].shape == (8, 16, 16, 3)
    assert batches[0][0].dtype == np.uint8
    assert (batches[0][0] != batches[1][0]).any()


def test_a_bad_picture_is_named_once_and_passed_over(tmp_path):
    mixture = Mixture(mixed(tmp_path))
    for step in range(10):
        _, captions = mixture.batch(step)
        assert len(captions) == 8
        assert all(captions)
    skipped = mixture.take_skipped()
    assert [name.rpartition(" ")[2] for name in skipped] == ["x/green1"]
    assert mixture.take_skipped() == {}


def test_a_source_of_bad_pictures_ends_the_training(tmp_path):
    every = [f"{name}{i}" for name in pairs_data.COLOURS for i in range(2)]
    path = pairs_data.tar(tmp_path / "a.tar", broken=every)
    source = {"kind": "webdataset", "path": str(path), "labels": {"en": ["kind"]}}
    with pytest.raises(TrainingError, match=r"pictures in a row cannot be decoded, the last .*a\.tar: x/"):
        Mixture(config(data={"sources": [source]})).batch(0)


def test_captions_belong_to_their_pictures(tmp_path):
    source = {"kind": "classes", "path": str(pairs_data.class_folder(tmp_path / "c")), "plain": 1.0}
    pictures, captions = Mixture(config(data={"sources": [source]})).batch(1)
    for image, caption in zip(pictures, captions, strict=True):
        assert np.allclose(image[6:10, 6:10].mean(axis=(0, 1)), pairs_data.COLOURS[caption.split()[1]], atol=2)
