"""Batches that other processes draw: the same whoever draws them, and errors when nobody does. The tokenizer."""

import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from npsiglip.errors import InputError
from npsiglip.images.processor import ImageProcessor
from npsiglip.texts.siglip import Tokenizer
from npsiglip.train import TrainingError
from npsiglip.train.data import Batches, Pixels
from npsiglip.train.tokenizer import train_tokenizer
from npsiglip.train.worlds import WorldSource, mislabelled
from tests.helpers.train_standin import StandIn, config


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "spiece.model"
    train_tokenizer(StandIn().captions(200), 96, path)
    return path


def drawn(spiece, steps, workers, source=None):
    with Batches(source or StandIn(), spiece, 8, steps, workers, ahead=1) as batches:
        return [batches.get() for _ in steps], batches


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_what_the_source_draws(spiece, workers):
    found, batches = drawn(spiece, range(3, 8), workers)
    assert [batch.step for batch in found] == [3, 4, 5, 6, 7]
    processor, tokenizer = ImageProcessor(16, 16), Tokenizer(spiece, 8)
    for batch in found:
        pictures, captions = StandIn().batch(batch.step)
        pixels = processor([Image.fromarray(picture) for picture in pictures])
        np.testing.assert_array_equal(batch.pixels, pixels)
        assert batch.pixels.dtype == np.float32
        assert batch.pixels.flags.c_contiguous
        np.testing.assert_array_equal(batch.ids, tokenizer(captions))
        assert batch.ids.dtype == np.int32
    assert batches.cpu_seconds > 0
    assert batches.waited > 0


def test_every_byte_becomes_what_the_processor_makes_of_it():
    pictures = np.arange(256 * 3, dtype=np.uint16).astype(np.uint8).reshape(1, 16, 16, 3)
    np.testing.assert_array_equal(Pixels()(pictures), ImageProcessor(16, 16)(pictures[0]))


def test_drawing_goes_ahead(spiece):
    with Batches(StandIn(slow=0.02), spiece, 8, range(6), 1, ahead=3) as batches:
        batches.get()
        time.sleep(0.5)
        before = batches.waited
        for _ in range(3):
            batches.get()
        assert batches.waited - before < 0.02


def test_a_source_that_fails_is_an_error(spiece):
    with pytest.raises(TrainingError, match=r"failed:\n(.|\n)*RuntimeError: no more paint"):
        drawn(spiece, range(3), 1, StandIn(fail_at=1))


def test_a_process_that_ends_is_an_error(spiece):
    with pytest.raises(TrainingError, match="ended, exit code 3: expected it to live"):
        drawn(spiece, range(3), 2, StandIn(die_at=1))


def test_waiting_can_be_given_up(spiece):
    with Batches(StandIn(slow=30.0), spiece, 8, range(2)) as batches:
        start = time.monotonic()
        assert batches.get(lambda: True) is None
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_for_the_trainer(spiece, number):
    with Batches(StandIn(), spiece, 8, range(12), ahead=1) as batches:
        batches.get()
        os.kill(batches._workers[0].process.pid, number)
        assert [batches.get().step for _ in range(11)] == list(range(1, 12))


def test_no_process_is_left(spiece):
    with Batches(StandIn(), spiece, 8, range(1000), 2) as batches:
        batches.get()
        pids = [worker.process.pid for worker in batches._workers]
        assert all(os.path.exists(f"/proc/{pid}") for pid in pids)  # noqa: PTH110
    for worker, pid in zip(batches._workers, pids, strict=True):
        assert worker.process.exitcode is not None
        assert not os.path.exists(f"/proc/{pid}")  # noqa: PTH110


# -- the world --------------------------------------------------------------------------------------------------------


def in_world(*phases, noise=0.0, **train):
    content = {"steps": 10, "batch": 3} | train
    made = config(data={"phases": list(phases), "seed": 4, "label_noise": noise}, train=content)
    return WorldSource(made.__class__(**vars(made) | {"model": larger(made.model)}))


def larger(model):
    return model.__class__(image=model.image.__class__(**vars(model.image) | {"image_size": 32}), text=model.text)


