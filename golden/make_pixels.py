"""Writes golden/pixels.npz: what transformers' own `SiglipImageProcessorPil` makes of pictures of every kind.

Needs transformers 5.x and Pillow; run `python -m golden.make_pixels` from the root of the repository. The pictures
come from pictures.py; encoded files are stored, since encoders differ between the versions of Pillow. For each
processor and picture: the resized uint8 and the sha256 of the float32 pixels. Also writes the tiny model's
preprocessor_config.json, as the processor itself saves it.
"""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from golden.pictures import arrays, pil_images, write_files

HERE = Path(__file__).parent
SEED = 384
HEIGHT, WIDTH = 17, 23
TINY_SIZE = 38
PROCESSORS: dict[str, dict[str, Any]] = {
    "bicubic": {"size": {"height": TINY_SIZE, "width": TINY_SIZE}},
    "bilinear": {"size": {"height": 9, "width": 12}, "resample": 2},
    "odd": {  # per channel, so that a swapped channel shows
        "size": {"height": 8, "width": 5},
        "resample": 1,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "rescale_factor": 1 / 257,
    },
}
STORED_UINT8 = ("bilinear", "odd")  # of the third only the sha256: its pictures are ten times as large


def inputs(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every golden picture by name; files are written into `folder`."""
    yield from pil_images(SEED, HEIGHT, WIDTH)
    yield from arrays(SEED, HEIGHT, WIDTH)
    for name, path in write_files(folder, SEED, HEIGHT, WIDTH):
        yield name, str(path)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of Pillow and transformers about pictures that are strange on purpose."""
    from transformers import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def main() -> None:
    """Write pixels.npz and tiny/preprocessor_config.json."""
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    stored: dict[str, Any] = {"versions": [f"{name} {version(name)}" for name in ("transformers", "pillow", "numpy")]}
    names: list[str] = []
    sha256: dict[str, list[bytes]] = {kind: [] for kind in PROCESSORS}
    with TemporaryDirectory() as folder, quiet():
        for name, image in inputs(Path(folder)):
            names.append(name)
            if name.startswith("file-"):
                stored[name] = np.frombuffer(Path(image).read_bytes(), np.uint8)
            for kind, options in PROCESSORS.items():
                processor = SiglipImageProcessorPil(**options)
                pixels = np.ascontiguousarray(processor(image, return_tensors="np")["pixel_values"])
                sha256[kind].append(hashlib.sha256(pixels.tobytes()).digest())
                if kind in STORED_UINT8:
                    raw = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
                    stored[f"uint8/{kind}/{name}"] = raw
    stored |= {f"sha256/{kind}": np.frombuffer(b"".join(digests), "V32") for kind, digests in sha256.items()}
    stored["names"] = names
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **stored)
    (HERE / "pixels.npz").write_bytes(buffer.getvalue())
    SiglipImageProcessorPil(**PROCESSORS["bicubic"]).save_pretrained(HERE / "tiny")


if __name__ == "__main__":
    main()
