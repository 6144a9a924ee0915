"""Batches that other processes draw: the same whoever draws them, and errors when nobody does."""

import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from npsiglip.images.processor import ImageProcessor
from npsiglip.texts.siglip import Tokenizer
from npsiglip.train import TrainingError
from npsiglip.train.data import Batches, Pixels
from npsiglip.train.tokenizer import train_tokenizer
from tests.helpers.train_standin import StandIn


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
        np.testing.assert_array_equal(batch.images, pixels)
        assert batch.images.dtype == np.float32
        assert batch.images.flags.c_contiguous
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
