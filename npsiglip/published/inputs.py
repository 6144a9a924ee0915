"""The pictures and pixels that published numbers are of, fetched, read or drawn.

Pixels of the authors' own preprocessing are tensors that were saved by PyTorch: a ZIP archive of a pickle and raw
numbers. Only what describes one tensor is read of the pickle, and nothing else can be named in it.

Source: `convert_siglip_to_hf.py` and `test_modeling_siglip2.py` of transformers name the files, and draw the circles.
"""

from __future__ import annotations

import collections
import io
import pickle
import urllib.request
import zipfile
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from npsiglip.errors import InputError

CATS: Final = "000000039769.jpg"
CATS_URL: Final = f"http://images.cocodataset.org/val2017/{CATS}"
PIXELS_REPO: Final = "nielsr/test-image"  # a data set
SECONDS: Final = 60  # without an answer


def pixels_name(size: int) -> str:
    """The file with the authors' pixels of two photographs, of this size."""
    return "siglip_pixel_values.pt" if size == 224 else f"siglip_pixel_values_{size}.pt"


class _Description(pickle.Unpickler):
    """What a pickled tensor says of itself; its numbers are elsewhere."""

    def find_class(self, module: str, name: str) -> Any:
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): lambda *values: values[:4],
            ("torch", "FloatStorage"): "float32",
            ("collections", "OrderedDict"): collections.OrderedDict,
        }
        if (module, name) not in known:
            raise InputError(f"expected one float32 tensor, got {module}.{name} in it")
        return known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        return pid[2]  # ("storage", type, key, device, count)


def read_tensor(path: Path) -> NDArray[np.float32]:
    """The one float32 tensor in a file that PyTorch saved.

    Raises:
        InputError: another file, or another content.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            description = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            key, offset, shape, strides = _Description(io.BytesIO(archive.read(description))).load()
            values = np.frombuffer(archive.read(f"{description.removesuffix('.pkl')}/{key}"), "<f4")[offset:]
        last = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if not prod(shape) or last >= len(values):
            raise InputError(f"{list(shape)} with strides {list(strides)} does not fit {len(values)} numbers")
        view = np.lib.stride_tricks.as_strided(values, shape, [4 * stride for stride in strides], writeable=False)
        return np.ascontiguousarray(view)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except (OSError, KeyError, ValueError, TypeError, StopIteration, pickle.UnpicklingError, zipfile.BadZipFile) as e:
        raise InputError(f"{path} cannot be read as a tensor that PyTorch saved: {e}") from None


def circles() -> list[Image.Image]:
    """Three pictures of a blue circle with a green border on red, 224 x 224, 1024 x 1024 and 1024 x 224."""
    images = []
    for height, width in ((224, 224), (1024, 1024), (224, 1024)):
        image = Image.new("RGB", (width, height), "red")
        x, y = width // 2, height // 2
        radius = min(x, y) // 8 * 7
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(image).ellipse(box, fill="blue", outline="green", width=width // 20)
        images.append(image)
    return images


def _fetch_pixels(name: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(PIXELS_REPO, name, repo_type="dataset"))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{name} of the data set {PIXELS_REPO} cannot be fetched: {error}\nput it into a folder and give --files "
            "FOLDER"
        ) from None


def _fetch_cats() -> Image.Image:
    try:
        with urllib.request.urlopen(CATS_URL, timeout=SECONDS) as answer:
            return Image.open(io.BytesIO(answer.read()))
    except OSError as error:  # also of the picture, if it is none
        raise InputError(
            f"{CATS_URL} cannot be fetched: {error}\nput it into a folder and give --files FOLDER"
        ) from None


def bring(images: str, size: int, files: Path | None) -> Any:
    """What `SigLIP.encode_image` takes.

    Args:
        images: which, see `npsiglip.published.numbers.Case`.
        size: the model's image size.
        files: a folder that holds the files, so that nothing is fetched.

    Raises:
        InputError: a file that cannot be fetched or read.
    """
    if images == "circles":
        return circles()
    if images == "cats":
        return _fetch_cats() if files is None else files / CATS
    name = pixels_name(size)
    path = _fetch_pixels(name) if files is None else files / name
    pixels = read_tensor(path)
    if pixels.shape != (2, 3, size, size):
        raise InputError(f"{path} holds {list(pixels.shape)}, expected pixels [2, 3, {size}, {size}]")
    return pixels
