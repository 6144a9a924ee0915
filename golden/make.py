# /// script
# requires-python = ">=3.11"
# dependencies = [
#     "torch==2.13.0",
#     "transformers==5.23.0",
#     "numpy==2.4.6",
#     "pillow==13.0.0",
#     "safetensors==0.8.0",
#     "sentencepiece==0.2.3",
#     "tokenizers==0.23.3",
#     "protobuf==7.36.2",
# ]
# ///
"""Makes the goldens from Hugging Face's own SiglipModel, tokenizer and image processor: `python golden/make.py`.

Writes golden/tiny (a model folder in Hugging Face's format and golden.safetensors, see README.md), has make_tokens,
make_gemma, make_pixels, make_family and make_builtin write theirs, and ends with manifest.json: versions, seeds and
the sha256 of every file. The second run writes the same bytes as the first. `--spiece` also trains the vocabulary anew.

The tiny model's dimensions are mutually distinct and mostly odd, so that a swapped axis cannot hide, and the patch
does not divide the image. Every weight is overwritten from a NumPy seed: a fresh model has zeros, ones and a flat
attention, with which much goes unnoticed.
"""

import argparse
import importlib
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from sentencepiece import SentencePieceProcessor
from transformers import SiglipConfig, SiglipModel

HERE = Path(__file__).parent
TINY = HERE / "tiny"
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "parity")]

from golden import manifest  # noqa: E402 (the folder has to be on the path)
from tests.parity.hf_taps import hf_model, hf_taps  # noqa: E402 (the folder has to be on the path)

SEED = 20230315
PACKAGES = ["torch", "transformers", "numpy", "pillow", "safetensors", "sentencepiece", "tokenizers"]
NOT_PIECES = 9  # rows of the token table beyond the vocabulary, so that the two sizes cannot be confused

VISION = {
    "hidden_size": 36,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,  # heads of 9
    "intermediate_size": 52,
    "image_size": 38,  # a grid of 5 x 5 patches covers 35 pixels, 3 are left out
    "patch_size": 7,
}
TEXT = {
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 5,  # heads of 8
    "intermediate_size": 56,
    "max_position_embeddings": 24,
    "projection_size": 36,
    "bos_token_id": None,  # the defaults, 49406 and 49407, are CLIP's
    "eos_token_id": 1,
}
LOGIT_SCALE, LOGIT_BIAS = np.log(39.0), -0.8  # probabilities are neither all 0 nor all 1

# B, D, t, bias: one pair alone, as training starts, as it ends, no bias, and logits that saturate either way
LOSS_CASES = (
    (1, 5, 10.0, -10.0),
    (2, 3, 10.0, -10.0),
    (7, 36, 117.3, -12.93),
    (11, 4, 1.0, 0.0),
    (13, 6, 900.0, -30.0),
    (5, 8, 30.0, 45.0),
)


