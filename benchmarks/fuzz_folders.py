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
import copy
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
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

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
VALUES = (
    *(None, True, False, 0, 1, -1, 2, 3, 7, 36.0, 1e-5, 1e300, float("nan"), float("inf"), 10**9, 10**40, -(2**63)),
    *("", "3", "36", "true", "false", "siglip", "siglip2", "clip", "\u0661", [], [3], [[3]], {}, {"a": 1}, ["a", "b"]),
)
NAMES = (
    *("model.safetensors", "tokenizer.json", "tokenizer.model", "added_tokens.json", "special_tokens_map.json"),
    *("processor_config.json", "modules.json", "adapter_config.json"),
)
# Keys whose change to another valid value asks for other results; "" is any depth below it.
SAYS_SO = {
    *("num_attention_heads", "layer_norm_eps", "resample", "image_mean", "image_std", "rescale_factor", "do_resize"),
    *("do_rescale", "do_normalize", "do_convert_rgb", "do_lower_case", "eos_token", "unk_token", "pad_token"),
    *("id2label", "problem_type", "max_num_patches"),
}


class Case(NamedTuple):
    """What was done to a copy of a model, and whether other results are what it asks for."""

    what: str
    allowed: bool = False


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


# Damage. Each takes the folder and random numbers, changes files, and says what it did.


def _pick(rng: np.random.Generator, options: Any) -> Any:
    options = list(options)
    return options[int(rng.integers(len(options)))]


def damage_file(folder: Path, rng: np.random.Generator) -> Case:
    """Drop, rename, empty, cut, flip, lengthen, replace."""
    path = _pick(rng, sorted(folder.iterdir()))
    data = path.read_bytes()
    kind = _pick(
        rng, ("drop", "rename", "empty", "cut", "flip", "append", "folder", "text", "lfs", "swap", "duplicate")
    )
    what = f"{kind} {path.name}"
    if kind == "drop":
        path.unlink()
        return Case(what, path.name == "tokenizer_config.json")  # a vocabulary alone has the usual settings
    if kind == "rename":
        path.rename(folder / f"{path.name}.bak")
        return Case(what, path.name == "tokenizer_config.json")
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "swap":
        other = _pick(rng, sorted(folder.iterdir()))
        shutil.copy(other, path)
        what += f" for {other.name}"
    elif kind == "duplicate":
        name = _pick(rng, NAMES)
        if not (folder / name).exists():
            shutil.copy(path, folder / name)
        what += f" as {name}"
    elif kind == "cut":
        path.write_bytes(data[: int(rng.integers(len(data)))])
    elif kind == "flip":
        changed, at = bytearray(data), int(rng.integers(len(data)))
        if rng.random() < 0.5 and path.suffix == ".safetensors":
            at = int(rng.integers(8 + int.from_bytes(data[:8], "little")))  # in the header
        changed[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        what += f" at {at}"
        inside = path.suffix == ".safetensors" and at >= 8 + int.from_bytes(data[:8], "little")
        # other weights or another vocabulary: nothing there can tell
        vocabulary = path.suffix in (".npz", ".model") or path.name == "tokenizer.json"
        return Case(what, inside or vocabulary or (path.suffix == ".json" and _says_so(data, bytes(changed))))
    else:
        more = {
            "empty": b"",
            "append": data + b"\0x",
            "text": b"not found\n",
            "lfs": b"version https://git-lfs.github.com/\n",
        }
        path.write_bytes(more[kind])
    return Case(what)


def _paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [at] if at else []
    if isinstance(value, dict):
        for key in list(value)[:40]:
            found += _paths(value[key], (*at, key))
    if isinstance(value, list):
        for i in range(min(len(value), 3)):
            found += _paths(value[i], (*at, i))
    return found


def _leaves(value: Any, at: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], str]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {k: v for key, inside in items for k, v in _leaves(inside, (*at, key)).items()} or {at: repr(value)}


def _says_so(before: bytes, after: bytes) -> bool:
    """Whether two JSON texts differ at a key whose value asks for other results."""
    try:
        a, b = _leaves(json.loads(before)), _leaves(json.loads(after))
    except (ValueError, RecursionError):
        return False
    return any(set(at) & SAYS_SO for at in a.keys() | b.keys() if a.get(at) != b.get(at))


