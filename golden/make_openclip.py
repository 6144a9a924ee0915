"""Writes golden/openclip, what open_clip and timm make and compute: `python golden/make_openclip.py`.

Runs in an environment of its own, with open_clip_torch and timm (their versions are in golden.json). The architectures
are timm's `vit_*_siglip_*` under their own names, so with their heads, activation, pooling and LayerNorm, but narrow,
of two blocks and for pictures of 32 pixels; text towers are open_clip's. Weights are random and stored in float16 by
the libraries' own `save_for_hf`; what the models compute is of the folders as these libraries read them again, in
double precision.

    siglip      erf in both towers                     projection, another width for texts
    i18n        tanh for images, erf for texts         no projection
    siglip2     erf for images, tanh for texts         Gemma's vocabulary
    gap         tanh, an image tower alone             ends with the mean of its tokens; timm
    classes     erf, an image tower alone              a classifier on the MAP head; timm; a squashing transform
"""

import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

import numpy as np
import open_clip
import timm
import torch
from ftfy import fix_text
from open_clip.push_to_hf_hub import save_for_hf
from timm.data import create_transform, resolve_model_data_config
from timm.models import _registry
from transformers import T5Tokenizer

from golden import manifest
from golden.make_spiece import corpus
from golden.pictures import pil_image
from golden.strings import strings

HERE = Path(__file__).parent
FOLDER = HERE / "openclip"
GEMMA = HERE / "gemma"
SEED = 20230927
PIECES = 600
COUNT = 150
SIZES = ((45, 61), (61, 45), (32, 32), (20, 90))  # of pictures, height and width
MODES = ("RGB", "L", "RGBA", "LA", "P", "CMYK", "1", "I;16")
NASTY = (
    *("a photo of a cat.", "", " ", "_", "a_b__c", "AT&amp;T &amp;amp;lt; &lt;b&gt;", "&amp;amp;amp;amp;", "t-shirt."),
    *(
        "\u201ccurly\u201d \u2018quotes\u2019 \u2026 \u2013 \u2014",
        "sch\u00c3\u00b6n \u00e2\u0153\u201d caf\u00c3\u00a9",
    ),
    *("\ufb01ne \ufb00 \uff26\uff55\uff4c\uff4c", "e\u0301 u\u0308 \u212b", "</s> <unk> <extra_id_0>", "50% off!!! #1"),
    *("a\x00b\x1b[31mred\x1b[0m c", "\u0130stanbul \u1e9e \u0391\u03a3", "\u65e5\u672c\u8a9e \u4e00\u53ea\u732b"),
    *("\U0001f469\u200d\U0001f467 \U0001f408", "a\u2028b\u00a0c\td\r\ne", "cat " * 50, "&nbsp;x&#39;y&eacute;"),
    *("<a href='x'>&amp;</a>", "\uff11\uff12\uff13 \u00bd \u00b2", "\ufeffbom", "\u2581a\u2581b", "x\u200by", "@home"),
    *("<Unk>\u03a3", "x\u03a3\u201ca\u201d", "\u0391\u03a3.", "\u0391\u03a3.\u0391"),
)

IMAGE = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "mlp_ratio": 1.75}
TEXT = {"context_length": 16, "vocab_size": PIECES + 9, "width": 20, "heads": 5, "layers": 2, "mlp_ratio": 1.5}
TEXT |= {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}
TEXT |= {"hf_tokenizer_name": "local", "tokenizer_kwargs": {"clean": "canonicalize"}}
OPEN_CLIP = {
    "siglip": ("vit_base_patch16_siglip_224", 24, {}),
    "i18n": ("vit_so400m_patch16_siglip_256", 32, {"width": 32, "heads": 4, "proj_type": "none"}),
    "siglip2": ("vit_base_patch16_siglip_224", 24, {"vocab_size": 1051, "act_kwargs": {"approximate": "tanh"}}),
}


def narrow(name, **changes):
    """Let timm build a small model under this name, as its own function would build the large one."""
    known = _registry._model_entrypoints[name]

    def entrypoint(pretrained=False, **kwargs):
        return known(pretrained, **(IMAGE | changes | kwargs))

    _registry._model_entrypoints[name] = entrypoint


