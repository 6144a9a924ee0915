"""The debug trees of transformers (`model_addition_debugger_context`) as tensors under Hugging Face's names.

A tree is JSON: a node is a call of a module, with `module_path`, `inputs`, `outputs` of modules without children, and
`children`. With `use_repr=False` a tensor is a file beside it, named in `value`; otherwise it is a print of a few of
its numbers, from which nothing can be told. What goes into a module is often what another gave: it gets that name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from npsiglip.errors import InputError
from npsiglip.verify.names import ours_of

Array = NDArray[Any]
FULL, SUMMARY = "_debug_tree_FULL_TENSORS.json", "_debug_tree_SUMMARY.json"
_LAYER = re.compile(r"(.*\.layers\.)(\d+)")
_AGAIN = (
    "write it again with model_addition_debugger_context(model, debug_path=..., do_prune_layers=False, use_repr=False)"
)


def tree_of(path: Path) -> Path | None:
    """The file of a tree: of a folder, or of either of its two files; None if this is none.

    Raises:
        InputError: a folder with several trees.
    """
    if path.is_file():
        full = path.with_name(path.name.removesuffix(SUMMARY) + FULL)
        return (full if full.is_file() else path) if path.name.endswith((FULL, SUMMARY)) else None
    found = sorted(path.glob(f"*{FULL}")) or sorted(path.glob(f"*{SUMMARY}"))
    if len(found) > 1:
        raise InputError(f"{path} holds {len(found)} debug trees: give one, such as {found[0].name}")
    return found[0] if found else None


def _tensors(value: Any, kwarg: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """The tensors in what a module took or gave, each with the keyword that it came with."""
    if isinstance(value, dict) and {"shape", "dtype"} <= set(value):
        yield kwarg, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, "" if key in ("args", "kwargs") else key)
    elif isinstance(value, list):
        for part in value:
            yield from _tensors(part, kwarg)


def _walk(node: dict[str, Any], last: dict[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and tensors, in the order of the calls. `last`: the last layer of each tower so far."""
    name = str(node.get("module_path", "")).partition(".")[2]
    took = list(_tensors(node.get("inputs")))
    if not name:
        yield from ((kwarg, tensor) for kwarg, tensor in took if kwarg in ("pixel_values", "input_ids"))
    elif took and ours_of(source := _source(name, last), "hf"):
        yield source, took[0][1]
    if _LAYER.fullmatch(name):
        last[name.split(".")[0]] = name
    for child in node.get("children") or ():
        yield from _walk(child, last)
    gave = list(_tensors(node.get("outputs")))
    if name and gave:
        yield name, gave[0][1]


def _source(name: str, last: dict[str, str]) -> str:
    """What to call that which goes into a module."""
    if (match := _LAYER.fullmatch(name)) and int(match[2]):
        return f"{match[1]}{int(match[2]) - 1}"
    tower = name.split(".")[0]
    if name.endswith(("post_layernorm", "final_layer_norm")) and tower in last:
        return last[tower]
    return f"{name}.input"


def _read(folder: Path, value: str) -> Array:
    file = (folder / value).resolve()
    if not file.is_relative_to(folder.resolve()) or file.suffix != ".safetensors":
        raise ValueError(f"{value} is no safetensors file beside the tree")
    with safe_open(file, "np") as opened:
        names = list(opened.keys())
        if len(names) != 1:
            raise ValueError(f"{value} holds {len(names)} tensors instead of one")
        return np.asarray(opened.get_tensor(names[0]))


def read_tree(path: Path) -> dict[str, Callable[[], Array]]:
    """Names and what reads each; tensors are in files beside the tree.

    Raises:
        InputError: the tree is damaged, or holds no tensors but prints of them.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        nodes = list(_walk(dict(tree), {}))
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} is no debug tree of transformers ({error}); {_AGAIN}") from None
    found: dict[str, Callable[[], Array]] = {}
    for name, tensor in nodes:
        value = tensor.get("value")
        if isinstance(value, str):
            found[name] = partial(_read, path.parent, value)
    if not found:
        what = "prints of a few numbers of its tensors" if nodes else "no tensors"
        raise InputError(f"{path} holds {what}: {_AGAIN}")
    return found
