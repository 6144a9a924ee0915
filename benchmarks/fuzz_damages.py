"""How `benchmarks/fuzz_folders.py` damages a model folder: its files, its JSON, its tensors."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

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


# Damage. Each takes the folder and random numbers, changes files, and says what it did.


def pick(rng: np.random.Generator, options: Any) -> Any:
    options = list(options)
    return options[int(rng.integers(len(options)))]


def damage_file(folder: Path, rng: np.random.Generator) -> Case:
    """Drop, rename, empty, cut, flip, lengthen, replace."""
    path = pick(rng, sorted(folder.iterdir()))
    data = path.read_bytes()
    kind = pick(rng, ("drop", "rename", "empty", "cut", "flip", "append", "folder", "text", "lfs", "swap", "duplicate"))
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
        other = pick(rng, sorted(folder.iterdir()))
        shutil.copy(other, path)
        what += f" for {other.name}"
    elif kind == "duplicate":
        name = pick(rng, NAMES)
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
    path = pick(rng, sorted(folder.glob("*.json")))
    content = json.loads(path.read_text(encoding="utf-8"))
    at = pick(rng, _paths(content))
    kind = pick(rng, ("drop", "rename", "value", "value", "value", "text", "float", "repeat"))
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
        parent[marker] = pick(rng, VALUES)
        text = json.dumps(content).replace(json.dumps(marker), json.dumps(last))
        path.write_text(text, encoding="utf-8")
        return Case(f"{what} as {parent[marker]!r:.40}")
    elif kind == "text":
        parent[last] = json.dumps(old) if not isinstance(old, str) else f"{old} "
    elif kind == "float" and isinstance(old, int):
        parent[last] = float(old) + (0.5 if rng.random() < 0.5 else 0.0)
    else:
        parent[last] = pick(rng, VALUES)
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
    path = pick(rng, [*sorted(folder.glob("*.safetensors")), *sorted(folder.glob("*.npz"))])
    npz = path.suffix == ".npz"
    if npz:
        with np.load(path) as file:
            tensors = {name: file[name] for name in file.files}
    else:
        tensors = load_file(path)
    name = pick(rng, sorted(tensors))
    value, allowed = tensors[name], False
    kind = pick(
        rng, ("drop", "rename", "transpose", "axis", "flat", "type", "swap", "repeat", "nan", "slice", "scale", "all")
    )
    what = f"{path.name}: {kind} {name}"
    if kind == "drop":
        del tensors[name]
    elif kind == "rename":
        old, new = pick(
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
        type_ = pick(
            rng, (np.float16, np.float64, np.int32, np.int64, np.uint8, bool, *([">f4", object] if npz else []))
        )
        for key in tensors if kind == "all" else [name]:
            tensors[key] = tensors[key].astype(type_)
        what += f" to {type_}"
    elif kind == "swap":
        other = pick(rng, sorted(key for key in tensors if tensors[key].shape == value.shape))
        tensors[name], tensors[other] = tensors[other], value
        what, allowed = f"{what} with {other}", True
    elif kind == "repeat":
        tensors[f"{name}.copy"] = value
    elif kind == "nan":
        value = value.copy()
        value.reshape(-1)[int(rng.integers(value.size))] = pick(rng, (np.nan, np.inf, -np.inf))
        tensors[name] = value
    elif kind == "scale":
        tensors[name], allowed = value * np.float32(pick(rng, (0, 1e-30, 2, -1, 1e4))), True
    if npz:
        np.savez(path, **tensors) if rng.random() < 0.7 else np.savez_compressed(path, **tensors)
    else:
        with safe_open(path, "np") as file:
            metadata = file.metadata()
        save_file(tensors, path, metadata)
    return Case(what, allowed)


DAMAGES = (damage_file, damage_json, damage_json, damage_tensors)
