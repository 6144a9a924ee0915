"""Pictures that a locked image tower embeds once: the same pairs and the same bits as if each were embedded anew."""

import json
import os
import pickle
import signal
from collections import Counter

import numpy as np
import pytest

from npsiglip.errors import InputError
from npsiglip.kernels.jit import max_threads
from npsiglip.train import TrainingError, towers, trainer
from npsiglip.train.data import Pixels
from npsiglip.train.memory import check_memory, memory_needed
from npsiglip.train.mixture import Mixture
from npsiglip.train.pool import LockedImages, Pool, PoolBatches, PoolDrawing, embed
from npsiglip.train.step import Gradients
from npsiglip.train.trainer import Trainer
from tests.helpers import pairs_data
from tests.helpers.train_runs import Recorder, bits, run
from tests.helpers.train_standin import TABLES, StandIn, config
from tests.helpers.train_steps import filled, flat_params

SIZE = 32
MODEL = {"image": TABLES["model"]["image"] | {"image_size": SIZE}, "text": TABLES["model"]["text"]}
PHASES = [{"fraction": 0.3, "shares": {"world": 2}, "mix": {"single": 1.0}, "distinct": False}, {"distinct": False}]


@pytest.fixture(scope="module")
def collections(tmp_path_factory):
    return pairs_data.several(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A model to start from."""
    folder = tmp_path_factory.mktemp("first") / "run"
    run(folder, config(model=MODEL, train={"steps": 3}), StandIn(size=SIZE)).run()
    return folder / "model"


def settings(collections, first="x", embedded=4, train=None, data=None, **run):
    sources = [
        {"kind": "classes", "path": f"{collections}/c", "augment": {"crop": 0.5, "flip": True, "colour": 0.3}},
        {"kind": "webdataset", "path": f"{collections}/a.tar", "labels": {"en": ["kind"]}, "augment": {"rotate": 20}},
        {
            "kind": "emoji",
            "path": [f"{collections}/e/one", f"{collections}/e/two"],
            "names": f"{collections}/e/names",
            "tags": 0.4,
            "augment": {"background": ["noise", "pattern", "gradient", "light"], "blur": 0.5, "grey": 0.2},
        },
        {"kind": "world"},
    ]
    tables = {"sources": sources, "embedded": embedded, "phases": PHASES, "label_noise": 0.2} | (data or {})
    return config(
        model=MODEL,
        data={key: value for key, value in tables.items() if value},
        train={"steps": 10, "batch": 13, "init": str(first), "lock": "image"} | (train or {}),
        run={"workers": 1, **run},
    )


def drawn(mixture):
    """All pools: their pictures, and what is known of them."""
    job = PoolDrawing(mixture)
    parts = [job(i) for i in range(len(mixture.pool_chunks))]
    return np.concatenate([pictures for pictures, _ in parts]), [known for _, part in parts for known in part]


# -- which pictures, and what is said of them -------------------------------------------------------------------------


@pytest.mark.parametrize("embedded", [4, 7])  # of the second phase's world one step, or two
def test_a_batch_of_rows_is_the_batch_of_pictures(collections, embedded):
    """Of every step, in both phases, the world and a source with a bad picture included; in another process, too."""
    mixture = Mixture(settings(collections, embedded=embedded))
    pictures, known = drawn(mixture)
    assert len(pictures) == len(known) == mixture.pool_rows
    batches = pickle.loads(pickle.dumps(PoolBatches(mixture, known)))
    for step in range(10):
        rows, captions = batches.batch(step)
        truth, said = mixture.batch(step)
        np.testing.assert_array_equal(pictures[rows], truth)
        assert captions == said


def test_pictures_come_again_and_captions_anew(collections):
    mixture = Mixture(
        settings(collections, data={"sources": [dict(kind="emoji", **emoji(collections))], "phases": [{}]})
    )
    assert mixture.pool_rows == 6  # whole rounds of three classes
    found = [mixture._sources[0].sample(n) for n in range(120)]
    for n, (picture, _) in enumerate(found):
        np.testing.assert_array_equal(picture, found[n % 6][0])
    said = Counter(caption for _, caption in found[::6])
    assert len(said) > 4
    assert len({picture.tobytes() for picture, _ in found}) == 6


def emoji(collections):
    return {"path": f"{collections}/e/*e", "names": f"{collections}/e/names", "tags": 0.4}


def test_the_pool_is_what_comes_first_without_it(collections):
    with_pool, without = (Mixture(settings(collections, embedded=n)) for n in (1000, 0))
    for step in range(10):
        ours, theirs = with_pool.batch(step), without.batch(step)
        assert ours[1] == theirs[1]
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_no_class_comes_twice_before_all_have(collections):
    mixture = Mixture(settings(collections, embedded=4))
    source = mixture._sources[0]
    assert source.pool == 6
    for start in range(0, 30, 3):
        assert len({source.caption(n).split()[-2] for n in range(start, start + 3)}) == 3


@pytest.mark.parametrize(
    ("templates", "tags", "sides"),
    [
        ({}, {}, False),
        ({"en": ["{} on the left"]}, {}, True),
        ({"de": ["links: {}"]}, {}, False),  # a language that it is not named in
        ({}, {"en": ["right-handed"]}, True),
    ],
)
def test_what_may_be_said_decides_whether_a_picture_is_mirrored(templates, tags, sides):
    from npsiglip.pairs.base import Words
    from npsiglip.pairs.wording import Wording

    wording = Wording(pairs_data.settings(kind="captions", path="x", templates=templates))
    assert wording.may_name_a_side(Words(names={"en": ["a cat"]}, tags=tags)) == sides


def test_no_picture_of_a_pool_is_mirrored_if_a_caption_names_a_side(collections):
    """Though most of its captions do not: as without `flip`."""

    def pictures(flip, embedded, templates):
        source = {"kind": "classes", "path": f"{collections}/c", "plain": 0.9, "augment": {"flip": flip, "crop": 0.5}}
        data = {"sources": [source | {"templates": {"en": templates}}], "phases": [{}]}
        mixture = Mixture(settings(collections, embedded=embedded, data=data))
        return np.concatenate([mixture.batch(step)[0] for step in range(3)])

    sided, plain = ["left of {}"], ["{}"]
    np.testing.assert_array_equal(pictures(True, 39, sided), pictures(False, 39, sided))
    assert (pictures(True, 39, plain) != pictures(False, 39, plain)).any()
    assert (pictures(True, 0, sided) != pictures(False, 0, sided)).any()


def test_a_bad_picture_is_passed_over_and_named_once(collections):
    mixture = Mixture(settings(collections, embedded=12))
    _, known = drawn(mixture)
    assert [name.rpartition(" ")[2] for name in mixture.take_skipped()] == ["x/green1"]
    batches = PoolBatches(Mixture(settings(collections, embedded=12)), known)
    for step in range(10):
        batches.batch(step)
    assert batches.take_skipped() == {}  # nothing is read


def test_the_world_keeps_the_pairs_of_a_step_together(collections):
    """Without any other source, too."""
    mixture = Mixture(settings(collections, data={"sources": [], "phases": [{}], "label_noise": 0}, embedded=20))
    assert mixture.pool_rows == 26  # two steps
    for step in range(2, 10):
        ours, before = mixture.batch(step), mixture.batch(step - 2)
        np.testing.assert_array_equal(ours[0], before[0])
        assert len(set(ours[1])) == 13


# -- the same bits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2048, 70, 1], ids=["one part", "ragged", "single inputs"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_step_has_the_bits_of_a_step_with_pixels(monkeypatch, collections, rows, dtype):
    monkeypatch.setattr(towers, "ROWS_OF_A_PART", rows)
    made = settings(collections, train={"dtype": dtype})
    params = flat_params(made.siglip)
    pool = embed(made, Mixture(made), params, lambda: False, lambda done, rows: None)
    gradients = Gradients(made.siglip, 13, 8, locked=frozenset({"image"}), dtype=dtype)
    ids = np.random.default_rng(0).integers(0, 96, (13, 8))
    rows_of_pool, _ = pool.batches.batch(7)
    pictures, _ = Mixture(made).batch(7)
    ours, theirs = filled(params), filled(params)
    loss = gradients.step(params, pool.images(rows_of_pool), ids, ours)
    assert loss == gradients.step(params, Pixels()(pictures), ids, theirs)
    np.testing.assert_array_equal(ours.vector, theirs.vector)
    assert ours.views["text.head.w"].any()


def test_embeddings_are_for_a_locked_image_tower(collections):
    made = settings(collections)
    params = flat_params(made.siglip)
    images, ids = np.ones((13, 16), np.float32), np.zeros((13, 8), np.int32)
    with pytest.raises(InputError, match=r"pixels must be float32 \[13, 3, 32, 32\]"):
        Gradients(made.siglip, 13, 8).step(params, images, ids, filled(params))
    locked = Gradients(made.siglip, 13, 8, locked=frozenset({"image"}))
    with pytest.raises(InputError, match=r"embeddings must be float32 \[13, 16\] .* the width of this model"):
        locked.step(params, images[:, :8], ids, filled(params))


class Stopping(Recorder):
    """Sends a signal as soon as pictures are being embedded."""

    def say(self, text):
        super().say(text)
        if text.startswith("Embedding"):
            os.kill(os.getpid(), signal.SIGTERM)


def start(folder, made, **options):
    return Trainer(made, folder, evaluation=lambda model: {}, **options)


@pytest.fixture(scope="module")
def whole(collections, first, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    watcher = Recorder()
    start(folder, settings(collections, first), watcher=watcher).run()
    return folder, watcher


def test_a_run_has_the_bits_of_one_that_embeds_every_picture_anew(monkeypatch, collections, first, whole, tmp_path):
    class Anew(Pool):
        images = staticmethod(Pixels())

    def not_embedded(config, mixture, params, stop, tell):
        return Anew(np.empty((0, 16), np.float32), mixture, {}, 0.0)

    monkeypatch.setattr(trainer, "embed", not_embedded)
    start(tmp_path / "run", settings(collections, first)).run()
    assert bits(tmp_path / "run") == bits(whole[0])


def test_what_a_run_tells(whole):
    folder, watcher = whole
    assert any(line.startswith("classes: 9 pictures, each ") and "as 6 that are emb" in line for line in watcher.told)
    assert any(" pictures embedded in " in line for line in watcher.told)
    assert len([line for line in watcher.told if "green1" in line]) == 1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["seconds"]["embedding"] > 0
    assert [name.rpartition(" ")[2] for name in summary["skipped"]] == ["x/green1"]


def test_stopped_and_resumed_with_other_processes_and_threads(collections, first, whole, tmp_path):
    folder = tmp_path / "run"
    stopped = start(folder, settings(collections, first, workers=2, threads=1), watcher=Stopping()).run()
    assert (stopped.step, stopped.finished, stopped.signal) == (0, False, signal.SIGTERM)  # while it embeds
    stopped = start(folder, settings(collections, first, workers=3, ahead=1), resume=True, watcher=Recorder(4)).run()
    assert (stopped.step, stopped.finished) == (4, False)
    start(folder, settings(collections, first, threads=min(2, max_threads())), resume=True).run()
    assert bits(folder) == bits(whole[0])


def test_another_number_of_pictures_is_another_run(collections, first, whole):
    with pytest.raises(InputError, match=r"- data.embedded: 4 in the checkpoint, 0 now"):
        start(whole[0], settings(collections, first, embedded=0), resume=True)


# -- what it takes, and what goes wrong -------------------------------------------------------------------------------


def test_memory_of_what_is_embedded(collections):
    made, more = settings(collections), settings(collections, embedded=1_000_004)
    # three sources and two phases of the world, 16 numbers of a picture and what is known of it in two processes
    assert memory_needed(more) - memory_needed(made) == 5_000_000 * (64 + 160)
    with pytest.raises(InputError, match=r"or embed fewer pictures \(data.embedded takes 1\.1 GB of it\)"):
        check_memory(more, 600_000_000)


def test_embedding_can_be_given_up(collections):
    made = settings(collections)
    assert embed(made, Mixture(made), flat_params(made.siglip), lambda: True, lambda done, rows: None) is None


def test_a_source_of_bad_pictures_ends_the_training(collections, tmp_path):
    every = [f"{name}{i}" for name in pairs_data.COLOURS for i in range(2)]
    source = {"kind": "webdataset", "path": str(pairs_data.tar(tmp_path / "a.tar", broken=every))}
    made = settings(collections, data={"sources": [source | {"labels": {"en": ["kind"]}}], "phases": [{}]})
    with pytest.raises(TrainingError, match="pictures in a row cannot be decoded"):
        embed(made, Mixture(made), flat_params(made.siglip), lambda: False, lambda done, rows: None)


def test_fewer_pictures_than_a_part(collections):
    made = settings(collections)
    tower = LockedImages(made, flat_params(made.siglip))
    pictures, _ = Mixture(made).batch(0)
    assert tower(pictures[:3]).shape == (3, 16)
    np.testing.assert_array_equal(tower(pictures)[:3], tower(pictures[:3]))
