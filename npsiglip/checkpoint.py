"""Model folders in Hugging Face's format: config.json and model.safetensors, read lazily, written atomically.

Everything that headers can tell is checked when a folder is opened: every tensor is consumed exactly once and has
the shape that config.json asks for. Values are checked for NaN and infinity when they are first taken.

Source: the folders that Hugging Face's `save_pretrained` writes; `npsiglip.quantized` for those in 8 bits.

Leaves out: PyTorch pickles, tensors that others quantised, big_vision's npz.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.hf_names import Layout, bare_prefix, buffer_keys, layouts, match_keys
from npsiglip.hub import hint, model_folder
from npsiglip.params import Params, Shape, param_shapes
from npsiglip.quantized import TABLE, is_quantized, quantized_specs
from npsiglip.safetensors_files import FLOATS, StoredTensor, open_folder, write_folder

Entries = Mapping[str, tuple[Layout, StoredTensor]]

SAVE_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}


def all_finite(x: NDArray[Any]) -> bool:
    """No NaN and no infinity in float array `x`, of any float type, at the speed of memory.

    Works on the bits: as signed integers, positive floats are ordered like their bits and end in inf, then NaN;
    as unsigned integers, the negative ones do. Unlike a sum it cannot overflow, and needs no temporary array.
    """
    signed, unsigned = x.view(f"i{x.itemsize}"), x.view(f"u{x.itemsize}")
    infinity = np.array([np.inf, -np.inf], x.dtype)
    return bool(signed.max() < infinity.view(signed.dtype)[0] and unsigned.max() < infinity.view(unsigned.dtype)[1])


def _describe_non_finite(x: NDArray[Any]) -> str:
    bad = ~np.isfinite(x)
    first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), x.shape))
    return f"{int(bad.sum()):,} of {x.size:,} values not finite, the first {float(x[first])} at {list(first)}"


def _listing(lines: list[str], limit: int = 8) -> str:
    rest = [f"  ... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join([f"  {line}" for line in lines[:limit]] + rest)


def _check_names(where: str, missing: Mapping[str, str], unexpected: list[str], fix: str) -> None:
    """`missing`: key -> what it is to us."""
    if not missing and not unexpected:
        return
    parts = [f"{where}: {len(missing)} missing (-), {len(unexpected)} unexpected (+)"]
    parts += [_listing([f"- {key}{what}" for key, what in missing.items()])] if missing else []
    parts += [_listing([f"+ {key}" for key in unexpected])] if unexpected else []
    raise CheckpointError("\n".join([*parts, fix]))


def _users(places: Mapping[str, Layout]) -> dict[str, list[str]]:
    """Stored key -> the parameters in it: one, or the MAP head's q, k and v."""
    users: dict[str, list[str]] = {}
    for name, place in places.items():
        users.setdefault(place.key, []).append(name)
    return users


def _match(folder: Path, config: SigLIPConfig, stored: Mapping[str, StoredTensor]) -> Entries:
    """Each parameter with its stored tensor, every tensor consumed exactly once."""
    places = layouts(config)
    uses = _users(places)
    found = match_keys(config, [*uses, *buffer_keys(config)], stored)

    missing = {found[key]: f" ({', '.join(names)})" for key, names in uses.items() if found[key] not in stored}
    unexpected = sorted(set(stored) - set(found.values()))
    _check_names(
        str(folder),
        missing,
        unexpected,
        "config.json and the weights must be of one and the same SigLIP model: download both again, or correct "
        "the sizes in config.json",
    )

    wrong_type, wrong_shape = [], []
    for key, names in uses.items():
        tensor, expected = stored[found[key]], places[names[0]].shape
        what = f"{found[key]} ({', '.join(names)})"
        if tensor.dtype not in FLOATS:
            wrong_type.append(f"{what}: {tensor.dtype}")
        # a scalar may be stored as [1], as Hugging Face does, or as []
        elif tensor.shape != expected and not (expected == (1,) and tensor.shape == ()):
            wrong_shape.append(f"{what}: {list(tensor.shape)} stored, {list(expected)} by config.json")
    if wrong_type:
        raise CheckpointError(
            f"{folder}: tensors that are not of a float type ({', '.join(FLOATS)}): {len(wrong_type)}\n"
            f"{_listing(wrong_type)}\nquantised checkpoints of others cannot be read: use the original weights"
        )
    if wrong_shape:
        raise CheckpointError(
            f"{folder}: tensors of another shape than config.json asks for: {len(wrong_shape)}\n"
            f"{_listing(wrong_shape)}\nconfig.json and the weights are of different models: download both again"
        )
    return {name: (place, stored[found[place.key]]) for name, place in places.items()}


