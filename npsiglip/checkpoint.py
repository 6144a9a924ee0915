"""Models in files: Hugging Face's folders and big_vision's npz, read lazily, written atomically.

Everything that headers can tell is checked when a model is opened: every tensor is consumed exactly once and has
the shape that config.json, or the rest of an npz, asks for. Values are checked for NaN and infinity when they are first
taken.

Source: the folders that Hugging Face's `save_pretrained` writes; `npsiglip.formats.quantized` for those in 8 bits; the
npz that big_vision's `utils.save_checkpoint` writes (docs/formats.md).

Leaves out: PyTorch pickles, tensors that others quantised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from npsiglip.atomic import write_all
from npsiglip.config import LAYER_NORM_EPS, SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.formats.adapter import explain, is_adapter
from npsiglip.formats.big_vision_config import npz_config
from npsiglip.formats.big_vision_names import BLOCKS, ROOT, form_of, npz_layouts
from npsiglip.formats.cut_out import find_tower
from npsiglip.formats.hf_names import bare_prefix, layouts
from npsiglip.formats.matching import (
    Entries,
    check_names,
    match_folder,
    match_npz,
    match_quantized,
    quantized_shapes,
    users,
)
from npsiglip.formats.npz import SUFFIX, open_npz, write_npz
from npsiglip.formats.openclip import open_openclip
from npsiglip.formats.quantized import TABLE, is_quantized
from npsiglip.formats.safetensors import open_folder, write_folder
from npsiglip.formats.sentence_transformers import model_inside
from npsiglip.formats.stored import FLOATS, TYPES, Layout, StoredTensor, is_aligned
from npsiglip.formats.told import HUGGING_FACE, NOTHING_TOLD, Told, folder_form
from npsiglip.hub.cache import hint
from npsiglip.hub.resolve import model_folder
from npsiglip.params import Params, Shape, StoredParams, param_shapes

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


class Checkpoint(StoredParams):
    """Parameter name -> array of a model folder or an npz; a lazy, read-only mapping.

    The names and shapes are those of `npsiglip.params.param_shapes(config)`, in its order; the values have the type
    they are stored in: float32, float16, bfloat16 (of ml_dtypes) or float64. They are read-only views of the mapped
    files, so linear weights [in, out] are transposed views of a folder's [out, in]; only `image.patch_embed.w` of a
    folder, and what a file does not align, are copies.

    A quantised folder has other tensors, those of `npsiglip.formats.quantized.quantized_specs(config)`.

    The files must stay as they are while a checkpoint is in use: replacing one is harmless (as `save_folder` does
    it), cutting one short in place is not.

    Attributes:
        source: what was read, a folder or an npz.
        folder: where the files of tokenizer and image processor belong: the folder, or that of the npz.
        config: what config.json says, or the shapes of an npz.
        quantized: whether the folder is one that `npsiglip quantize` wrote.
        form: of a folder, whose format it is in, see `npsiglip.formats.told`.
    """

    def __init__(
        self,
        source: Path,
        config: SigLIPConfig,
        entries: Entries,
        quantized: bool = False,
        form: str = HUGGING_FACE,
    ) -> None:
        self.source = source
        self.folder = source.parent if source.suffix == SUFFIX else source
        self.config = config
        self.quantized, self.form = quantized, form
        self._shapes = quantized_shapes(config) if quantized else param_shapes(config)
        self._entries = entries
        self._known_finite: set[str] = set()
        self._said: tuple[Told, str | None] = NOTHING_TOLD, None  # to `open`, beside the source

    @property
    def nbytes(self) -> int:
        """The size of the files that hold the weights."""
        return sum(path.stat().st_size for path in {stored.path for _, stored in self._entries.values()})

    @property
    def is_npz(self) -> bool:
        """Whether it was read from big_vision's npz, which has no configuration, tokenizer or image processor."""
        return self.source.suffix == SUFFIX

    @classmethod
    def open(
        cls,
        folder: str | Path,
        revision: str | None = None,
        told: Told = NOTHING_TOLD,
        adapter: str | Path | None = None,
    ) -> Checkpoint:
        """Open a model folder or an npz; reads config.json and the headers of the weights, no values.

        Args:
            folder: the path of a folder, or of big_vision's `.npz`; "builtin" for the model that this package brings;
                or the name of a repository of the Hugging Face Hub; see `npsiglip.hub.resolve.model_folder`.
            revision: of the repository.
            told: what the files leave open, or do not decide: the form of GELU, and for open_clip's and timm's folders
                the heads of the image tower, see `npsiglip.formats.told`.
            adapter: the folder of a LoRA adapter that is merged into the model, see `npsiglip.formats.adapter`.

        Raises:
            InputError: for a revision of what has none; for what is told and contradicts the files.
            CheckpointError: if a repository cannot be downloaded; if the folder, its configuration or its weights
                cannot be used, or do not belong together: tensors missing or left over, of another shape, or not of
                a float type; or if it was quantised by a version of npsiglip with another format.
        """
        found = cls._open(folder, revision, told, adapter)
        found._said = told, None if adapter is None else str(Path(adapter).absolute())
        return found

    @classmethod
    def _open(cls, folder: str | Path, revision: str | None, told: Told, adapter: str | Path | None) -> Checkpoint:
        try:
            folder = model_folder(folder, revision)
            is_folder, is_file = folder.is_dir(), folder.is_file()
        except OSError as error:
            raise CheckpointError(f"{folder} cannot be opened: {error}") from None
        if is_file and folder.suffix == SUFFIX:
            if adapter is not None:
                raise CheckpointError(f"{folder} takes no adapter: convert it to a folder first, with npsiglip convert")
            tensors = open_npz(folder)
            shapes = {name: tensor.shape for name, tensor in tensors.items()}
            config = told.apply(npz_config(str(folder), shapes, form_of(tensors)))
            return cls(folder, config, match_npz(folder, config, tensors))
        if not is_folder:
            state = "is a file" if folder.exists() else "does not exist"
            raise CheckpointError(
                f"{folder} {state}; expected a model folder in Hugging Face's format, with config.json, "
                "model.safetensors and spiece.model, an .npz of big_vision, or a name that `npsiglip models` lists: "
                f"{hint(str(folder))}check the path, or download the model"
            )
        folder = model_inside(folder)
        form = folder_form(folder)
        if form != HUGGING_FACE and adapter is not None:
            raise CheckpointError(f"{folder} takes no adapter: convert it to a folder first, with npsiglip convert")
        if form != HUGGING_FACE:
            return cls(folder, *open_openclip(folder, form, told), form=form)
        if is_adapter(folder):
            raise CheckpointError(explain(folder))
        config = told.apply(SigLIPConfig.from_folder(folder))
        quantized = is_quantized(folder)
        stored: Mapping[str, StoredTensor] = open_folder(folder)
        if quantized and adapter is not None:
            raise CheckpointError(f"{folder} is quantised and takes no adapter: give the original model")
        if quantized:
            return cls(folder, config, match_quantized(folder, config, stored), True)
        config, stored = find_tower(folder, config, stored)
        return cls(folder, config, match_folder(folder, config, stored, None if adapter is None else Path(adapter)))

    def __getitem__(self, name: str) -> NDArray[Any]:
        """The values of parameter `name`.

        Raises:
            KeyError: for a name that the model does not have.
            CheckpointError: if a value is NaN or infinite.
        """
        values = self._checked(name)
        if not is_aligned(values):  # compiled code wants aligned loads
            values = values.copy(order="K")
        values.flags.writeable = False
        return values

    def rows(self, name: str, rows: NDArray[np.integer]) -> NDArray[Any]:
        """Rows of parameter `name`, a copy of these alone, also where a file does not align them.

        Raises:
            CheckpointError: if a value of any row is NaN or infinite.
        """
        found: NDArray[Any] = self._checked(name)[rows]
        return found

    def _checked(self, name: str) -> NDArray[Any]:
        """The values as they lie in the file, once they were found finite."""
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
            if stored.dtype == "F64" and np.abs(values).max(initial=0) > np.finfo(np.float32).max:
                raise CheckpointError(
                    f"{stored.path}: {name} (stored as {place.key}) has {np.abs(values).max():g}; it is taken as "
                    "float32, which ends at 3.4e38: a model's weights are of the order of 1, so the file is damaged, "
                    "or was saved by a training run that diverged"
                )
            self._known_finite.add(name)
            if name == TABLE:
                stored.release()  # a text reads a few of its rows
        return values

    def dtype_of(self, name: str) -> np.dtype[Any]:
        """The type that the values of `name` are stored in."""
        return TYPES[self._entries[name][1].dtype]

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
        return f"Checkpoint({str(self.source)!r}, {len(self)} parameters)"

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """File name -> size and time, in seconds, of what holds the weights."""
        files = {path: path.stat() for path in {stored.path for _, stored in self._entries.values()}}
        return {path.name: (found.st_size, int(found.st_mtime)) for path, found in files.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        """For `pickle`: where the files are, which must then be the same ones; no values.

        Raises:
            CheckpointError: they are there no longer.
        """
        try:
            return _reopened, (str(self.source.absolute()), self._stamps(), *self._said)
        except OSError as error:
            raise CheckpointError(f"{self.source} cannot be pickled, its files are gone: {error}") from None

    def __deepcopy__(self, memo: object) -> Checkpoint:
        return self  # nothing in it changes


def _reopened(source: str, stamps: dict[str, tuple[int, int]], told: Told, adapter: str | None) -> Checkpoint:
    """A checkpoint that was pickled.

    Raises:
        CheckpointError: as `Checkpoint.open`; or other files are there now.
    """
    checkpoint = Checkpoint.open(source, None, told, adapter)
    if (now := checkpoint._stamps()) != stamps:
        changed = sorted(name for name in stamps.keys() | now.keys() if stamps.get(name) != now.get(name))
        raise CheckpointError(
            f"{source} is not what it was when the model was pickled ({', '.join(changed)} changed): a pickle of a "
            "model names its files and does not hold them; load the model anew with SigLIP.from_pretrained"
        )
    return checkpoint


def stored_values(
    names: list[str], places: Mapping[str, Layout], shapes: Mapping[str, Shape], params: Params, dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The tensor that a file has for the parameters `names`, all of them or one."""
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


def target_dtype(names: list[str], params: Params, dtype: str | None) -> np.dtype[Any]:
    """What the tensor of the parameters `names` is stored in: as asked, or what holds all their values."""
    if dtype is not None:
        return SAVE_DTYPES[dtype]
    known = params.dtype_of if isinstance(params, Checkpoint) else lambda name: np.asarray(params[name]).dtype
    return np.result_type(*map(known, names))


def check_saving(where: object, config: SigLIPConfig, params: Params, dtype: str | None) -> dict[str, Shape]:
    """The shapes of what is saved, after a look at what is given."""
    if dtype is not None and dtype not in SAVE_DTYPES:
        raise InputError(f"dtype must be one of {', '.join(SAVE_DTYPES)}; got {dtype!r}")
    shapes = param_shapes(config)
    check_names(
        f"parameters for {where}",
        {name: "" for name in shapes if name not in params},
        sorted(set(params) - set(shapes)),
        "expected exactly those of npsiglip.params.param_shapes(config)",
    )
    return shapes


def save_folder(
    folder: str | Path,
    config: SigLIPConfig,
    params: Params,
    dtype: str | None = "float32",
    max_shard_bytes: int | None = None,
    others: Mapping[str, Callable[[Path], object]] = MappingProxyType({}),
) -> None:
    """Write config.json and model.safetensors with Hugging Face's names, which its SigLIP classes load.

    Values are rounded to the nearest of `dtype`. A stand-alone tower gets bare names, as transformers 5 writes them.
    Each file is complete or not there, also after a crash; when anything fails, all files stay as they were.

    Args:
        folder: created if it does not exist; files in it are replaced.
        config: of the model.
        params: exactly the parameters of `param_shapes(config)`; a `Checkpoint` will do.
        dtype: "float32", "float16" or "bfloat16"; None: what each parameter is in, so that nothing is rounded.
        max_shard_bytes: above this, weights go into several files with an index.
        others: further files by name, and what writes each to a path.

    Raises:
        InputError: for an unknown `dtype` or a limit that is not positive.
        CheckpointError: for parameters that are missing, left over, of a wrong shape, or not finite in `dtype`; if
            the folder cannot be written, or holds weights in the other form (one file, several files), which a
            reader could take for these.
    """
    folder = Path(folder)
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise InputError(f"max_shard_bytes must be positive (or None for one file), got {max_shard_bytes}")
    shapes, places = check_saving(folder, config, params, dtype), layouts(config)
    uses = {key.removeprefix(bare_prefix(config)): names for key, names in users(places).items()}
    dtypes = {key: target_dtype(names, params, dtype) for key, names in uses.items()}
    sizes = {key: prod(places[names[0]].shape) * dtypes[key].itemsize for key, names in uses.items()}
    write_folder(
        folder,
        config.to_hf(),
        sizes,
        lambda key: stored_values(uses[key], places, shapes, params, dtypes[key]),
        max_shard_bytes,
        others,
    )


def is_identity(params: Params) -> bool:
    """Whether the head of texts changes nothing."""
    w, b = np.asarray(params["text.head.w"]), np.asarray(params["text.head.b"])
    return w.shape[0] == w.shape[1] and not b.any() and bool((w == np.eye(len(w), dtype=w.dtype)).all())


def save_npz(
    path: str | Path,
    config: SigLIPConfig,
    params: Params,
    dtype: str | None = None,
    stacked: bool = False,
    root: str = ROOT,
) -> None:
    """Write a model as big_vision's npz, which its `utils.load_params` reads.

    A head of texts that is the identity is left out, as big_vision has none then. The file is complete or not there.

    Args:
        path: ends in .npz; must not exist.
        config: of the model. What an npz cannot tell, it must not have: a classifier, or another epsilon of LayerNorm.
        params: exactly the parameters of `param_shapes(config)`; a `Checkpoint` will do.
        dtype: "float32", "float16" or "bfloat16"; None: what each parameter is in, so that nothing is rounded.
        stacked: all blocks of a tower in one tensor, as `nn.scan` has them, instead of one by one.
        root: what all names begin with, "params/" or nothing.

    Raises:
        InputError: for an unknown `dtype` or root, or a path that does not end in .npz.
        CheckpointError: for a model that does not fit the format; for parameters that are missing, left over, of a
            wrong shape, or not finite in `dtype`; if the file exists or cannot be written.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise InputError(f"{path} must end in {SUFFIX}")
    if root not in (ROOT, ""):
        raise InputError(f"root must be {ROOT!r} or nothing, got {root!r}")
    if path.exists():
        raise CheckpointError(f"{path} exists already: choose another name, or remove it first")
    if config.classifier:
        raise CheckpointError(
            "a classifier has no place in big_vision's npz: expected a SigLIP model or a tower of one"
        )
    for tower in (config.image, config.text):
        if tower and tower.layer_norm_eps != LAYER_NORM_EPS:
            raise CheckpointError(
                f"layer_norm_eps is {tower.layer_norm_eps}, and big_vision's npz has no place for it: its models have "
                f"{LAYER_NORM_EPS}"
            )
    shapes = check_saving(path, config, params, dtype)
    places = npz_layouts(config, BLOCKS if stacked else ())
    if config.text and is_identity(params):
        places = {name: place for name, place in places.items() if not name.startswith("text.head.")}
    uses = {f"{root}{key}": names for key, names in users(places).items()}

    def array(name: str) -> NDArray[Any]:
        return stored_values(uses[name], places, shapes, params, target_dtype(uses[name], params, dtype))

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_all(path.parent, {path.name: lambda temporary: write_npz(temporary, uses, array)})
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error}") from None
