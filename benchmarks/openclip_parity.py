"""npsiglip against open_clip at full size: `python benchmarks/openclip_parity.py FOLDER [NAME ...]`.

Runs where open_clip_torch and timm are installed, beside npsiglip. For each model of `MODELS`, open_clip builds it with
random weights and writes a folder with `save_for_hf`; both then read that folder, and are compared:

    float64     the reference and open_clip in double precision, with open_clip's own GELU in each tower, and with tanh
                in both, for which open_clip's modules are exchanged: relative L2 of both embeddings, at most 1e-12
    float32     kernels and torch, both against open_clip in double: the error of the first over that of the second
    ids         of generated strings, all equal
    pixels      of generated pictures of many modes, all bits equal

With `--written` the other way: npsiglip converts a folder of Hugging Face's format, with an image tower of B/16 and a
small text tower, to open_clip's, and open_clip reads it; so does timm a tower alone.

The tokenizers are small ones of the goldens, with ids from the start of the table; ids for the towers are spread over
all of it. Folders are removed again.
"""

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

import numpy as np
import open_clip
import timm
import torch
from open_clip.push_to_hf_hub import save_for_hf
from torch import nn

from golden.make_openclip import NASTY, Files
from golden.pictures import pil_image
from golden.random_folder import write
from golden.strings import strings
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import GELU_ERF, GELU_TANH, SigLIPConfig, TextConfig
from npsiglip.convert.formats import convert
from npsiglip.formats.told import OPEN_CLIP, Told
from npsiglip.metrics import relative_l2
from npsiglip.model import SigLIP
from npsiglip.reference import image_tower, text_tower
from npsiglip.variants import variant

ROOT = Path(__file__).parents[1]
MODELS = ("ViT-B-16-SigLIP", "ViT-SO400M-14-SigLIP", "ViT-SO400M-16-SigLIP-i18n-256", "ViT-B-16-SigLIP2")
BOUND = 1e-12
SEED = 20260927
STRINGS = 2000
MODES = ("RGB", "L", "LA", "RGBA", "P", "CMYK", "1", "I;16", "YCbCr", "HSV", "LAB", "F", "I")


class Wide(Mapping):
    """Parameters in float64, made when they are asked for: at full size all of them are many gigabytes."""

    def __init__(self, checkpoint):
        self.checkpoint = checkpoint

    def __getitem__(self, name):
        return np.asarray(self.checkpoint[name], np.float64)

    def __iter__(self):
        return iter(self.checkpoint)

    def __len__(self):
        return len(self.checkpoint)


def tanh_everywhere(module):
    """Give every GELU of a module its tanh form."""
    for name, child in module.named_children():
        if "gelu" in type(child).__name__.lower():
            setattr(module, name, nn.GELU(approximate="tanh"))
        else:
            tanh_everywhere(child)


def weighted(model, seed):
    """Random weights at the scale of a trained model, rounded to float32."""
    with torch.no_grad():
        for i, (name, value) in enumerate(sorted(model.named_parameters())):
            rng = np.random.default_rng([seed, i])
            noise = torch.from_numpy(rng.standard_normal(value.shape, np.float32))
            if value.ndim == 0:
                noise = torch.tensor(4.7 if name == "logit_scale" else -12.9)
            elif "norm" in name or "ln_" in name:
                noise = (1.0 if name.endswith("weight") else 0.0) + 0.2 * noise
            elif value.ndim == 4 or (value.ndim == 2 and "embed" not in name):
                noise *= value[0].numel() ** -0.5 * (1.4 if "qkv" in name or "in_proj" in name else 1.0)
            elif value.ndim == 1:
                noise *= 0.1
            value.copy_(noise)
    return model


def outputs(tower, inputs):
    """Of a tower, one input at a time: float64 [N, D]."""
    with torch.no_grad():
        return np.concatenate([tower(item[None]).double().numpy() for item in inputs])


def compare_tower(name, module, inputs, wide_inputs, checkpoint, model, images):
    """Numbers of one tower: float64 with both forms of GELU, and float32."""
    config, run = (checkpoint.config.image, image_tower) if images else (checkpoint.config.text, text_tower)
    encode = model.encode_image if images else model.encode_text
    torch_single = outputs(module, inputs)
    module.double()
    truth = outputs(module, wide_inputs)
    tanh_everywhere(module)
    truth_tanh = outputs(module, wide_inputs)
    array = inputs.numpy()
    params = Wide(checkpoint)
    reference = np.concatenate([run(params, config, row[None]) for row in array])
    tanh = Checkpoint.open(checkpoint.source, told=Told("tanh")).config
    tanh_config = tanh.image if images else tanh.text
    assert tanh_config.activation == GELU_TANH
    reference_tanh = np.concatenate([run(params, tanh_config, row[None]) for row in array])
    kernels = encode(array, normalize=False)
    assert np.isfinite(kernels).all()
    found = {
        "activation": config.activation,
        "double": relative_l2(reference, truth),
        "double, tanh": relative_l2(reference_tanh, truth_tanh),
        "forms apart": relative_l2(truth_tanh, truth),
        "float32 npsiglip": relative_l2(kernels, truth),
        "float32 torch": relative_l2(torch_single, truth),
    }
    found["ratio"] = found["float32 npsiglip"] / found["float32 torch"]
    return found


