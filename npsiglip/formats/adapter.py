"""LoRA adapters in folders that the PEFT library writes, merged into the tensors of the model that they belong to.

    W' = W + s B A,   s = alpha / r, or alpha / sqrt(r) with rsLoRA
    W' = m (W + s B A) / |W + s B A|,   with DoRA, m and norms for each row

A [r, in] and B [out, r] stand for a layer whose weight is [out, in], as Hugging Face stores it; a convolution's are
flattened, a table's are B A transposed. Other tensors in an adapter (biases, layers saved whole) replace the model's.
Computed in float64, rounded once to float32, or to float64 where the model is.

Source: arXiv:2106.09685, arXiv:2312.03732 (rsLoRA), arXiv:2402.09353 (DoRA); names and settings: PEFT 0.21,
`tuners/lora`. Settings that are not known are refused, since they may change what is computed.

Leaves out: everything but LoRA; adapters whose initialisation changes the base (PiSSA, OLoRA, CorDA, LoftQ); those of
the MAP head's attention as a whole, to whose output projection PEFT 0.21 adds s B A twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import CheckpointError
from npsiglip.formats.hf_names import prefixes
from npsiglip.formats.safetensors import open_file
from npsiglip.formats.stored import FLOATS, MadeTensor, StoredTensor
from npsiglip.json_files import read_json

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

_FIX = "merge it with PEFT (merge_and_unload) and save the model"
_MAP_HEAD = ".in_proj_weight"
_ROOT = "base_model.model."
_KEY = re.compile(r"(.+?)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(.*)")
# What changes nothing here; `fan_in_fan_out` is switched off by PEFT for linear layers, and SigLIP has no others.
_WITHOUT_EFFECT = {
    *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode"),
    *("target_modules", "exclude_modules", "lora_dropout", "layers_to_transform", "layers_pattern", "runtime_config"),
    *("fan_in_fan_out", "bias", "modules_to_save", "eva_config", "megatron_core", "qalora_group_size"),
    *("ensure_weight_tying", "lora_bias", "use_dora"),
}
_READ = {"peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"}
_INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter and no model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").exists()


def explain(folder: Path) -> str:
    """What an adapter that was given as a model is, and how to use it."""
    base = read_json(folder / CONFIG).get("base_model_name_or_path")
    return (
        f"{folder} is an adapter (LoRA), not a model: give the model that it was trained on"
        + (f", {base}," if isinstance(base, str) and base else "")
        + f" and this one beside it: --model BASE --adapter {folder}, or from_pretrained(base, adapter=...)"
    )


@dataclass
class _Module:
    """What an adapter has for one layer."""

    parts: dict[str, StoredTensor] = field(default_factory=dict)
    scale: float = 1.0

    def values(self, part: str) -> NDArray[np.float64]:
        return self.parts[part].array().astype(np.float64)


class _Settings:
    """What adapter_config.json says."""

    def __init__(self, path: Path) -> None:
        self.path, content = path, read_json(path)
        kind = content.get("peft_type")
        if kind != "LORA":
            raise CheckpointError(f"{path}: peft_type is {kind!r}, and only 'LORA' is computed: {_FIX}")
        unknown = sorted(k for k, v in content.items() if v and k not in _WITHOUT_EFFECT | _READ)
        initial = content.get("init_lora_weights", True)
        if initial not in _INITIAL:
            unknown.append("init_lora_weights")
        if unknown:
            named = ", ".join(f"{key} = {content[key]!r:.60}" for key in unknown)
            raise CheckpointError(f"{path} has {named}, which is not computed here: {_FIX}")
        self.rank: Any = content.get("r", 8)
        self.alpha: Any = content.get("lora_alpha", 8)
        self.ranks, self.alphas = (self._patterns(content, key) for key in ("rank_pattern", "alpha_pattern"))
        self.rslora = content.get("use_rslora", False)
        if not isinstance(self.rslora, bool | None):
            raise CheckpointError(f"{path}: use_rslora must be true or false, got {self.rslora!r}")

    def _patterns(self, content: Mapping[str, Any], key: str) -> dict[str, Any]:
        found = content.get(key) or {}
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.path}: {key} must be an object, got {found!r:.60}")
        return found

    def _of(self, patterns: Mapping[str, Any], module: str, usual: Any, what: str) -> float:
        try:
            value = next((v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)), usual)
        except re.error as error:
            raise CheckpointError(f"{self.path} has a pattern that is no regular expression: {error}") from None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < abs(value) < 1e9:
            raise CheckpointError(f"{self.path}: {what} must be a number, got {value!r:.60}")
        return value

    def scale(self, module: str, rank: int) -> float:
        """What B A is multiplied with in a module, of whose A the rank is this."""
        said = self._of(self.ranks, module, self.rank, "r")
        if said != rank:
            raise CheckpointError(
                f"{self.path} says r = {said} for {module}, whose lora_A has {rank}: one is another's"
            )
        alpha = self._of(self.alphas, module, self.alpha, "lora_alpha")
        return alpha / (sqrt(rank) if self.rslora else rank)


def _product(module: _Module, kind: str) -> NDArray[np.float64]:
    """s B A as a matrix; those of a convolution are [out, r, 1, 1] and [r, in, P, P]."""
    a, b = module.values(f"{kind}A"), module.values(f"{kind}B")
    made: NDArray[np.float64] = module.scale * (b.reshape(len(b), -1) @ a.reshape(len(a), -1))
    return made.T if kind == "lora_embedding_" else made


class _Adapter:
    """The tensors of an adapter, and the modules that they are for."""

    def __init__(self, folder: Path) -> None:
        self.folder, path = folder, folder / WEIGHTS
        if not folder.is_dir():
            raise CheckpointError(f"{folder} is no folder: expected an adapter, with {CONFIG} and {WEIGHTS}")
        if not (folder / CONFIG).is_file():
            raise CheckpointError(f"{folder} has no {CONFIG}: expected an adapter as PEFT saves it")
        if not path.exists():
            pickle = (
                f"has its weights only as {PICKLE}, a pickle, which could run any code when read; convert it once, "
                "where peft is installed: load it there and call save_pretrained, which writes safetensors"
            )
            raise CheckpointError(f"{folder} {pickle if (folder / PICKLE).exists() else f'has no {WEIGHTS}'}")
        settings = _Settings(folder / CONFIG)
        self.modules: dict[str, _Module] = {}
        self.whole: dict[str, StoredTensor] = {}
        for key, tensor in open_file(path).items():
            name = key.removeprefix(_ROOT).replace(".base_layer.", ".")
            if tensor.dtype not in FLOATS or not key.startswith(_ROOT):
                raise CheckpointError(
                    f"{path}: {key} ({tensor.dtype}) is no tensor of a LoRA adapter: damaged or another's"
                )
            if found := _KEY.fullmatch(name):
                part = found[2] + ("_bias" if found[3] == ".bias" else "")
                self.modules.setdefault(found[1], _Module()).parts[part] = tensor
            else:
                self.whole[re.sub(r"\.modules_to_save(\.default)?\.", ".", name)] = tensor
        for name, module in self.modules.items():
            module.scale = settings.scale(name, self._rank(name, module))
        if not self.modules and not self.whole:
            raise CheckpointError(f"{path} holds no tensors: download the adapter again")

    def _rank(self, name: str, module: _Module) -> int:
        """r of a module; refuses parts that do not belong together."""
        kind = "lora_embedding_" if "lora_embedding_A" in module.parts else "lora_"
        known = {f"{kind}A", f"{kind}B"}
        more = {"lora_B_bias", "lora_magnitude_vector"} if kind == "lora_" else set()
        if not known <= module.parts.keys() <= known | more:
            raise CheckpointError(
                f"{self.folder / WEIGHTS}: {name} has {', '.join(sorted(module.parts))}, expected A and B"
            )
        a, b = module.parts[f"{kind}A"].shape, module.parts[f"{kind}B"].shape
        if len(a) < 2 or len(b) < 2 or a[0] != b[1] or prod(b[2:]) != 1:
            raise CheckpointError(f"{self.folder / WEIGHTS}: A {list(a)} and B {list(b)} of {name} do not fit")
        return a[0]

    def names(self) -> list[str]:
        """Names of modules and whole tensors, as the adapter has them."""
        return [*self.modules, *self.whole]


def _targets(adapter: _Adapter, known: Mapping[str, str]) -> dict[str, str]:
    """Name of a module (without its leaf) or of a tensor in the adapter -> the key that the model stores it under."""
    leaves = (".weight", _MAP_HEAD)
    modules = {n.removesuffix(leaf): stored for n, stored in known.items() for leaf in leaves if n.endswith(leaf)}
    known = {**known, **modules}
    first = adapter.names()[0]
    starts = dict.fromkeys(["", *(prefix for name in known for prefix in prefixes([first], name))])
    fits = [start for start in starts if all(name.removeprefix(start) in known for name in adapter.names())]
    if not fits:
        start = next((s for s in starts if first.removeprefix(s) in known), "")
        strange = [name for name in adapter.names() if name.removeprefix(start) not in known]
        raise CheckpointError(
            f"{adapter.folder} is for another model: {len(strange)} of its {len(adapter.names())} layers and tensors "
            f"are not in the base, such as {', '.join(strange[:3])}. A classifier, or added tokens, have to be "
            f"in the base; or {_FIX}"
        )
    return {name: known[name.removeprefix(fits[0])] for name in adapter.names()}


def _merged(base: StoredTensor, module: _Module, where: Path, name: str) -> StoredTensor:
    kind = "lora_embedding_" if "lora_embedding_A" in module.parts else "lora_"
    a, b = module.parts[f"{kind}A"].shape, module.parts[f"{kind}B"].shape
    shape = (prod(a[1:]), b[0]) if kind == "lora_embedding_" else (b[0], prod(a[1:]))
    if (base.shape[0], prod(base.shape[1:])) != shape:
        raise CheckpointError(
            f"{where}: A {list(a)} and B {list(b)} of {name} are for a weight of {list(shape)}, the base has "
            f"{list(base.shape)}: the adapter is another model's"
        )
    magnitude = module.parts.get("lora_magnitude_vector")
    if magnitude and (len(base.shape) != 2 or magnitude.shape != base.shape[:1]):
        raise CheckpointError(f"{where}: DoRA of {name} {list(base.shape)} is not computed, only that of linear layers")
    kept: list[NDArray[Any]] = []

    def make() -> NDArray[Any]:
        if kept:
            return kept[0]
        values = base.array().astype(np.float64)
        values += _product(module, kind).reshape(values.shape)
        if magnitude:
            values *= (module.values("lora_magnitude_vector") / np.linalg.norm(values, axis=1))[:, None]
        result = values if base.dtype == "F64" else values.astype(np.float32)
        if kind == "lora_embedding_":
            kept.append(result)  # a text asks for a few rows of it
        return result

    return MadeTensor(where, "F64" if base.dtype == "F64" else "F32", base.shape, make)


def _with_bias(base: StoredTensor, module: _Module, where: Path, name: str) -> StoredTensor:
    added = module.parts["lora_B_bias"]
    if added.shape != base.shape:
        raise CheckpointError(f"{where}: lora_B.bias of {name} is {list(added.shape)}, the base has {list(base.shape)}")

    def make() -> NDArray[Any]:
        values = base.array().astype(np.float64) + module.scale * module.values("lora_B_bias")
        return values if base.dtype == "F64" else values.astype(np.float32)

    return MadeTensor(where, "F64" if base.dtype == "F64" else "F32", base.shape, make)


def merge(
    folder: Path, stored: Mapping[str, StoredTensor], found: Mapping[str, str], bare: str
) -> Mapping[str, StoredTensor]:
    """The tensors of a model with an adapter merged in; they are computed when they are used.

    Args:
        folder: of the adapter.
        stored: key -> tensor of the model.
        found: Hugging Face's key in full form -> key in `stored`.
        bare: what keys of a stand-alone tower lose.

    Raises:
        CheckpointError: the adapter cannot be used, is not computed here, or is of another model.
    """
    adapter = _Adapter(folder)
    known = {key: where for key, where in found.items() if where in stored}
    known |= {key.removeprefix(bare): where for key, where in known.items()}
    targets, result = _targets(adapter, known), dict(stored)
    for name, tensor in adapter.whole.items():
        if tensor.shape != stored[targets[name]].shape:
            raise CheckpointError(
                f"{folder / WEIGHTS}: {name} is {list(tensor.shape)}, the base has {list(stored[targets[name]].shape)}"
            )
        result[targets[name]] = tensor
    for name, module in adapter.modules.items():
        key = targets[name]
        if key.endswith(_MAP_HEAD):
            raise CheckpointError(
                f"{folder / WEIGHTS} adapts {name}, the MAP head's attention, whose output PEFT adapts twice: this is "
                f"not computed here; {_FIX}"
            )
        result[key] = _merged(result[key], module, folder / WEIGHTS, name)
        if "lora_B_bias" in module.parts:
            bias = re.sub("weight$", "bias", key)
            if bias == key or bias not in result:
                raise CheckpointError(f"{folder / WEIGHTS}: {name} has lora_B.bias, the base no bias for it")
            result[bias] = _with_bias(result[bias], module, folder / WEIGHTS, name)
    return result