def randomize(model, seed):
    """Weights in which nothing is zero, one or flat, rounded to float16, in which they are stored."""
    with torch.no_grad():
        for i, (name, value) in enumerate(sorted(model.named_parameters())):
            rng = np.random.default_rng([seed, i])
            noise = torch.from_numpy(np.asarray(rng.standard_normal(value.shape))).float()
            if name == "logit_scale":
                noise = torch.tensor(2.5)
            elif name == "logit_bias":
                noise = torch.tensor(-3.1)
            elif "norm" in name or "ln_" in name:
                noise = (1.0 if name.endswith("weight") else 0.0) + 0.2 * noise
            elif value.ndim == 4 or (value.ndim == 2 and "embed" not in name):
                noise *= 1.5 * (value[0].numel() ** -0.5)
            elif value.ndim == 1:
                noise *= 0.2
            value.copy_(noise.half())
    return model


def make_tokenizer(folder):
    """A vocabulary with T5's settings, as open_clip's folders have it: tokenizer.json, without spiece.model."""
    import io

    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=written, model_type="unigram", vocab_size=PIECES, pad_id=0,
        eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>",
        normalization_rule_name="nmt_nfkc", character_coverage=0.9995, num_threads=1, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())
    vocab = [(model.id_to_piece(i), model.get_score(i)) for i in range(len(model))]
    charsmap = field(field(written.getvalue(), 3), 2)  # ModelProto.normalizer_spec.precompiled_charsmap
    tokenizer = T5Tokenizer(
        vocab=vocab, _spm_precompiled_charsmap=charsmap, extra_ids=0, pad_token="</s>", legacy=False
    )
    tokenizer.save_pretrained(folder)


def varint(data, at):
    """A number of protobuf's, and where it ends."""
    value, shift = 0, 0
    while True:
        value, shift, at = value | (data[at] & 127) << shift, shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at