def _quantized_shapes(config: SigLIPConfig) -> dict[str, Shape]:
    return {name: spec.shape for name, spec in quantized_specs(config).items()}


def _match_quantized(folder: Path, config: SigLIPConfig, stored: Mapping[str, StoredTensor]) -> Entries:
    """Each tensor of a quantised folder, which is stored as it is used."""
    specs = quantized_specs(config)
    fix = "config.json and the weights must be of one quantised model: quantise the original again"
    _check_names(str(folder), {name: "" for name in specs if name not in stored}, sorted(set(stored) - set(specs)), fix)
    wrong = [
        f"{name}: {stored[name].dtype} {list(stored[name].shape)} stored, {spec.dtype} {list(spec.shape)} expected"
        for name, spec in specs.items()
        if (stored[name].dtype, stored[name].shape) != spec
    ]
    if wrong:
        raise CheckpointError(f"{folder}: tensors of another type or shape: {len(wrong)}\n{_listing(wrong)}\n{fix}")
    return {name: (Layout(name, spec.shape, lambda x: x), stored[name]) for name, spec in specs.items()}


class Checkpoint(Mapping[str, NDArray[Any]]):
    """Parameter name -> array of a model folder; a lazy, read-only mapping.

    The names and shapes are those of `npsiglip.params.param_shapes(config)`, in its order; the values have the type
    they are stored in: float32, float16, bfloat16 (of ml_dtypes) or float64. They are read-only views of the mapped
    files, so linear weights [in, out] are transposed views of the stored [out, in]; only `image.patch_embed.w`, and
    tensors that a file does not align, are copies.

    A quantised folder has other tensors, those of `npsiglip.quantized.quantized_specs(config)`.

    The files must stay as they are while a checkpoint is in use: replacing one is harmless (as `save_folder` does
    it), cutting one short in place is not.

    Attributes:
        folder: where it was read.
        config: what config.json says.
        quantized: whether the folder is one that `npsiglip quantize` wrote.
    """

    def __init__(self, folder: Path, config: SigLIPConfig, entries: Entries, quantized: bool = False) -> None:
        self.folder = folder
        self.config = config
        self.quantized = quantized
        self._shapes = _quantized_shapes(config) if quantized else param_shapes(config)
        self._entries = entries
        self._known_finite: set[str] = set()

    @property
    def nbytes(self) -> int:
        """The size of the files that hold the weights."""
        return sum(path.stat().st_size for path in {stored.path for _, stored in self._entries.values()})

    @classmethod
    def open(cls, folder: str | Path, revision: str | None = None) -> Checkpoint:
        """Open a model folder; reads config.json and the headers of the weights, no values.

        Args:
            folder: its path, "builtin" for the model that this package brings, or the name of a repository of the
                Hugging Face Hub; see `npsiglip.hub.model_folder`.
            revision: of the repository.

        Raises:
            InputError: for a revision of what has none.
            CheckpointError: if a repository cannot be downloaded; if the folder, its configuration or its weights
                cannot be used, or do not belong together: tensors missing or left over, of another shape, or not of
                a float type; or if it was quantised by a version of npsiglip with another format.
        """
        try:
            folder = model_folder(folder, revision)
            is_folder = folder.is_dir()
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be opened: {error}") from None
        if not is_folder:
            state = "is a file" if folder.exists() else "does not exist"
            raise CheckpointError(
                f"{folder} {state}; expected a model folder in Hugging Face's format, with config.json, "
                "model.safetensors and spiece.model, or a name that `npsiglip models` lists: "
                f"{hint(str(folder))}check the path, or download the model"
            )
        config = SigLIPConfig.from_folder(folder)
        quantized = is_quantized(folder)
        match = _match_quantized if quantized else _match
        return cls(folder, config, match(folder, config, open_folder(folder)), quantized)

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The values of parameter `name`.

        Raises:
            KeyError: for a name that the model does not have.
            CheckpointError: if a value is NaN or infinite.
        """
        place, stored = self._entries[name]
        view = place.view(stored.array().reshape(place.shape))
        values = view.reshape(self._shapes[name])
        if name not in self._known_finite and stored.dtype in FLOATS:
            if not all_finite(values):
                raise CheckpointError(
                    f"{stored.path}: {name} (stored as {place.key}) has {_describe_non_finite(values)}; expected "
                    "numbers only: the file is damaged (download it again), or was saved in a type too small "
                    "for its values, or by a training run that diverged"
                )
            self._known_finite.add(name)
            if name == TABLE:
                stored.release()  # a text reads a few of its rows
        values.flags.writeable = False
        return values

    def release(self, name: str) -> None:
        """Let the memory go that the values of `name` were read into; they are read again when they are used."""
        self._entries[name][1].release()

    def __contains__(self, name: object) -> bool:  # Mapping's own would read and check the values
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"Checkpoint({str(self.folder)!r}, {len(self)} parameters)"


def _stored_values(
    names: list[str], places: Mapping[str, Layout], shapes: Mapping[str, Shape], params: Params, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The tensor that Hugging Face stores for the parameters `names`, all of them or one."""
    tensor = np.empty(places[names[0]].shape, dtype)
    for name in names:
        values, view = np.asarray(params[name]), places[name].view(tensor)
        if values.shape != shapes[name]:
            raise CheckpointError(f"{name} must be {list(shapes[name])} by the configuration, got {list(values.shape)}")
        with np.errstate(over="ignore", invalid="ignore"):  # reported below, by name
            view[...] = values.reshape(view.shape)
        if not all_finite(view):
            largest = float(ml_dtypes.finfo(dtype).max)
            too_large = f"{dtype} ends at {largest:g}: save as float32"
            fix = too_large if np.isfinite(values).all() else "the parameters must be numbers"
            found = _describe_non_finite(view.reshape(values.shape))
            raise CheckpointError(f"{name} as {dtype} has {found}; {fix}")
    return tensor


