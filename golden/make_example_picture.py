"""Draws docs/images/example.png, the picture of README's first command: `python golden/make_example_picture.py`.

A red circle and a blue square on a grey wall of plaster, 320 x 240. Everything comes from a seed; the file depends on
the version of Pillow only through how PNG is compressed.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

TARGET = Path(__file__).parent.parent / "docs" / "images" / "example.png"
SIZE = WIDTH, HEIGHT = 320, 240
SUPERSAMPLING = 4  # shapes are drawn larger and reduced, for smooth edges
COLOURS = 160
SEED = 320240

CIRCLE = (34, 52, 154, 172)
SQUARE = (184, 74, 284, 174)
RED, BLUE, SHADOW = (206, 38, 38), (36, 74, 190), (60, 58, 56)


def plaster(seed: int) -> Image.Image:
    """Smooth noise at two scales around a light grey, darker towards the floor."""
    rng = np.random.default_rng(seed)
    wall = np.zeros((HEIGHT, WIDTH))
    for cell, strength in ((40, 10.0), (8, 5.0)):
        coarse = rng.integers(0, 256, (HEIGHT // cell + 2, WIDTH // cell + 2), dtype=np.uint8)
        smooth = Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC)
        wall += strength * (np.asarray(smooth) / 127.5 - 1.0)
    wall += 196.0 - 24.0 * np.linspace(0, 1, HEIGHT)[:, None] ** 2
    tint = np.array([1.0, 0.98, 0.94])
    return Image.fromarray((wall[:, :, None] * tint).round().clip(0, 255).astype(np.uint8))


def mask(shape: str, box: tuple[int, int, int, int], blur: float = 0.0) -> Image.Image:
    """An "ellipse" or "rectangle" in a box, as an L image with smooth edges."""
    large = Image.new("L", (WIDTH * SUPERSAMPLING, HEIGHT * SUPERSAMPLING))
    getattr(ImageDraw.Draw(large), shape)([SUPERSAMPLING * v for v in box], fill=255)
    small = large.resize(SIZE, Image.Resampling.BOX)
    return small.filter(ImageFilter.GaussianBlur(blur)) if blur else small


def draw(seed: int = SEED) -> Image.Image:
    """The picture, RGB."""
    image = plaster(seed)
    for shape, box, colour in (("ellipse", CIRCLE, RED), ("rectangle", SQUARE, BLUE)):
        shadow = tuple(v + 6 for v in box)
        image.paste(SHADOW, mask=mask(shape, shadow, blur=5.0).point(lambda v: v // 2))
        image.paste(colour, mask=mask(shape, box))
    return image


def main() -> None:
    """The command line."""
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    few = draw().quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB")  # compresses better
    few.save(TARGET, optimize=True)
    print(f"{TARGET.relative_to(TARGET.parents[2])}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
