"""Our float32 error over transformers' float32 error, tap by tap, over random models of four kinds of weights.

    python benchmarks/float32_errors.py                       all kinds, 9 models of each, 5 minutes on two cores
    python benchmarks/float32_errors.py sharpened --seeds 9    27 models

Both errors are relative L2 distances to the float64 reference, of the same weights and inputs. One ratio is a ratio of
two random numbers; what can be said of an engine is their mean and spread. The kinds:

    mild        the ranges of trained weights (`random_params`)
    outliers    three channels of each residual stream carry 100 times the median, and LayerNorms attenuate them
    spiked      three rows of the weights of each linear layer are 30 times larger, and nothing attenuates them
    sharpened   queries and keys three times larger, so scores nine times: nearly every query sees a few keys

Models are 4 blocks of three widths up to that of B/16, with 36 image tokens and 16 text tokens.

Needs the parity environment (CONTRIBUTING.md).
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity")]

import torch  # noqa: E402

from npsiglip import SigLIP, reference, save_folder  # noqa: E402
from npsiglip.config import ImageConfig, SigLIPConfig, TextConfig  # noqa: E402
from npsiglip.metrics import relative_l2  # noqa: E402
from npsiglip.params import cast, random_params  # noqa: E402
from tests.parity.hf_taps import hf_model, hf_taps  # noqa: E402

KINDS = ("mild", "outliers", "spiked", "sharpened")
WIDTHS = (192, 384, 768)
IMAGES, TEXTS = 4, 8
GROUPS = {
    "attn.probs": r"attn\.probs$",
    "attn.mix": r"attn\.mix$",
    "streams": r"\+(attn|mlp)$",
    "embeddings": r"^z(img|txt)$",
    "logits": r"^logits$",
}


def config_of(width):
    """Four blocks of a width."""
    sizes = {"width": width, "depth": 4, "num_heads": width // 64, "mlp_dim": 4 * width}
    image = ImageConfig(**sizes, image_size=96, patch_size=16)
    return SigLIPConfig(image, TextConfig(**sizes, seq_len=16, vocab_size=1000, projection_dim=width))


def weights(kind, config, seed):
    """Random parameters of a kind."""
    params = random_params(config, seed, outlier=100.0 if kind == "outliers" else 1.0)
    for name, value in params.items():
        if kind == "sharpened" and re.search(r"blocks.*attn\.[qk]\.", name):
            value *= np.float32(3)
        if kind == "spiked" and re.search(r"blocks.*\.w$", name):
            value[[len(value) // 7, len(value) // 3, -2]] *= np.float32(30)
    return params


def ratios(kind, width, seed):
    """Tap -> our error over transformers'."""
    config = config_of(width)
    params = weights(kind, config, seed)
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(-1, 1, (IMAGES, 3, 96, 96)).astype(np.float32)
    ids = rng.integers(0, 1000, (TEXTS, 16))
    truth, found = {}, {}
    reference.siglip(cast(params, np.float64), config, pixels, ids, truth)
    ours = SigLIP(config, params).trace(pixels, ids)
    with tempfile.TemporaryDirectory() as folder:
        save_folder(Path(folder) / "model", config, params)
        theirs = hf_taps(hf_model(Path(folder) / "model", torch.float32), pixels, ids)
    for name, tap in truth.items():
        error = relative_l2(theirs[name], tap)
        if error > 0 and name != "probs":  # of 32 numbers near zero
            found[name] = relative_l2(ours[name], tap) / error
    return found


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--seeds", type=int, default=3, help="models of each of the three widths")
    options = parser.parse_args()
    print("kind       models  geometric mean of taps, of models: least, middle, largest    taps above 1  worst tap")
    for kind in options.kinds or KINDS:
        models = [ratios(kind, width, seed) for seed in range(options.seeds) for width in WIDTHS]
        means = sorted(float(np.exp(np.mean(np.log(list(model.values()))))) for model in models)
        taps = [(ratio, name) for model in models for name, ratio in model.items()]
        overall = float(np.exp(np.mean([np.log(ratio) for ratio, _ in taps])))
        above = np.mean([ratio > 1 for ratio, _ in taps])
        print(
            f"{kind:10} {len(models):6} {overall:15.2f} {means[0]:21.2f} {means[len(means) // 2]:6.2f} {means[-1]:6.2f}"
            f" {above:19.1%}  {max(taps)[0]:.2f} {max(taps)[1]}",
            flush=True,
        )
        for group, pattern in GROUPS.items():
            some = [ratio for ratio, name in taps if re.search(pattern, name)]
            print(f"           {group:10} {np.exp(np.mean(np.log(some))):6.2f}, largest {max(some):.2f}", flush=True)


if __name__ == "__main__":
    main()