def random_weight(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """A float32 value for a parameter of Hugging Face's state_dict: never zero or one, in a trained model's range."""
    values = rng.standard_normal(shape)
    layer, kind = name.rsplit(".", 1) if "." in name else ("", name)
    if name == "logit_scale":
        values = np.full(shape, LOGIT_SCALE)
    elif name == "logit_bias":
        values = np.full(shape, LOGIT_BIAS)
    elif kind.endswith("bias"):
        values *= 0.2
    elif "norm" in layer:
        values = 1.0 + 0.25 * values
    elif "embedding" not in name and kind != "probe":
        values *= shape[-1] ** -0.5
        if "q_proj" in layer or "k_proj" in layer:
            values *= 1.8  # attention that is not flat
        elif kind == "in_proj_weight":
            values[: 2 * shape[-1]] *= 1.8
    elif "patch_embedding" in layer:
        values *= np.prod(shape[1:]) ** -0.5 * 2.0  # pixels are within [-1, 1]
    elif "position_embedding" in layer:
        values *= 0.6
    return values.astype(np.float32)


def make_model(vocab_size: int) -> SiglipModel:
    """The tiny model, float32, every weight from its own stream of the seed."""
    config = SiglipConfig(vision_config=VISION, text_config=TEXT | {"vocab_size": vocab_size})
    model = SiglipModel(config)
    state = {
        name: torch.from_numpy(random_weight(name, tuple(old.shape), np.random.default_rng([SEED, i])))
        for i, (name, old) in enumerate(sorted(model.state_dict().items()))
    }
    model.load_state_dict(state, strict=True)
    return model


def make_inputs(pieces: int, vocab_size: int) -> dict[str, np.ndarray]:
    """Three images, and four texts: padded, full, empty (all padding), and ids from the ends of the token table."""
    rng = np.random.default_rng([SEED, 1_000_000])
    pixels = rng.uniform(-1.0, 1.0, (3, 3, VISION["image_size"], VISION["image_size"])).astype(np.float32)
    ids = np.ones((4, TEXT["max_position_embeddings"]), np.int64)  # 1 is both </s> and padding
    ids[0, :6] = rng.integers(3, pieces, 6)
    ids[1, :-1] = rng.integers(3, pieces, ids.shape[1] - 1)
    ids[3, :12] = rng.permutation([0, 1, 2, 3, 258, 259, pieces - 1, pieces, vocab_size - 1, 7, 7, 500])
    return {"inputs.pixel_values": pixels, "inputs.input_ids": ids}


def hf_loss(logits_per_text: torch.Tensor) -> torch.Tensor:
    """What SiglipModel returns for return_loss=True; it cannot be called on embeddings alone."""
    y = 2.0 * torch.eye(len(logits_per_text), dtype=logits_per_text.dtype) - 1.0
    return -torch.nn.functional.logsigmoid(y * logits_per_text).sum(dim=-1).mean()


def loss_case(zimg: np.ndarray, ztxt: np.ndarray, t_prime: float, bias: float) -> dict[str, np.ndarray]:
    """Inputs, loss and torch autograd's gradients of B pairs, in double."""
    leaves = {
        name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
        for name, value in {"zimg": zimg, "ztxt": ztxt, "t_prime": t_prime, "bias": bias}.items()
    }
    zimg_, ztxt_, t_prime_, bias_ = leaves.values()
    loss = hf_loss(ztxt_ @ zimg_.T * t_prime_.exp() + bias_)
    loss.backward()
    case = {"loss": loss.detach().numpy()}
    for name, leaf in leaves.items():
        case |= {name: leaf.detach().numpy(), f"d_{name}": leaf.grad.numpy()}
    return case


def unit_rows(size: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """[B, D] random directions."""
    z = rng.standard_normal((size, width))
    return z / np.linalg.norm(z, axis=-1, keepdims=True)


def make_losses(model: SiglipModel, inputs: dict, taps: dict) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """`model`: the tiny model's own three pairs, checked against what it returns; then LOSS_CASES by number."""
    pairs = len(taps["zimg"])
    case = loss_case(
        taps["zimg"], taps["ztxt"][:pairs], model.logit_scale.double().item(), model.logit_bias.double().item()
    )
    with torch.no_grad():
        own = model(
            pixel_values=torch.from_numpy(inputs["inputs.pixel_values"]),
            input_ids=torch.from_numpy(inputs["inputs.input_ids"][:pairs]),
            return_loss=True,
        ).loss
    np.testing.assert_allclose(case["loss"], own.numpy(), rtol=1e-13)
    yield "model", case
    for i, (size, width, t, bias) in enumerate(LOSS_CASES):
        rng = np.random.default_rng([SEED, 2_000_000, i])
        # matched pairs resemble each other a little, as in training
        zimg, ztxt = unit_rows(size, width, rng), unit_rows(size, width, rng)
        ztxt = (ztxt + 0.7 * zimg) / np.linalg.norm(ztxt + 0.7 * zimg, axis=-1, keepdims=True)
        yield f"{i}", loss_case(zimg, ztxt, float(np.log(t)), bias)


def make_tiny() -> None:
    """golden/tiny/{config.json,model.safetensors,golden.safetensors}."""
    pieces = len(SentencePieceProcessor(model_file=str(TINY / "spiece.model")))
    make_model(pieces + NOT_PIECES).save_pretrained(TINY)
    model = hf_model(TINY, torch.float64)  # what was saved, in double
    arrays = make_inputs(pieces, pieces + NOT_PIECES)
    taps = hf_taps(model, arrays["inputs.pixel_values"], arrays["inputs.input_ids"])
    losses = dict(make_losses(model, arrays, taps))
    arrays |= {f"taps.{name}": value for name, value in taps.items()}
    arrays |= {f"loss.{case}.{k}": np.asarray(v) for case, values in losses.items() for k, v in values.items()}
    save_file({name: arrays[name].copy(order="C") for name in sorted(arrays)}, TINY / "golden.safetensors")


def golden_files() -> list[Path]:
    """Every golden file: what is in this folder, but for the scripts, their README and the manifest itself."""
    return sorted(
        path
        for path in HERE.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc", ".md"} and path.name != "manifest.json"
    )


def write_manifest(seeds: dict[str, int]) -> None:
    """manifest.json; file names sorted, relative to this folder."""
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    manifest.write({"versions": versions, "seeds": seeds, "files": manifest.entries(golden_files())})


def main() -> None:
    """All goldens, in the order in which they need each other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spiece", action="store_true", help="train golden/tiny/spiece.model anew")
    options = parser.parse_args()
    torch.set_num_threads(1)  # one order of summation

    make_spiece, make_tokens, make_gemma, make_pixels, make_family, make_builtin = (
        importlib.import_module(f"golden.make_{name}")
        for name in ("spiece", "tokens", "gemma", "pixels", "family", "builtin")
    )
    if options.spiece:
        make_spiece.main()
    make_tiny()
    make_tokens.main()
    make_gemma.main()
    make_pixels.main()
    make_family.main()
    make_builtin.main()
    modules = {"make": sys.modules[__name__]} | {
        module.__name__.removeprefix("golden."): module
        for module in (make_spiece, make_tokens, make_gemma, make_pixels, make_family)
    }
    write_manifest({name: module.SEED for name, module in modules.items()})


if __name__ == "__main__":
    main()
