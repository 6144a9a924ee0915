"""A small part of the fuzzer of model folders; benchmarks/fuzz_folders.py runs as many cases as are asked for."""

import numpy as np
import pytest

from benchmarks import fuzz_folders
from npsiglip import SigLIP


def test_some_cases():
    faults = []
    counts = fuzz_folders.run(60, seed=13, show=faults.append)
    assert faults == []
    assert counts["refused"] > 20 and counts["equal"] > 10 and sum(counts.values()) == 60


def test_a_fault_is_found(monkeypatch):
    """Neither wrong results nor another exception go through."""
    encode, calls = SigLIP.encode_image, []

    def differ(self, images, **options):
        calls.append(images)
        wrong = -encode(self, images, **options)
        return wrong if len(calls) > 8 else encode(self, images, **options)  # the undamaged models' are right

    monkeypatch.setattr(SigLIP, "encode_image", differ)
    faults = []
    assert fuzz_folders.run(12, seed=13, show=faults.append)["wrong"] > 0 and faults[0].startswith("wrong: case ")

    def fail(self, images, **options):
        raise TypeError("planted")

    monkeypatch.setattr(SigLIP, "encode_image", encode)
    monkeypatch.setattr(SigLIP, "encode_text", fail)
    with pytest.raises(TypeError, match="planted"):  # of an undamaged model
        fuzz_folders.run(1, seed=13)


def test_results_are_told_apart():
    a = {"pixels": np.arange(1, 4.0), "classes": [[{"label": "cat", "score": 0.9}]]}
    assert fuzz_folders.same(a, {"pixels": np.arange(1, 4.0) * 1.001, "classes": [[{"label": "cat", "score": 0.91}]]})
    assert not fuzz_folders.same(a, a | {"pixels": np.array([1, 2, 3.2])})
    assert not fuzz_folders.same(a, a | {"classes": [[{"label": "dog", "score": 0.9}]]})
    assert not fuzz_folders.same(a, a | {"texts": np.ones(3)})