def damage_json(folder: Path, rng: np.random.Generator) -> Case:
    """Drop, rename, retype or repeat a key."""
    path = _pick(rng, sorted(folder.glob("*.json")))
    content = json.loads(path.read_text(encoding="utf-8"))
    at = _pick(rng, _paths(content))
    kind = _pick(rng, ("drop", "rename", "value", "value", "value", "text", "float", "repeat"))
    parent = content
    for step in at[:-1]:
        parent = parent[step]
    last, old = at[-1], copy.deepcopy(parent[at[-1]])
    what = f"{path.name}: {kind} {'.'.join(map(str, at))}"
    says_so = any(step in SAYS_SO for step in at)
    if path.name == "tokenizer.json":
        says_so = True  # the vocabulary itself
    if kind == "drop" or (kind in ("rename", "repeat") and isinstance(parent, list)):
        del parent[last]
    elif kind == "rename":
        parent[f"{last}x"] = parent.pop(last)
    elif kind == "repeat":
        marker = "\u0000repeat"
        parent[marker] = _pick(rng, VALUES)
        text = json.dumps(content).replace(json.dumps(marker), json.dumps(last))
        path.write_text(text, encoding="utf-8")
        return Case(f"{what} as {parent[marker]!r:.40}")
    elif kind == "text":
        parent[last] = json.dumps(old) if not isinstance(old, str) else f"{old} "
    elif kind == "float" and isinstance(old, int):
        parent[last] = float(old) + (0.5 if rng.random() < 0.5 else 0.0)
    else:
        parent[last] = _pick(rng, VALUES)
    path.write_text(json.dumps(content), encoding="utf-8")
    if kind in ("drop", "rename") or (isinstance(parent, list) and last >= len(parent)):
        return Case(what, says_so)
    new = parent[last]
    numbers = (isinstance(x, int | float) and not isinstance(x, bool) for x in (old, new))
    # one number for all channels, and null for false, are what transformers takes, too
    usual = at[0] in ("image_mean", "image_std") or (at[0], new) == ("do_lower_case", None)
    alike = type(new) is type(old) or all(numbers) or usual
    return Case(f"{what}: {old!r:.40} -> {new!r:.40}", says_so and alike)


def damage_tensors(folder: Path, rng: np.random.Generator) -> Case:
    """Drop, rename, transpose, reshape, retype, swap, repeat a tensor, or put numbers in it that are none."""
    path = _pick(rng, [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.npz"))])
    npz = path.suffix == ".npz"
    if npz:
        with np.load(path) as file:
            tensors = {name: file[name] for name in file.files}
    else:
        tensors = load_file(path)
    name = _pick(rng, sorted(tensors))
    value, allowed = tensors[name], False
    kind = _pick(
        rng, ("drop", "rename", "transpose", "axis", "flat", "type", "swap", "repeat", "nan", "slice", "scale", "all")
    )
    what = f"{path.name}: {kind} {name}"
    if kind == "drop":
        del tensors[name]
    elif kind == "rename":
        old, new = _pick(
            rng, (("weight", "weights"), ("layers.0", "layers.2"), ("model", "Model"), ("_", "."), ("0", "00"))
        )
        tensors[name.replace(old, new) if old in name else f"x.{name}"] = tensors.pop(name)
    elif kind == "transpose":
        tensors[name] = np.ascontiguousarray(value.T)
        allowed = value.ndim > 1 and value.shape == value.T.shape
    elif kind == "axis":
        tensors[name] = value[None]
    elif kind == "flat":
        tensors[name] = value.reshape(-1)
    elif kind == "slice":
        tensors[name] = value[:-1].copy() if value.ndim else value
    elif kind in ("type", "all"):
        type_ = _pick(
            rng, (np.float16, np.float64, np.int32, np.int64, np.uint8, bool, *([">f4", object] if npz else []))
        )
        for key in tensors if kind == "all" else [name]:
            tensors[key] = tensors[key].astype(type_)
        what += f" to {type_}"
    elif kind == "swap":
        other = _pick(rng, sorted(key for key in tensors if tensors[key].shape == value.shape))
        tensors[name], tensors[other] = tensors[other], value
        what, allowed = f"{what} with {other}", True
    elif kind == "repeat":
        tensors[f"{name}.copy"] = value
    elif kind == "nan":
        value = value.copy()
        value.reshape(-1)[int(rng.integers(value.size))] = _pick(rng, (np.nan, np.inf, -np.inf))
        tensors[name] = value
    elif kind == "scale":
        tensors[name], allowed = value * np.float32(_pick(rng, (0, 1e-30, 2, -1, 1e4))), True
    if npz:
        np.savez(path, **tensors) if rng.random() < 0.7 else np.savez_compressed(path, **tensors)
    else:
        with safe_open(path, "np") as file:
            metadata = file.metadata()
        save_file(tensors, path, metadata)
    return Case(what, allowed)


DAMAGES = (damage_file, damage_json, damage_json, damage_tensors)


def run_case(number: int, seed: int, models: dict[str, Path], truth: dict[str, dict[str, Any]]) -> tuple[str, str, str]:
    """Outcome, what was done, and what was said of it."""
    rng = np.random.default_rng([seed, number])
    kind = _pick(rng, MODELS)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        folder = Path(shutil.copytree(models[kind], Path(place) / "model"))
        try:
            damage = _pick(rng, DAMAGES)
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