def save_folder(
    folder: str | Path,
    config: SigLIPConfig,
    params: Params,
    dtype: str = "float32",
    max_shard_bytes: int | None = None,
) -> None:
    """Write config.json and model.safetensors with Hugging Face's names, which its SigLIP classes load.

    Values are rounded to the nearest of `dtype`. A stand-alone tower gets bare names, as transformers 5 writes them.
    Each file is complete or not there, also after a crash; when anything fails, all files stay as they were.

    Args:
        folder: created if it does not exist; files in it are replaced.
        config: of the model.
        params: exactly the parameters of `param_shapes(config)`; a `Checkpoint` will do.
        dtype: "float32", "float16" or "bfloat16".
        max_shard_bytes: above this, weights go into several files with an index.

    Raises:
        InputError: for an unknown `dtype` or a limit that is not positive.
        CheckpointError: for parameters that are missing, left over, of a wrong shape, or not finite in `dtype`; if
            the folder cannot be written, or holds weights in the other form (one file, several files), which a
            reader could take for these.
    """
    folder = Path(folder)
    if dtype not in SAVE_DTYPES:
        raise InputError(f"dtype must be one of {', '.join(SAVE_DTYPES)}; got {dtype!r}")
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise InputError(f"max_shard_bytes must be positive (or None for one file), got {max_shard_bytes}")
    shapes, target = param_shapes(config), SAVE_DTYPES[dtype]
    _check_names(
        f"parameters for {folder}",
        {name: "" for name in shapes if name not in params},
        sorted(set(params) - set(shapes)),
        "expected exactly those of npsiglip.params.param_shapes(config)",
    )

    places = layouts(config)
    uses = {key.removeprefix(bare_prefix(config)): names for key, names in _users(places).items()}
    sizes = {key: prod(places[names[0]].shape) * target.itemsize for key, names in uses.items()}
    write_folder(
        folder,
        config.to_hf(),
        sizes,
        lambda key: _stored_values(uses[key], places, shapes, params, target),
        max_shard_bytes,
    )
