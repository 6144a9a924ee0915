"""Pictures of every Pillow mode, array shape and file format, made from a seed, for goldens and live comparison.

Pixels come from the raw stream of PCG64, which NumPy never changes, and go into Pillow as bytes, so that no conversion
of Pillow's is part of the input. A picture is half a smooth slope, on which resizing is visible, and half noise.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BYTES_PER_PIXEL = dict.fromkeys(("L", "P"), 1)
BYTES_PER_PIXEL |= dict.fromkeys(("LA", "PA", "I;16", "I;16L", "I;16B", "I;16N"), 2)
BYTES_PER_PIXEL |= dict.fromkeys(("RGB", "YCbCr", "LAB", "HSV"), 3)
BYTES_PER_PIXEL |= dict.fromkeys(("RGBA", "RGBX", "RGBa", "CMYK", "I", "F"), 4)
MODES = ("1", *BYTES_PER_PIXEL)
ORIENTATION = 0x0112  # the EXIF tag


def noise(seed: int, *shape: int) -> NDArray[np.uint8]:
    """Bytes that are all equally likely."""
    words = np.random.PCG64(seed).random_raw(int(np.prod(shape)))
    return (words >> np.uint64(56)).astype(np.uint8).reshape(shape)


def picture(seed: int, height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """uint8 [height, width, channels]: slopes that differ between the channels, noise in the lower right half."""
    y, x, c = np.ogrid[:height, :width, :channels]
    slope = 255 * (y * (c + 1) + x * (channels - c)) // max(1, (height + width - 2) * (channels + 1))
    return np.where(y * width + x * height > height * width, noise(seed, height, width, channels), slope).astype(
        np.uint8
    )


def pil_image(seed: int, mode: str, height: int, width: int) -> Image.Image:
    """A PIL image of `mode`; palettes are of 256 colours; alphas take every value."""
    if mode == "1":
        image = Image.frombytes("1", (width, height), noise(seed, height, (width + 7) // 8).tobytes())
    elif mode == "F":  # below 0, above 255 and between the whole numbers
        values = picture(seed, height, width, 1).astype(np.float32) * np.float32(1.7) - np.float32(40.3)
        image = Image.frombytes("F", (width, height), values.tobytes())
    elif mode == "I":
        values = picture(seed, height, width, 1).astype(np.int32) * 3 - 100
        image = Image.frombytes("I", (width, height), values.tobytes())
    elif mode in ("P", "PA"):
        image = Image.frombytes(mode, (width, height), picture(seed, height, width, len(mode)).tobytes())
        image.putpalette(noise(seed + 1, 768).tobytes())
    else:
        image = Image.frombytes(mode, (width, height), picture(seed, height, width, BYTES_PER_PIXEL[mode]).tobytes())
    return image


def pil_images(seed: int, height: int, width: int) -> Iterator[tuple[str, Image.Image]]:
    """Every mode that Hugging Face can convert, and the kinds of transparency that are not an alpha channel."""
    for i, mode in enumerate(MODES):
        yield f"pil-{mode}", pil_image(seed + 10 * i, mode, height, width)
    rgb = pil_image(seed, "RGB", height, width)
    transparencies = {
        "P": (3, bytes(noise(seed + 2, 200)), b""),
        "L": (int(picture(seed, height, width, 1)[0, 0, 0]),),
        "RGB": (rgb.getpixel((width - 1, 0)),),
        "1": (0,),
    }
    for mode, values in transparencies.items():
        for i, value in enumerate(values):
            image = pil_image(seed, mode, height, width)
            image.info["transparency"] = value
            yield f"pil-{mode}-transparency{i}", image
    for orientation in (6, 9):  # 9 does not exist; neither may turn a PIL image
        rgb = pil_image(seed, "RGB", height, width)
        rgb.getexif()[ORIENTATION] = orientation
        yield f"pil-RGB-orientation{orientation}", rgb


def arrays(seed: int, height: int, width: int) -> Iterator[tuple[str, NDArray[np.generic]]]:
    """Arrays that Hugging Face takes, channels last and first, ambiguous ones included."""
    for channels in (1, 3, 4):
        last = picture(seed + channels, height, width, channels)
        yield f"array-last{channels}", last
        yield f"array-first{channels}", np.ascontiguousarray(np.moveaxis(last, -1, 0))
    for shape in ((3, 5, 3), (4, 5, 3), (1, 5, 4), (1, 1, 1), (1, 1, 3), (3, 1, 4), (4, 4, 4), (3, 3, 3), (5, 1, 1)):
        yield f"array-{'x'.join(map(str, shape))}", picture(seed, *shape)
    yield "array-batch", np.stack([picture(seed + i, height, width) for i in range(3)])
    yield "array-batch-first", np.stack([picture(seed + i, 3, height, width) for i in range(2)])
    yield "array-int64", picture(seed, height, width).astype(np.int64)
    yield "array-uint16-alpha", picture(seed, height, width, 4).astype(np.uint16)
    yield "array-strided", picture(seed, 2 * height, 3 * width)[::-2, ::3, ::-1]


def write_files(folder: Path, seed: int, height: int, width: int) -> Iterator[tuple[str, Path]]:
    """One file for each format and each thing in it that a reader can get wrong."""

    def image(mode: str, shift: int = 0) -> Image.Image:
        return pil_image(seed + shift, mode, height, width)

    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image(mode).save(folder / f"{mode.replace(';', '')}.png")
    image("P").save(folder / "P-one-transparent.png", transparency=5)
    image("P").save(folder / "P-alphas.png", transparency=bytes(noise(seed, 256)))
    image("L").save(folder / "L-transparent.png", transparency=0)
    image("RGB").save(folder / "RGB-transparent.png", transparency=image("RGB").getpixel((0, 0)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION] = orientation
        image("RGB").save(folder / f"orientation{orientation}.png", exif=exif)
    image("RGBA").save(folder / "RGBA-orientation.png", exif=exif)
    image("P").save(folder / "P-orientation.png", exif=exif, transparency=bytes(noise(seed, 256)))
    for mode in ("L", "RGB", "CMYK"):
        image(mode).save(folder / f"{mode}.jpg", quality=90, exif=exif)
    image("RGB").save(folder / "progressive.jpg", quality=60, progressive=True, subsampling=0)
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I;16B", "I", "F"):
        image(mode).save(folder / f"{mode.replace(';', '')}.tiff")
    image("RGB").save(folder / "orientation.tiff", exif=exif, compression="tiff_lzw")
    image("RGB").save(folder / "pages.tiff", save_all=True, append_images=[image("RGB", 1)])
    for mode in ("1", "L", "P", "RGB", "RGBA"):
        image(mode).save(folder / f"{mode}.bmp")
    image("P").save(folder / "P.gif")
    image("P").save(folder / "P-transparent.gif", transparency=4)
    image("P").save(folder / "animated.gif", save_all=True, append_images=[image("P", 1)], transparency=4)
    image("RGBA").save(folder / "animated.png", save_all=True, append_images=[image("RGBA", 1)])
    for name, mode in (("RGB", "RGB"), ("RGBA", "RGBA")):
        image(mode).save(folder / f"{name}.webp", lossless=True, exif=exif)
    image("RGB").save(folder / "lossy.webp", quality=70)
    image("RGBA").save(folder / "animated.webp", lossless=True, save_all=True, append_images=[image("RGBA", 1)])
    for path in sorted(folder.iterdir()):
        yield f"file-{path.name}", path
