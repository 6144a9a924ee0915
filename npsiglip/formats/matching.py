"""Which stored tensor is which parameter: every tensor is consumed exactly once, and has the type and shape it must.

Leaves out: values, which are checked when they are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from npsiglip.config import SigLIPConfig
from npsiglip.errors import CheckpointError
from npsiglip.formats.adapter import merge
from npsiglip.formats.big_vision_names import EXTRA_POSITIONS, form_of, npz_key, npz_layouts
from npsiglip.formats.hf_names import bare_prefix, buffer_keys, layouts, match_keys
from npsiglip.formats.quantized import quantized_specs
from npsiglip.formats.stored import FLOATS, Layout, MadeTensor, StoredTensor
from npsiglip.params import Shape

Entries = Mapping[str, tuple[Layout, StoredTensor]]

FOLDER_FIX = (
    "config.json and the weights are of different models, or one is damaged: download both again, or correct the sizes "
    "in config.json"
)


def _listing(lines: list[str], limit: int = 8) -> str:
    rest = [f"  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join([f"  {line}" for line in lines[:limit]] + rest)


def check_names(where: str, missing: Mapping[str, str], unexpected: list[str], fix: str) -> None:
    """Refuse tensors that are missing (key -> what it is to us) or left over, by their names.

    Raises:
        CheckpointError: there are some.
    """
    if not missing and not unexpected:
        return
    parts = [f"{where}: {len(missing)} missing (-), {len(unexpected)} unexpected (+)"]
    parts += [_listing([f"- {key}{what}" for key, what in missing.items()])] if missing else []
    parts += [_listing([f"+ {key}" for key in unexpected])] if unexpected else []
    raise CheckpointError("\n".join([*parts, fix]))


def users(places: Mapping[str, Layout]) -> dict[str, list[str]]:
    """Stored key -> the parameters in it: one, the MAP head's q, k and v, or those of all blocks."""
    found: dict[str, list[str]] = {}
    for name, place in places.items():
        found.setdefault(place.key, []).append(name)
    return found


def match(
    where: Path,
    places: Mapping[str, Layout],
    stored: Mapping[str, StoredTensor],
    found: Mapping[str, str],
    source: str,
    fix: str,
) -> Entries:
    """Each parameter with its stored tensor.

    Args:
        where: the folder or file, for messages.
        places: of the parameters.
        stored: what is there.
        found: key of a place, or of something else that may be there -> its key in `stored`.
        source: of the shapes, for messages.
        fix: what to do when they do not belong together.

    Raises:
        CheckpointError: tensors missing or left over, of another shape, or not of a float type.
    """
    uses = users(places)
    missing = {found[key]: f" ({', '.join(names[:3])})" for key, names in uses.items() if found[key] not in stored}
    check_names(str(where), missing, sorted(set(stored) - set(found.values())), fix)

    wrong_type, wrong_shape = [], []
    for key, names in uses.items():
        tensor, expected = stored[found[key]], places[names[0]].shape
        what = f"{found[key]} ({', '.join(names[:3])})"
        if tensor.dtype not in FLOATS:
            wrong_type.append(f"{what}: {tensor.dtype}")
        # a scalar may be stored as [1], as Hugging Face does, or as [], as open_clip does
        elif tensor.shape != expected and {expected, tensor.shape} != {(), (1,)}:
            wrong_shape.append(f"{what}: {list(tensor.shape)} stored, {list(expected)} by {source}")
    if wrong_type:
        raise CheckpointError(
            f"{where}: tensors that are not of a float type ({', '.join(FLOATS)}): {len(wrong_type)}\n"
            f"{_listing(wrong_type)}\nquantised checkpoints of others cannot be read: use the original weights"
        )
    if wrong_shape:
        raise CheckpointError(
            f"{where}: tensors of another shape than {source} asks for: {len(wrong_shape)}\n"
            f"{_listing(wrong_shape)}\n{fix}"
        )
    return {name: (place, stored[found[place.key]]) for name, place in places.items()}


def match_folder(
    folder: Path, config: SigLIPConfig, stored: Mapping[str, StoredTensor], adapter: Path | None = None
) -> Entries:
    """Each parameter of a folder in Hugging Face's format, see `match`; with the adapter of another folder in it."""
    places = layouts(config)
    found = match_keys(config, [*users(places), *buffer_keys(config)], stored)
    if adapter is not None:
        stored = merge(adapter, stored, {key: found[key] for key in users(places)}, bare_prefix(config))
    return match(folder, places, stored, found, "config.json", FOLDER_FIX)


def _sum(path: Path, first: StoredTensor, second: StoredTensor) -> StoredTensor:
    """Added in float32, or in float64 where one is."""
    dtype = "F64" if "F64" in (first.dtype, second.dtype) else "F32"
    kind = FLOATS[dtype]
    return MadeTensor(path, dtype, first.shape, lambda: first.array().astype(kind) + second.array().astype(kind))


def match_npz(path: Path, config: SigLIPConfig, stored: Mapping[str, StoredTensor]) -> Entries:
    """Each parameter of big_vision's npz, see `match`.

    A text tower without head ends in its own width, as the released So400m/16-256 i18n does: to us an identity. Old
    files have positions in two tensors, of which the sum counts.
    """
    form = form_of(stored)
    there = {name: tensor for name, tensor in stored.items() if name.startswith(form.root)}
    if config.text and not any(name.startswith(f"{form.root}txt/head/") for name in there):
        width = config.text.width
        for leaf, values in (("w", np.eye(width, dtype=np.float32)), ("b", np.zeros(width, np.float32))):
            key = f"{form.root}{npz_key(f'text.head.{leaf}', False)}"
            there[key] = MadeTensor(path, "F32", values.shape, lambda values=values: values)  # type: ignore[misc]
    positions, extra = (f"{form.root}{key}" for key in (npz_key("text.pos_embed", False), EXTRA_POSITIONS))
    if extra in there and positions in there:
        if there[extra].shape != there[positions].shape or {there[extra].dtype, there[positions].dtype} - set(FLOATS):
            raise CheckpointError(
                f"{path}: {extra} must be like {positions}, to which it is added; see docs/formats.md"
            )
        there[positions] = _sum(path, there[positions], there.pop(extra))
    places = npz_layouts(config, form.stacked)
    found = {key: form.root + key for key in users(places)}
    return match(path, places, there, found, "the other tensors", "part of the model is missing or another's")


def quantized_shapes(config: SigLIPConfig) -> dict[str, Shape]:
    """Name -> shape of what a quantised folder holds."""
    return {name: spec.shape for name, spec in quantized_specs(config).items()}


def match_quantized(folder: Path, config: SigLIPConfig, stored: Mapping[str, StoredTensor]) -> Entries:
    """Each tensor of a quantised folder, which is stored as it is used.

    Raises:
        CheckpointError: tensors missing or left over, of another shape or type.
    """
    specs = quantized_specs(config)
    fix = "config.json and the weights must be of one quantised model: quantise the original again"
    check_names(str(folder), {name: "" for name in specs if name not in stored}, sorted(set(stored) - set(specs)), fix)
    wrong = [
        f"{name}: {stored[name].dtype} {list(stored[name].shape)} stored, {spec.dtype} {list(spec.shape)} expected"
        for name, spec in specs.items()
        if (stored[name].dtype, stored[name].shape) != spec
    ]
    if wrong:
        raise CheckpointError(f"{folder}: tensors of another type or shape: {len(wrong)}\n{_listing(wrong)}\n{fix}")
    return {name: (Layout(name, spec.shape, lambda x: x), stored[name]) for name, spec in specs.items()}