def test_phases_of_the_world():
    from npsiglip.world import World

    source = in_world({"fraction": 0.5, "mix": {"glyph": 1.0}}, {"mix": {"count": 1.0}})
    for step, kind in ((0, "glyph"), (4, "glyph"), (5, "count"), (9, "count")):
        pictures, captions = source.batch(step)
        truth = World(4, 32, "train", {kind: 1.0}).batch(step, 3)
        np.testing.assert_array_equal(pictures, truth[0])
        assert captions == truth[1]
    assert len(list(source.captions(7))) == 8  # four of each phase


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ({"mix": {"circles": 1.0}}, r"data.phases\[0\]: `mix` has \['circles'\]"),
        ({"difficulty": 2.0}, r"data.phases\[0\]: `difficulty` must lie between 0 and 1"),
        ({"difficulty": "hard"}, r"data.phases\[0\]: "),
    ],
)
def test_the_world_refuses(phase, message):
    with pytest.raises(InputError, match=message):
        in_world(phase).world(0)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 5), (0.5, 10), (1.0, 20)])
def test_a_share_of_the_captions_goes_to_other_pictures(share, count):
    captions = [f"caption {i}" for i in range(20)]
    found = mislabelled(captions, share, seed=3, step=7)
    wrong = {i for i in range(20) if found[i] != captions[i]}
    assert len(wrong) == count
    assert {found[i] for i in wrong} == {captions[i] for i in wrong}  # among themselves
    assert captions == [f"caption {i}" for i in range(20)]
    assert found == mislabelled(captions, share, seed=3, step=7)
    if count:
        assert found != mislabelled(captions, share, seed=3, step=8)
        assert found != mislabelled(captions, share, seed=4, step=7)
        more = mislabelled(captions, 1.0, seed=3, step=7)
        assert wrong <= {i for i in range(20) if more[i] != captions[i]}


def test_the_same_pairs_are_wrong_in_every_version():
    """Worked out once: they decide the bits of a run."""
    assert mislabelled(list("abcdefgh"), 0.5, seed=0, step=0) == list("adbhefgc")


def test_noise_leaves_pictures_as_they_are():
    right, wrong = (in_world({}, noise=noise, batch=8).batch(2) for noise in (0.0, 0.5))
    np.testing.assert_array_equal(wrong[0], right[0])
    assert wrong[1] == mislabelled(right[1], 0.5, 4, 2)
    assert sum(a != b for a, b in zip(right[1], wrong[1], strict=True)) == 4


# -- tokenizer --------------------------------------------------------------------------------------------------------

CAPTIONS = ["A photo of a red circle.", "ein grünes Dreieck", "un círculo rojo", "un carré bleu à gauche", "È verde"]


def test_tokenizer_is_the_same_again(tmp_path):
    train_tokenizer(CAPTIONS * 20, 160, tmp_path / "a.model")
    train_tokenizer(iter(CAPTIONS * 20), 160, tmp_path / "b.model")
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()


def test_tokenizer_has_the_ids_of_siglip_and_spells_everything(tmp_path):
    train_tokenizer(CAPTIONS * 20, 160, tmp_path / "spiece.model")
    tokenizer = Tokenizer(tmp_path / "spiece.model", 16)
    assert (tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id) == (1, 2, 1)
    assert tokenizer.vocab_size <= 160
    for text in (*CAPTIONS, "zebra 0123456789 quick jumping fox"):
        ids = tokenizer.encode(text)
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == text.lower().replace(".", "")
    assert tokenizer.tokenize("a photo of") == ["▁a", "▁photo", "▁of"]  # words of one caption are pieces, too


def test_tokenizer_refuses(tmp_path):
    with pytest.raises(InputError, match="needs captions"):
        train_tokenizer([" ", "."], 100, tmp_path / "spiece.model")
    with pytest.raises(InputError, match="a vocabulary of 40 is too small for the 43 letters"):
        train_tokenizer(CAPTIONS, 40, tmp_path / "spiece.model")
    assert list(tmp_path.iterdir()) == []
