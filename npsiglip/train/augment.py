"""Pictures as they are shown: cropped, turned, mirrored, recoloured, blurred, cut-outs put on backgrounds.

One affine step does crop, aspect, rotation, flip and size at once. Before it the picture is halved as often as it stays
twice as large as what is wanted, so that nothing is skipped over. The same picture, settings and random numbers give
the same bytes.
"""

from __future__ import annotations

import math
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from npsiglip.pairs.settings import AugmentSettings

LUMA = (0.299, 0.587, 0.114)
_ON_WHITE = AugmentSettings()


def reduced(picture: Image.Image, size: int) -> Image.Image:
    """The picture with its shorter side less than 4 * `size`, as small as keeps twice what is needed."""
    factor = min(picture.size) // (2 * size)
    return picture.reduce(factor) if factor > 1 else picture


def _placed(picture: Image.Image, size: int, rng: Random, settings: AugmentSettings, flip: bool) -> Image.Image:
    """[size, size] of the picture: a part of an opaque one, the whole of a cut-out somewhere within the square."""
    width, height = picture.size
    cut_out = picture.mode == "RGBA"
    draws = [rng.random() for _ in range(6)]
    stretch = settings.aspect ** (2 * draws[0] - 1)
    if cut_out:  # it fills from `crop` to all of the square
        filled = settings.crop + draws[1] * (1 - settings.crop)
        side = max(width, height) / filled
        wide, high = side * stretch**0.5, side / stretch**0.5
        free_x, free_y = wide - width, high - height
        left, top = -free_x * draws[2], -free_y * draws[3]
    else:  # from `crop` to all of the area, squashed to a square as the model's processor does
        part = (settings.crop + draws[1] * (1 - settings.crop)) ** 0.5
        wide, high = (min(1.0, part * stretch**0.5) * width, min(1.0, part / stretch**0.5) * height)
        left, top = (width - wide) * draws[2], (height - high) * draws[3]
    angle = math.radians(settings.rotate * (2 * draws[4] - 1))
    mirror = flip and draws[5] < 0.5
    if not (cut_out or angle or mirror):
        return picture.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + wide, top + high))
    # out (x, y) in [0, size) -> in: scaled, mirrored and turned about the centre of the part
    scale_x, scale_y = wide / size * (-1 if mirror else 1), high / size
    centre_x, centre_y = left + wide / 2, top + high / 2
    cos, sin = math.cos(angle), math.sin(angle)
    a, b, d, e = scale_x * cos, -scale_y * sin, scale_x * sin, scale_y * cos
    c = centre_x - (a + b) * size / 2
    f = centre_y - (d + e) * size / 2
    factor = int(min(wide, high) / size)
    if factor > 1:  # an affine step looks at neighbours alone
        picture = picture.reduce(factor)
        a, b, c, d, e, f = (value / factor for value in (a, b, c, d, e, f))
    outside = None if cut_out else picture.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))  # its mean colour
    return picture.transform(
        (size, size), Image.Transform.AFFINE, (a, b, c, d, e, f), Image.Resampling.BICUBIC, fillcolor=outside
    )


def _colour(rng: Random) -> tuple[int, int, int]:
    return int(256 * rng.random()), int(256 * rng.random()), int(256 * rng.random())


def _background(kind: str, size: int, rng: Random) -> Image.Image:
    """RGB [size, size]."""
    if kind == "white":
        return Image.new("RGB", (size, size), (255, 255, 255))
    first, second = _colour(rng), _colour(rng)
    if kind == "plain":
        return Image.new("RGB", (size, size), first)
    if kind == "light":  # dark strokes are seen on it
        return Image.new("RGB", (size, size), (255 - first[0] // 4, 255 - first[1] // 4, 255 - first[2] // 4))
    if kind == "gradient":  # from the corners' colours
        corners = Image.new("RGB", (2, 2))
        corners.putdata([first, second, second, first] if rng.random() < 0.5 else [first, first, second, second])
        half = (0.5, 0.5, 1.5, 1.5)  # from the middle of one corner to the middle of the other
        return corners.resize((size, size), Image.Resampling.BILINEAR, half)
    cells = 4 if kind == "pattern" else size
    noise = Image.frombytes("RGB", (cells, cells), rng.randbytes(3 * cells * cells))
    if kind == "pattern":  # a few cells, blown up smoothly
        return noise.resize((size, size), Image.Resampling.BICUBIC)
    return Image.blend(Image.new("RGB", (size, size), first), noise, 0.4)


def _on_background(picture: Image.Image, rng: Random, settings: AugmentSettings) -> Image.Image:
    kind = settings.background[int(rng.random() * len(settings.background))]
    ground = _background(kind, picture.size[0], rng)
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


def recolouring(brightness: float, contrast: float, saturation: float, turn: float) -> NDArray[np.float64]:
    """What changes colours, as one matrix [3, 4] for values from 0 to 255.

    In the order: the hue is turned by `turn` of a circle about the grey axis, saturation is scaled about the brightness
    of each pixel, contrast about mid-grey, and everything is multiplied with `brightness`.
    """
    grey = np.outer(np.ones(3), LUMA)
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    axis, cross = np.full((3, 3), 1 / 3), np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    hue = cos * np.eye(3) + sin * cross + (1 - cos) * axis  # Rodrigues' rotation
    mixed = (grey + saturation * (np.eye(3) - grey)) @ hue
    return brightness * np.column_stack([contrast * mixed, np.full(3, 127.5 * (1 - contrast))])


def _recoloured(picture: Image.Image, rng: Random, strength: float) -> Image.Image:
    brightness, contrast, saturation, turn = (strength * (2 * rng.random() - 1) for _ in range(4))
    matrix = recolouring(1 + brightness, 1 + contrast, 1 + saturation, turn / 6)
    return picture.convert("RGB", tuple(matrix.ravel().tolist()))


def outlined(picture: Image.Image) -> Image.Image:
    """Its edges, dark on white, the sharpest black: RGB [size, size]."""
    size = picture.size[0]
    edges = picture.filter(ImageFilter.GaussianBlur(0.5)).filter(ImageFilter.FIND_EDGES).convert("L")
    frame = Image.new("L", (size, size))  # the border has no neighbours to differ from
    frame.paste(edges.crop((1, 1, size - 1, size - 1)), (1, 1))
    found = np.asarray(frame, np.int64)
    return Image.fromarray((255 - found * 255 // max(int(found.max()), 1)).astype(np.uint8)).convert("RGB")


def shown(picture: Image.Image, size: int, rng: Random, settings: AugmentSettings, flip: bool) -> NDArray[np.uint8]:
    """The picture as it is shown this time.

    Args:
        picture: RGB, or RGBA, which is put on a background.
        size: S.
        rng: decides everything.
        settings: how far it may go.
        flip: whether it may be mirrored.

    Returns:
        uint8 [S, S, 3].
    """
    result = _placed(picture, size, rng, settings, flip and settings.flip)
    outline = settings.outline and rng.random() < settings.outline
    if result.mode == "RGBA":
        result = _on_background(result, rng, settings if not outline else _ON_WHITE)
    if outline:
        return np.asarray(outlined(result), np.uint8)
    if settings.ink and rng.random() < settings.ink:
        result = ImageChops.multiply(result, outlined(result))
    if settings.colour:
        result = _recoloured(result, rng, settings.colour)
    if rng.random() < settings.grey:
        result = result.convert("L").convert("RGB")
    if rng.random() < settings.blur:
        result = result.filter(ImageFilter.GaussianBlur(0.3 + rng.random()))
    return np.asarray(result, np.uint8)