def field(message, number):
    """The bytes of a field of a protobuf message; transformers reads them with the protobuf package."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        if tag & 7 == 2:
            size, at = varint(message, at)
            if tag >> 3 == number:
                return bytes(message[at : at + size])
            at += size
        elif tag & 7 == 0:
            _, at = varint(message, at)
        else:
            at += {1: 8, 5: 4}[tag & 7]
    raise ValueError(f"no field {number}")


def make_open_clip(name, seed):
    """golden/openclip/NAME and what the model computes."""
    trunk, embed_dim, changes = OPEN_CLIP[name]
    config = {"embed_dim": embed_dim, "init_logit_bias": -10, "custom_text": True}
    config["vision_cfg"] = {"image_size": 32, "timm_model_name": trunk, "timm_model_pretrained": False}
    config["vision_cfg"] |= {"timm_pool": "map", "timm_proj": "none"}
    config["text_cfg"] = TEXT | changes
    folder = FOLDER / name
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / f"golden-{name}.json"
        path.write_text(json.dumps(config))
        open_clip.add_model_config(path)
        model, _, _ = open_clip.create_model_and_transforms(
            path.stem, image_mean=(0.5,) * 3, image_std=(0.5,) * 3, image_resize_mode="squash", load_weights=False
        )
        randomize(model, seed).half()
        tokens = FOLDER if name != "siglip2" else GEMMA
        save_for_hf(model, Files(tokens), config, folder, safe_serialization=True)
        for file in folder.glob("*token*"):  # they are kept once, beside the folders
            file.unlink()
        reading = Path(place) / name
        shutil.copytree(folder, reading)
        Files(tokens).save_pretrained(reading)
        model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{reading}")
        tokenizer = open_clip.get_tokenizer(f"local-dir:{reading}")
        texts = list(dict.fromkeys([*NASTY, *strings(COUNT, seed)]))
        ids = tokenizer(texts)
    model.eval().double()
    rng = np.random.default_rng([seed, 7])
    pixels = rng.integers(0, 256, (2, 3, 32, 32)).astype(np.float32) / 128 - 1  # exact, and small in a file
    rows = np.concatenate([ids[:3].numpy(), rng.integers(0, config["text_cfg"]["vocab_size"], (2, 16))])
    with torch.no_grad():
        image = model.encode_image(torch.from_numpy(pixels).double())
        text = model.encode_text(torch.from_numpy(rows))
        logits, _ = model.get_logits(torch.from_numpy(pixels).double(), torch.from_numpy(rows))
    arrays = {"pixels": pixels, "ids": rows, "image": image.numpy(), "text": text.numpy(), "logits": logits.numpy()}
    found = pictures(transform) if name == "siglip" else {}  # the others' transform is the same
    return arrays | found, [[text, fix_text(text), row] for text, row in zip(texts, ids.tolist(), strict=True)]


class Files:
    """What `save_for_hf` asks to write a tokenizer: here, to copy one."""

    def __init__(self, folder):
        self.folder = folder

    def save_pretrained(self, folder):
        """As a tokenizer does."""
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (self.folder / name).exists():
                shutil.copyfile(self.folder / name, Path(folder) / name)


def make_timm(name, seed):
    """golden/openclip/NAME, an image tower alone, and what it computes."""
    options = {"num_classes": 0} if name == "gap" else {"num_classes": 3}
    architecture = "vit_so400m_patch16_siglip_gap_256" if name == "gap" else "vit_base_patch16_siglip_224"
    model = randomize(timm.create_model(architecture, **options), seed)
    folder = FOLDER / name
    changed = {"crop_pct": 1.0, "crop_mode": "squash"} if name == "classes" else {}
    labels = {"label_names": ["ant", "bee", "cow"]} if name == "classes" else {}
    timm.models.save_for_hf(
        model.half(), folder, safe_serialization=True, model_config=labels,
        data_config=resolve_model_data_config(model) | {"input_size": (3, 32, 32)} | changed,
    )  # fmt: skip
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    pixels = np.random.default_rng([seed, 7]).integers(0, 256, (2, 3, 32, 32)).astype(np.float32) / 128 - 1
    model = model.double()
    with torch.no_grad():
        found = model(torch.from_numpy(pixels).double()).numpy()
    return {"pixels": pixels, "image": found} | pictures(lambda image: transform(image.convert("RGB")), ("RGB", "RGBA"))


def pictures(transform, modes=MODES):
    """The pixels of pictures of every mode, float32."""
    found = {}
    for i, (height, width) in enumerate(SIZES):
        for mode in modes if not i else ("RGB",):
            found[f"picture.{mode}.{height}x{width}"] = transform(pil_image(SEED + i, mode, height, width)).numpy()
    return found


def main():
    """Everything below golden/openclip, and its lines of manifest.json."""
    torch.set_num_threads(1)
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    make_tokenizer(FOLDER)
    narrow("vit_base_patch16_siglip_224")
    narrow("vit_so400m_patch16_siglip_256", embed_dim=32)
    narrow("vit_so400m_patch16_siglip_gap_256", embed_dim=32, depth=1)
    arrays, tokens = {}, {}
    for i, name in enumerate(OPEN_CLIP):
        found, tokens[name] = make_open_clip(name, SEED + i)
        arrays |= {f"{name}.{key}": value for key, value in found.items()}
    for i, name in enumerate(("gap", "classes")):
        arrays |= {f"{name}.{key}": value for key, value in make_timm(name, SEED + 100 + i).items()}
    np.savez_compressed(FOLDER / "golden.npz", **arrays)
    packages = ("open_clip_torch", "timm", "torch", "torchvision", "transformers", "tokenizers", "ftfy", "pillow")
    content = {"versions": {name: version(name) for name in packages}, "seed": SEED}
    content["tokens"] = {"t5": tokens["siglip"], "gemma": tokens["siglip2"]}
    (FOLDER / "golden.json").write_text(json.dumps(content, ensure_ascii=True, separators=(",", ":")) + "\n")
    files = [path for path in FOLDER.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)
    manifest.replace("openclip/", files)


if __name__ == "__main__":
    main()
