"""Damages model folders in thousands of ways: each must be refused with a message, or give the right embeddings.

Four models: the tiny golden one, a SigLIP 2 with Gemma's tokenizer, a classifier, and big_vision's npz. A case drops,
renames, truncates, retypes, duplicates or replaces a file, a key or value of a JSON file, or a tensor. What comes out
is one of these:

    refused   a `NpsiglipError` with a message, when the model is loaded or when it is used
    equal     the results of the undamaged model
    told      other results, and a warning
    allowed   other results, of a change that says so: another finite weight, another filter, another number of heads
    wrong     other results in silence
    broken    any other exception

The last two are faults. Run it with:  python benchmarks/fuzz_folders.py --cases 2000 --seed 1
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

from benchmarks.fuzz_damages import DAMAGES, pick
from npsiglip import Checkpoint, SigLIP, SigLIPConfig, save_folder
from npsiglip.config import ClassifierConfig, ImageConfig, TextConfig
from npsiglip.errors import NpsiglipError
from npsiglip.params import random_params
from npsiglip.save import save_npz

ROOT = Path(__file__).parent.parent
TINY, GEMMA = ROOT / "golden" / "tiny", ROOT / "golden" / "gemma"
PICTURE = Image.fromarray(np.random.default_rng(1).integers(0, 256, (30, 50, 3), np.uint8))
TEXTS = ["A photo of a cat.", "two dogs, running", ""]
WIDTHS = {"width": 12, "depth": 2, "num_heads": 3, "mlp_dim": 20}
SMALL = ImageConfig(**WIDTHS, image_size=16, patch_size=4)


def results(source: Path) -> dict[str, Any]:
    """Everything that a model gives for a picture, pixels and texts; and what was said."""
    model = SigLIP.from_pretrained(source, threads=1)
    found: dict[str, Any] = {}
    if image := model.config.image:
        size = image.image_size
        pixels = np.random.default_rng(2).uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
        for name, given in {"pixels": pixels, "picture": [PICTURE]}.items():
            found[name] = model.encode_image(given)
            if model.config.classifier:
                found[f"classes of {name}"] = model.classify(given)
    if model.config.text:
        ids = np.arange(1, model.config.text.seq_len + 1)[None] % 30
        found["ids"] = model.encode_text(ids)
        if model.tokenizer:
            found["texts"] = model.encode_text(TEXTS)
        found["logits"] = model.compare(found["pixels"], found["ids"]).logits_per_image
    return found


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Equal results; to a rounding of float16 and bfloat16, in which a case may have stored the weights."""
    if a.keys() != b.keys():
        return False
    for name, value in a.items():
        if isinstance(value, np.ndarray):
            close = value.shape == b[name].shape and np.allclose(
                value, b[name], rtol=0.03, atol=0.03 * np.abs(value).max()
            )
        else:
            (mine, other) = ({score["label"]: score["score"] for score in scores[0]} for scores in (value, b[name]))
            close = mine.keys() == other.keys() and all(abs(mine[label] - other[label]) < 0.03 for label in mine)
        if not close:
            return False
    return True


# Models


def _tiny(folder: Path) -> Path:
    return Path(shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("golden.safetensors")))


def _gemma(folder: Path) -> Path:
    text = TextConfig(**WIDTHS, seq_len=16, vocab_size=1003, projection_dim=12)
    config = SigLIPConfig(SMALL, text)
    save_folder(folder, config, random_params(config, seed=5), max_shard_bytes=30_000)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GEMMA / name, folder)
    settings = {"image_processor_type": "SiglipImageProcessor", "size": {"height": 16, "width": 16}, "resample": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def _classifier(folder: Path) -> Path:
    config = SigLIPConfig(SMALL, None, ClassifierConfig(("cat", "dog", "owl")))
    save_folder(folder, config, random_params(config, seed=6))
    shutil.copy(TINY / "preprocessor_config.json", folder)
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"height": 16, "width": 16}}))
    return folder


def _npz(folder: Path) -> Path:
    checkpoint = Checkpoint.open(TINY)
    assert checkpoint.config.image
    config = replace(checkpoint.config, image=replace(checkpoint.config.image, image_size=35))
    save_npz(folder / "model.npz", config, checkpoint)
    for name in ("spiece.model", "tokenizer_config.json"):
        shutil.copy(TINY / name, folder)
    return folder


MODELS: dict[str, Callable[[Path], Path]] = {"tiny": _tiny, "gemma": _gemma, "classifier": _classifier, "npz": _npz}


def source_of(folder: Path, kind: str) -> Path:
    """What is given to `from_pretrained`."""
    return folder / "model.npz" if kind == "npz" else folder


def run_case(number: int, seed: int, models: dict[str, Path], truth: dict[str, dict[str, Any]]) -> tuple[str, str, str]:
    """Outcome, what was done, and what was said of it."""
    rng = np.random.default_rng([seed, number])
    kind = pick(rng, MODELS)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = Path(shutil.copytree(models[kind], Path(place) / "model"))
        try:
            damage = pick(rng, DAMAGES)
            case = damage(folder, rng)
        except (OSError, KeyError, UnicodeDecodeError, ValueError) as error:
            return "skipped", f"{kind} {error!r}", ""
        what = f"{kind} {case.what}"
        before = len(caught)
        try:
            found = results(source_of(folder, kind))
        except NpsiglipError as error:
            return ("refused", what, str(error)) if str(error).strip() else ("broken", what, "no message")
        except KeyboardInterrupt:
            raise
        except BaseException:  # a panic of a library in Rust is no Exception
            return "broken", what, traceback.format_exc(limit=-3)
        said = " ".join(str(warning.message) for warning in caught[before:])
    expected = truth[kind]
    if "texts" in expected and "texts" not in found:
        expected = {name: value for name, value in expected.items() if name != "texts"}  # no vocabulary: asked for ids
    if same(expected, found):
        return "equal", what, said
    finite = all(np.isfinite(v).all() for v in found.values() if isinstance(v, np.ndarray))
    if finite and (said or case.allowed):
        return "told" if said else "allowed", what, said
    return "wrong", what, said


def run(cases: int, seed: int, show: Callable[[str], None] = print) -> Counter[str]:
    """All cases; faults are shown as they are found."""
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        models = {}
        for kind, make in MODELS.items():
            folder = Path(place) / kind
            if kind == "npz":
                folder.mkdir()
            models[kind] = make(folder)
        truth = {kind: results(source_of(folder, kind)) for kind, folder in models.items()}
        for number in range(cases):
            outcome, what, said = run_case(number, seed, models, truth)
            counts[outcome] += 1
            if outcome in ("wrong", "broken"):
                show(f"{outcome}: case {number} of seed {seed}: {what}\n{said}")
    return counts


def main() -> int:
    """The command; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    start = time.perf_counter()
    counts = run(options.cases, options.seed)
    print(
        ", ".join(f"{name} {count}" for name, count in sorted(counts.items())),
        f"in {time.perf_counter() - start:.0f} s",
    )
    return 1 if counts["wrong"] or counts["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
