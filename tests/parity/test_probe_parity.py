"""What `npsiglip probe` writes, loaded by transformers: the same classes, the same logits, nothing left over."""

import numpy as np
import pytest
import torch
from transformers import SiglipForImageClassification, SiglipImageProcessorPil

from npsiglip import SigLIP
from npsiglip.checkpoint import Checkpoint
from npsiglip.evaluation.probe import probe, tower_of, write
from npsiglip.metrics import relative_l2
from npsiglip.pairs.guess import open_collection
from tests.helpers import pairs_data

# float32 on both sides: measured 5e-7 of the logits; a feature that were pooled otherwise would be off by more than 0.1
BOUND = 1e-5


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_a_probe_in_transformers(tmp_path, loss):
    pairs_data.class_folder(tmp_path / "classes", 4)
    pairs, checkpoint = open_collection([str(tmp_path / "classes")]), Checkpoint.open("builtin")
    tower = tower_of(checkpoint)
    write(tmp_path / "model", checkpoint, tower, probe(tower, pairs, loss, 2))
    model, told = SiglipForImageClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.float32
    pictures = [pairs.read(i, None) for i in range(len(pairs))]
    pixels = SiglipImageProcessorPil.from_pretrained(tmp_path / "model")(pictures, return_tensors="pt")
    with torch.no_grad():
        theirs = model(**pixels).logits.numpy()
    ours = SigLIP.from_pretrained(tmp_path / "model")
    found = ours.class_logits(pictures)
    error = relative_l2(found, theirs)
    print(f"{loss}: {error:.1e}")
    assert error <= BOUND
    assert np.array_equal(found.argmax(axis=1), theirs.argmax(axis=1))
    assert tuple(model.config.id2label.values()) == ours.config.classifier.labels
    assert model.config.problem_type.startswith("single" if loss == "softmax" else "multi")
