"""Models in files, read lazily: folders of Hugging Face, of open_clip and timm, in 8 bits, and big_vision's npz.

Everything that headers can tell is checked when a model is opened: every tensor is consumed exactly once and has
the shape that config.json, or the rest of an npz, asks for. Values are checked for NaN and infinity when they are first
taken.

Source: the folders that Hugging Face's `save_pretrained` writes; `npsiglip.formats.quantized` for those in 8 bits; the
npz that big_vision's `utils.save_checkpoint` writes (docs/formats.md).

Leaves out: PyTorch pickles, tensors that others quantised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.errors import CheckpointError
from npsiglip.finite import all_finite, describe_non_finite
from npsiglip.formats.adapter import explain, is_adapter
from npsiglip.formats.big_vision_config import npz_config
from npsiglip.formats.big_vision_names import form_of
from npsiglip.formats.cut_out import find_tower
from npsiglip.formats.matching import (
    Entries,
    match_folder,
    match_npz,
    match_quantized,
    quantized_shapes,
)
from npsiglip.formats.npz import SUFFIX, open_npz
from npsiglip.formats.openclip import open_openclip
from npsiglip.formats.quantized import TABLE, is_quantized
from npsiglip.formats.safetensors import open_folder
from npsiglip.formats.sentence_transformers import model_inside
from npsiglip.formats.stored import FLOATS, TYPES, StoredTensor, is_aligned
from npsiglip.formats.told import HUGGING_FACE, NOTHING_TOLD, Told, folder_form
from npsiglip.hub.cache import hint
from npsiglip.hub.resolve import model_folder
from npsiglip.params import StoredParams, param_shapes


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
                    f"{stored.path}: {name} (stored as {place.key}) has {describe_non_finite(values)}; expected "
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

    @property
    def files(self) -> list[Path]:
        """The files that decide on the values: those of the weights, and of an adapter."""
        files = {stored.path for _, stored in self._entries.values()}
        if self._said[1] is not None:
            files |= {path for path in Path(self._said[1]).iterdir() if path.is_file()}
        return sorted(files)

    @property
    def adapter(self) -> str | None:
        """The folder of the adapter that is merged into the model."""
        return self._said[1]

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
