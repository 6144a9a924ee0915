"""Models of open_clip and sentence-transformers with random weights, against the libraries' own scores.

Left out where a library is not installed; open_clip needs torchvision.
"""

import json

import numpy as np
import pytest
from PIL import Image

from npsiglip.comparison.adapters import encoder
from tests.helpers.golden_data import ROOT

PICTURE = Image.open(ROOT / "docs/images/world-green-circle.png").convert("RGB")
LABELS = ["a green circle", "a red ring", "a picture of nothing at all"]
CLIP = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
OPEN_CLIP = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
SQUASHED = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
TOLERANCE = 2e-6  # float32, of numbers about 10


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_open_clip(tmp_path, kind):
    """A model with a bias has a sigmoid, any other a softmax."""
    open_clip = pytest.importorskip("open_clip")
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    made = open_clip.model.CLIP if kind == "softmax" else open_clip.model.CustomTextCLIP
    with_bias = {"init_logit_bias": -10.0, "init_logit_scale": 2.3} if kind == "sigmoid" else {}
    torch.save(made(**OPEN_CLIP, **with_bias).state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    config = OPEN_CLIP | with_bias | ({"custom_text": True} if with_bias else {})
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": SQUASHED}))

    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    model.eval()
    with torch.no_grad():
        zimg = model.encode_image(preprocess(PICTURE)[None], normalize=True)
        ztxt = model.encode_text(open_clip.get_tokenizer(f"local-dir:{tmp_path}")(LABELS), normalize=True)
        cosine = (ztxt @ zimg[0]).double().numpy()
        logit = cosine * float(model.logit_scale.exp()) + (float(model.logit_bias) if with_bias else 0.0)

    ours = encoder(f"open_clip:local-dir:{tmp_path}")
    said = ours.scores(PICTURE, LABELS)
    assert ours.kind == kind
    np.testing.assert_allclose(said.cosine, cosine, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(said.logit, logit, rtol=0, atol=TOLERANCE * 10)
    assert np.ptp(cosine) > 1e-3  # the texts are told apart


def clip_folder(folder):
    """transformers' CLIP with the vocabulary of open_clip's package."""
    transformers = pytest.importorskip("transformers")
    words = pytest.importorskip("open_clip").tokenizer.SimpleTokenizer()
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocab = {renamed.get(word, word): i for word, i in words.encoder.items()}
    merges = [" ".join(pair) for pair in sorted(words.bpe_ranks, key=words.bpe_ranks.get)]
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    tokenizer = transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    text = CLIP | {"bos_token_id": vocab["<|startoftext|>"], "eos_token_id": vocab["<|endoftext|>"]}
    vision = CLIP | {"image_size": 32, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=32)
    transformers.CLIPModel(config).save_pretrained(folder)
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.CLIPProcessor(processor, tokenizer).save_pretrained(folder)
    return folder


def test_sentence_transformers(tmp_path):
    sentences = pytest.importorskip("sentence_transformers")
    pytest.importorskip("torch").manual_seed(0)
    folder = str(clip_folder(tmp_path))
    model = sentences.SentenceTransformer(folder)
    zimg, ztxt = model.encode([PICTURE])[0].astype(np.float64), model.encode(LABELS).astype(np.float64)
    cosine = ztxt @ zimg / np.linalg.norm(ztxt, axis=1) / np.linalg.norm(zimg)

    ours = encoder(f"st:{folder}")
    said = ours.scores(PICTURE, LABELS)
    assert (ours.kind, said.logit) == ("cosine", None)
    np.testing.assert_allclose(said.cosine, cosine, rtol=0, atol=TOLERANCE)
    assert np.ptp(cosine) > 1e-3

    # the same folder as transformers' own CLIP
    clip = encoder(f"clip:{folder}").scores(PICTURE, LABELS)
    np.testing.assert_allclose(clip.cosine, cosine, rtol=0, atol=TOLERANCE)
