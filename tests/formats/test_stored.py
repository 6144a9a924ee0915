"""Memory of mapped files: what was packed or checked is let go, and read again when it is needed."""

import mmap
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from npsiglip import Checkpoint, SigLIP
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig
from npsiglip.formats.safetensors import open_file
from npsiglip.formats.stored import MappedTensor
from npsiglip.params import random_params
from tests.helpers.golden_data import TINY
from tests.helpers.quantized_folders import assert_same_bits, float_folder, inputs_of, results


def resident(memory):
    """Bytes of a mapped file that are in this process's memory."""
    address = np.frombuffer(memory, np.uint8).ctypes.data
    inside, total = False, 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = address <= int(found[1], 16) < address + len(memory)
        elif inside and line.startswith("Rss:"):
            total += 1024 * int(line.split()[1])
    return total


LARGE = SigLIPConfig(  # few tensors, so that there are few ends of tensors
    ImageConfig(width=256, depth=1, num_heads=4, mlp_dim=3000, image_size=32, patch_size=8),
    TextConfig(width=256, depth=1, num_heads=4, mlp_dim=3000, seq_len=7, vocab_size=9000, projection_dim=256),
)


linux = pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no /proc/self/smaps")


@linux
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_what_was_packed_is_let_go(tmp_path, dtype):
    model = SigLIP.from_pretrained(float_folder(tmp_path, LARGE), dtype)
    memory = model._text.params._entries["bias"][1].memory
    pixels, ids = inputs_of(LARGE)["images"], np.zeros((1, 7), int)  # one row of the table
    for _ in range(3):
        model(pixels, ids)
        assert len(memory) > 30e6
        assert resident(memory) < 5e6  # a page of the table, biases, ends of tensors, and what lies around them


@linux
def test_released_values_are_read_again(tmp_path):
    checkpoint = Checkpoint.open(float_folder(tmp_path, LARGE))
    name = "image.blocks.00.mlp.fc1.w"
    memory = checkpoint._entries[name][1].memory
    values = checkpoint[name]
    before, expected = resident(memory), random_params(LARGE, seed=4)[name]
    checkpoint.release(name)
    assert before > values.nbytes > 3e6 > 64 * mmap.PAGESIZE > resident(memory)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(checkpoint[name], expected)


@linux
def test_the_table_is_let_go_once_it_was_checked(tmp_path):
    checkpoint = Checkpoint.open(float_folder(tmp_path, LARGE))
    memory = checkpoint._entries["bias"][1].memory
    table = checkpoint["text.token_embed"]
    assert resident(memory) < 1e6 < table.nbytes
    assert table[::100].sum() != 0
    assert resident(memory) > 1e6
    _ = checkpoint["text.token_embed"]
    assert resident(memory) > 1e6  # not again: rows that were looked up may be looked up again


def test_values_are_checked_once_though_they_are_released(tmp_path, monkeypatch):
    checked = []
    float_folder(tmp_path)
    monkeypatch.setattr("npsiglip.checkpoint.all_finite", lambda values: checked.append(values.shape) or True)
    results(SigLIP.from_pretrained(tmp_path), passes=3)
    assert len(checked) == len(Checkpoint.open(tmp_path))


@pytest.mark.parametrize("shape", [(0,), (1,), (3000,)])
def test_small_tensors_have_no_page_of_their_own(tmp_path, shape):
    save_file({"a": np.ones(5, np.float32), "x": np.ones(shape, np.float32)}, tmp_path / "x")
    for tensor in open_file(tmp_path / "x").values():
        tensor.release()


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="the system releases nothing")
@pytest.mark.parametrize(
    ("first", "end", "released"),
    [(0, 3, (0, 3)), (0.5, 3, (1, 3)), (1, 3.5, (1, 3)), (0.1, 3.9, (1, 3)), (1.2, 1.8, None), (1.2, 2.1, None)],
)
def test_only_whole_pages_are_released(first, end, released):
    """In pages, the place of a tensor and what the system is told: what lies beside it is not read anew."""

    class Memory:
        told = None

        def madvise(self, advice, start, length):
            self.told = start / mmap.PAGESIZE, (start + length) / mmap.PAGESIZE

    start = int(first * mmap.PAGESIZE)
    memory = Memory()
    MappedTensor(Path("x"), "I8", (int(end * mmap.PAGESIZE) - start,), start, memory).release()
    assert memory.told == released


def test_systems_that_cannot_release(tmp_path, monkeypatch):
    monkeypatch.delattr(mmap, "MADV_DONTNEED")
    expected = results(SigLIP.from_pretrained(TINY))
    assert_same_bits(results(SigLIP.from_pretrained(TINY), passes=2), expected)
    Checkpoint.open(TINY).release("text.token_embed")