def check(name, place, count):
    """All comparisons of one model, on `count` images and twice as many texts."""
    began = time.time()
    folder = place / name
    model, _, _ = open_clip.create_model_and_transforms(
        name, image_mean=(0.5,) * 3, image_std=(0.5,) * 3, image_resize_mode="squash", load_weights=False
    )
    config = open_clip.get_model_config(name)
    siglip2 = "SigLIP2" in name
    save_for_hf(
        weighted(model, SEED), Files(ROOT / "golden" / ("gemma" if siglip2 else "openclip")), config, folder,
        safe_serialization=True,
    )  # fmt: skip
    del model
    gc.collect()
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    model.eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    checkpoint, ours = Checkpoint.open(folder), SigLIP.from_pretrained(folder)
    texts = [*NASTY, *strings(STRINGS, SEED)]
    ids = tokenizer(texts).numpy()
    different = [text for text, row, own in zip(texts, ids, ours.tokenizer(texts), strict=True) if (row != own).any()]
    unequal = [
        mode
        for i, mode in enumerate(MODES)
        for height, width in ((480, 640), (613, 409), (100, 90))
        if not np.array_equal(
            transform(picture := pil_image(SEED + i, mode, height, width)).numpy(), ours.processor(picture)[0]
        )
    ]
    rng = np.random.default_rng(SEED)
    size, text = checkpoint.config.image.image_size, checkpoint.config.text
    pixels = torch.from_numpy(rng.uniform(-1, 1, (count, 3, size, size)).astype(np.float32))
    rows = np.concatenate([ids[:count], rng.integers(0, text.vocab_size, (count, text.seq_len))])
    rows = torch.from_numpy(rows)
    found = {"text": compare_tower("text", model.text, rows, rows, checkpoint, ours, images=False)}
    model.text = None
    gc.collect()
    found["image"] = compare_tower("image", model.visual, pixels, pixels.double(), checkpoint, ours, images=True)
    shutil.rmtree(folder)
    found |= {"strings": len(texts), "ids different": different}
    found |= {"pictures": 3 * len(MODES), "pixels different": unequal, "seconds": round(time.time() - began)}
    return found


def check_written(place):
    """What npsiglip writes, as open_clip and timm read it, in double precision, and the ids that open_clip makes."""
    image = variant("siglip-base-patch16-224").image
    text = TextConfig(48, 2, 4, 112, 16, 1051, image.width, activation=GELU_TANH)
    config = SigLIPConfig(replace(image, activation=GELU_ERF), text)
    write(place / "hf", config, SEED)
    convert(place / "hf", place / "open_clip", to=OPEN_CLIP, tokenizer=ROOT / "golden" / "gemma")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{place / 'open_clip'}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{place / 'open_clip'}")
    ours = SigLIP.from_pretrained(place / "open_clip")
    texts = strings(STRINGS, SEED)
    ids, own = tokenizer(texts).numpy(), ours.tokenizer(texts)
    rng = np.random.default_rng(SEED)
    pixels = rng.uniform(-1, 1, (1, 3, 224, 224))
    params = Wide(Checkpoint.open(place / "hf"))
    picture = pil_image(SEED, "RGB", 480, 640)
    model = model.double().eval()
    found = {
        "image": relative_l2(
            image_tower(params, config.image, pixels), outputs(model.visual, torch.from_numpy(pixels))
        ),
        "text": relative_l2(text_tower(params, text, own[:2]), outputs(model.text, torch.from_numpy(own[:2]))),
        "ids different": [text for text, row, mine in zip(texts, ids, own, strict=True) if (row != mine).any()],
        "pixels equal": bool(np.array_equal(transform(picture).numpy(), ours.processor(picture)[0])),
    }
    alone = SigLIPConfig(replace(image, head=False, activation=GELU_ERF), None)
    write(place / "hf-image", alone, SEED)
    convert(place / "hf-image", place / "timm", to=OPEN_CLIP)
    tower = timm.create_model(f"local-dir:{place / 'timm'}", pretrained=True).double().eval()
    mean = replace(alone.image, mean=True)
    params = Wide(Checkpoint.open(place / "hf-image"))
    found["timm, mean"] = relative_l2(image_tower(params, mean, pixels), outputs(tower, torch.from_numpy(pixels)))
    for name in ("hf", "open_clip", "hf-image", "timm"):
        shutil.rmtree(place / name)
    return found


def main():
    """The command line; exits with 1 if a bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="where models are written, up to 5 GB at a time")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of open_clip; default: {', '.join(MODELS)}")
    parser.add_argument("--inputs", type=int, default=1, help="images for the towers, and twice as many texts")
    parser.add_argument("--written", action="store_true", help="what npsiglip writes, instead")
    options = parser.parse_args()
    if options.written:
        print(json.dumps({"written": check_written(options.folder)}, indent=2))
        return
    failed = False
    for name in options.names or MODELS:
        found = check(name, options.folder, options.inputs)
        print(json.dumps({name: found}, indent=2), flush=True)
        for tower in ("image", "text"):
            failed |= max(found[tower]["double"], found[tower]["double, tanh"]) > BOUND or found[tower]["ratio"] > 1
        failed |= bool(found["ids different"] or found["pixels different"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
