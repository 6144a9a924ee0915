"""Golden traces: everything that a model computes of some images and texts, in float64, with where it came from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from npsiglip import __version__
from npsiglip.atomic import write_all
from npsiglip.checkpoint import Checkpoint
from npsiglip.errors import InputError
from npsiglip.images.decode import to_rgb
from npsiglip.images.processor import ImageProcessor
from npsiglip.model import SigLIP
from npsiglip.verify.arithmetic import EXACT, HONEST
from npsiglip.verify.backward import GRAD, LOSS, check_pairs, gradients, taps_of
from npsiglip.verify.files import ORIGIN
from npsiglip.verify.operations import IDS, PIXELS, Context, Op, forward, operations

Array = NDArray[Any]
DECODED, RESIZED = "image.decoded", "image.resized"
DTYPES = ("float64", *HONEST)
FORMAT = "npsiglip trace 1"


def hash_of(array: Array) -> str:
    """SHA-256 of an array's bytes, type and shape, in hexadecimal."""
    found = hashlib.sha256(f"{array.dtype.str} {list(array.shape)}".encode())
    found.update(np.ascontiguousarray(array).data)
    return found.hexdigest()


class Golden(Mapping[str, Array]):
    """The taps of a model for some inputs, float64, in the order of the forward pass; made when first asked for.

    Args:
        model: the model.
        images: as for `SigLIP.encode_image`, of one size each after preprocessing; or pixels; None: no image.
        texts: as for `SigLIP.encode_text`; None: no text.
        model_name: how the command line names the model.
        gradients: with the loss of image i and text i, and `grad.` and the name of each parameter.

    Attributes:
        config, params, ops, inputs: what the taps are computed from.
        origin: what goes into a file as metadata: names, hashes, versions.

    Raises:
        InputError: neither images nor texts; inputs that the model cannot take; a NaFlex model; with gradients, other
            numbers of images and texts.
    """

    def __init__(
        self, model: SigLIP, images: Any = None, texts: Any = None, model_name: str = "", gradients: bool = False
    ) -> None:
        if images is None and texts is None:
            raise InputError("a trace needs images, texts or both")
        if model.config.image is not None and model.config.image.naflex:
            raise InputError("traces of NaFlex models are not supported: expected a model whose images have one size")
        self.config, self.params, self._model = model.config, model._params, model
        self.inputs: dict[str, Array] = {}
        self.before: dict[str, Array] = {}
        self.pictures: list[Any] = []
        self.texts: list[str] = []
        self.origin: dict[str, Any] = {"format": FORMAT, "npsiglip": __version__, "numpy": np.__version__}
        self.origin["model"] = model_name or str(getattr(model._params, "source", ""))
        if images is not None:
            self._read_images(model, images)
        if texts is not None:
            self._read_texts(model, texts)
        self.origin["inputs"] = {name: hash_of(value) for name, value in self.inputs.items()}
        self.ops: list[Op] = operations(self.config, images is not None, texts is not None)
        self._taps: dict[str, Array] = {}
        self.gradients = gradients
        if gradients:
            check_pairs(Context(self.config, self.params), self.inputs)

    def _read_images(self, model: SigLIP, images: Any) -> None:
        if isinstance(images, np.ndarray) and images.ndim == 4 and images.dtype.kind == "f":
            self.inputs[PIXELS] = np.asarray(images, np.float32)
            return
        self.pictures = list(images) if isinstance(images, list | tuple) else [images]
        processor = model.processor
        assert processor is not None
        self.inputs[PIXELS] = processor(self.pictures)  # type: ignore[assignment]
        if isinstance(processor, ImageProcessor):
            decoded = [
                np.array(to_rgb(picture, f"images[{i}]", processor.do_convert_rgb, processor.decoding))
                for i, picture in enumerate(self.pictures)
            ]
            self.before |= {f"{DECODED}.{i}": picture for i, picture in enumerate(decoded)}
            self.before[RESIZED] = np.stack([processor.resize(picture) for picture in self.pictures])

    def _read_texts(self, model: SigLIP, texts: Any) -> None:
        if isinstance(texts, np.ndarray):
            self.inputs[IDS] = texts
            return
        self.texts = [texts] if isinstance(texts, str) else list(texts)
        tokenizer = model.tokenizer
        if tokenizer is None:
            raise InputError("the model's folder has no tokenizer: give token ids, or put its files there")
        self.inputs[IDS] = np.asarray(tokenizer(self.texts))
        self.origin["texts"] = self.texts
        self.origin["pieces"] = [tokenizer.tokenize(text) for text in self.texts]

    @property
    def processor(self) -> Any:
        """The model's image processor, or None."""
        return self._model.processor

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer, or None."""
        return self._model.tokenizer

    def computed(self, dtype: str = "float64") -> Iterator[tuple[str, Array]]:
        """Every tap in order, one at a time, as an honest implementation in a dtype computes it."""
        context = Context(self.config, self.params, EXACT if dtype == "float64" else HONEST[dtype][0])
        if not self.gradients:
            yield from forward(context, self.ops, self.inputs)
            return
        taps = taps_of(context, self.ops, self.inputs)
        yield from ((op.tap, taps[op.tap]) for op in self.ops)
        found = gradients(context, self.ops, taps)
        yield LOSS, np.asarray(found.loss, context.arithmetic.dtype)
        yield from ((GRAD + name, found.grads[name]) for name in self.params)

    def _made(self) -> dict[str, Array]:
        if not self._taps:
            self._taps = {**self.before, **self.inputs, **dict(self.computed())}
        return self._taps

    def __getitem__(self, name: str) -> Array:
        return self._made()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._made())

    def __len__(self) -> int:
        return len(self._made())


def weights_hash(params: Mapping[str, Array]) -> str:
    """SHA-256 of all parameters, in order: the same for the same numbers in any format."""
    found = hashlib.sha256()
    for name in params:
        values = np.ascontiguousarray(np.asarray(params[name], np.float32))
        found.update(f"{name} {list(values.shape)}".encode())
        found.update(values.data)
    return found.hexdigest()


def write_trace(path: Path, golden: Golden, patterns: Sequence[str] = (), dtype: str = "float64") -> int:
    """Write the taps whose names fit one of the patterns, or all, to a .safetensors or .npz file; returns how many.

    Raises:
        InputError: another suffix, a pattern that fits nothing, a place that cannot be written.
    """
    if path.suffix not in (".safetensors", ".npz"):
        raise InputError(f"{path} must end in .safetensors or .npz, which decides on the format")
    wanted: dict[str, Array] = {}
    for name, value in [*golden.before.items(), *golden.inputs.items(), *golden.computed(dtype)]:
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns):
            wanted[name] = np.array(value)
    if not wanted:
        raise InputError(f"no tap is called {' or '.join(patterns)}: see the names in docs/glossary.md")
    origin = golden.origin | {"dtype": dtype}
    if isinstance(golden.params, Checkpoint):
        origin["weights"] = weights_hash(golden.params)
    order = json.dumps(list(wanted))

    def safetensors(temporary: Path) -> None:
        save_file(wanted, temporary, {"npsiglip": json.dumps(origin), "order": order})

    def npz(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **wanted, **{ORIGIN: np.array(json.dumps(origin))})  # type: ignore[arg-type]

    try:
        write_all(path.parent, {path.name: safetensors if path.suffix == ".safetensors" else npz})
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}): expected a folder that exists"
        ) from None
    return len(wanted)
