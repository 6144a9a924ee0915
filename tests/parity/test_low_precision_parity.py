"""bfloat16 and int8 against float64, next to what people use: transformers in bfloat16, ONNX Runtime's dynamic int8.

Same weights, same inputs; also with outliers, three channels of the residual stream at a hundred times the median.

int8 is compared by the cosine of the embeddings to those of float64, the least of all inputs; the largest error of the
logits is printed beside it.

Covers bench/engines/export_onnx.py and bench/engines/peer_onnxruntime.py as well.
"""

import numpy as np
import pytest
import torch

from golden import random_folder
from npsiglip import Checkpoint, SigLIP, reference
from npsiglip.bench.engines import export_onnx, peer_onnxruntime
from npsiglip.metrics import relative_l2
from npsiglip.variants import variant
from tests.parity.hf_taps import hf_model, hf_taps

N_IMAGES, N_TEXTS = 2, 4
OUTPUTS = ("image.pooled", "text.head", "logits")


class Truth:
    """A model folder, inputs, and what float64 makes of them."""

    def __init__(self, folder):
        self.folder = folder
        checkpoint = Checkpoint.open(folder)
        self.config = checkpoint.config
        rng = np.random.default_rng(0)
        size = self.config.image.image_size
        self.pixels = rng.uniform(-1, 1, (N_IMAGES, 3, size, size)).astype(np.float32)
        self.ids = rng.integers(0, self.config.text.vocab_size, (N_TEXTS, self.config.text.seq_len))
        self.taps = {}
        params = {name: np.asarray(value, np.float64) for name, value in checkpoint.items()}
        reference.siglip(params, self.config, self.pixels, self.ids, self.taps)


@pytest.fixture(scope="module", params=[1.0, 100.0], ids=["plain", "outliers"])
def truth(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / f"b16-outlier{request.param:.0f}"
    random_folder.write(folder, variant("siglip-base-patch16-224"), outlier=request.param)
    return Truth(folder)


def least_cosine(embeddings, exact):
    unit, exact = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (np.asarray(embeddings, np.float64), exact))
    return float((unit * exact).sum(-1).min())


def check_bfloat16(truth):
    theirs = hf_taps(hf_model(truth.folder, torch.bfloat16), truth.pixels, truth.ids)
    ours = SigLIP.from_pretrained(truth.folder, dtype="bfloat16").trace(truth.pixels, truth.ids)
    ratios = {
        name: relative_l2(ours[name], tap) / relative_l2(np.asarray(theirs[name], np.float64), tap)
        for name, tap in truth.taps.items()
        if name in theirs
    }
    worst = max(ratios, key=ratios.get)
    print(
        f"\n{truth.folder.name} bfloat16: error / transformers' over {len(ratios)} taps: median "
        f"{np.median(list(ratios.values())):.2f}, largest {ratios[worst]:.2f} ({worst}); "
        + ", ".join(f"{name} {ratios[name]:.2f}" for name in OUTPUTS)
    )
    assert {name: ratio for name, ratio in ratios.items() if not ratio <= 1.0} == {}


def check_int8(truth, scratch):
    ours = SigLIP.from_pretrained(truth.folder, dtype="int8")
    exporter = export_onnx.load(str(truth.folder), "float32", 2, print)
    peer = peer_onnxruntime.load(str(scratch), "int8", 2, print)
    found = {}
    for tower, inputs, tap in (("image", truth.pixels, "image.pooled"), ("text", truth.ids, "text.head")):
        exporter.export(tower, str(scratch))
        encode = ours.encode_image if tower == "image" else ours.encode_text
        embeddings = encode(inputs, normalize=False), peer.prepare(f"{tower}:{len(inputs)}", inputs).function()
        found[tower] = [least_cosine(x, truth.taps[tap]) for x in embeddings]
    output = ours(truth.pixels, truth.ids)
    error = np.abs(output.logits_per_image - truth.taps["logits"]).max()
    print(f"\n{truth.folder.name} int8: cosine to float64, ours and ONNX Runtime's: {found}; logits off by {error:.2f}")
    assert all(mine >= theirs for mine, theirs in found.values())


def test_bfloat16(truth):
    check_bfloat16(truth)


@pytest.mark.filterwarnings("ignore")  # torch's exporter and the quantiser have many, none of them about us
def test_int8(truth, tmp_path):
    check_int8(truth, tmp_path)


def test_given_model_bfloat16(given_folder):
    check_bfloat16(Truth(given_folder))


@pytest.mark.filterwarnings("ignore")
def test_given_model_int8(given_folder, tmp_path):
    check_int8(Truth(given_folder), tmp_path)
