"""Scenes as pixels, with Pillow: every object is a mask, drawn large and averaged, that colours are pasted through.

Left out: occlusion between objects, perspective, photographs.
"""

from __future__ import annotations

import math
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from npsiglip.world.fonts import fonts_of, glyph_mask
from npsiglip.world.masks import NOISE_LEVELS, NOISE_STEP, Tables
from npsiglip.world.palette import DARKER, LIGHTER, between, distance, luma
from npsiglip.world.sampling import CONTRAST, pick
from npsiglip.world.scene import RGB, Background, Scene, Thing
from npsiglip.world.shapes import Polygon, inset, outline, strokes

OVER: Final = 4  # masks are drawn this much larger

BORDERS: Final = {"cross": 0.085, "star": 0.09, "moon": 0.1}  # of the diameter; others take:
BORDER: Final = 0.12
PEN: Final = 0.07  # of the diameter: lines around what is filled

_HALF: Final = [value // 2 for value in range(256)]


class Patch:
    """The square of the picture that an object lies in, and how its outline gets there."""

    def __init__(self, thing: Thing, size: int, rng: Random) -> None:
        cx, cy, diameter = thing.x * size, thing.y * size, thing.diameter * size
        half = math.ceil(0.66 * diameter) + 2 * size // 64
        x, y = math.floor(cx) - half, math.floor(cy) - half
        self.side = 2 * half + 1
        self.box = (x, y, x + self.side, y + self.side)
        angle, aspect = math.radians(thing.angle), 1 + 0.07 * (2 * rng.random() - 1)
        shear = 0.06 * (2 * rng.random() - 1)
        c, s = math.cos(angle) * diameter * OVER, math.sin(angle) * diameter * OVER
        # rows times this: stretched and sheared, then turned
        self.matrix = np.array([[c * aspect, s * aspect], [c * shear - s, s * shear + c]], np.float32)
        self.centre = np.array([(cx - x) * OVER, (cy - y) * OVER], np.float32)

    def mask(self, outer: Polygon, hole: Polygon | None = None) -> Image.Image:
        """Mode L: inside `outer` but not inside `hole`, polygons of diameter 1."""
        image = Image.new("L", (self.side * OVER, self.side * OVER))
        draw = ImageDraw.Draw(image)
        draw.polygon((outer @ self.matrix + self.centre).ravel().tolist(), 255)
        if hole is not None:
            draw.polygon((hole @ self.matrix + self.centre).ravel().tolist(), 0)
        return image.reduce(OVER)

    def glyph(self, mask: Image.Image) -> Image.Image:
        """Mode L: a glyph's mask, scaled so that neither side is longer than the diameter, and turned."""
        width, height = mask.size
        per_pixel = max(height, 0.95 * width) / OVER
        (p, q), (r, s) = self.matrix.tolist()
        scale = OVER * OVER * per_pixel / (p * s - q * r)
        a, b, d, e = s * scale, -r * scale, -q * scale, p * scale  # from the picture back to the mask
        x, y = (self.centre / OVER).tolist()
        return mask.transform(
            (self.side, self.side),
            Image.Transform.AFFINE,
            (a, b, width / 2 - a * x - b * y, d, e, height / 2 - d * x - e * y),
            Image.Resampling.BILINEAR,
        )


def _rough(polygon: Polygon, tables: Tables, amount: float, rng: Random) -> Polygon:
    """The polygon as a hand would draw it: its corners not quite where they belong."""
    start = int(rng.random() * (len(tables.jitter) - len(polygon)))
    return polygon + tables.jitter[start : start + len(polygon)] * np.float32(amount)


def _ink(behind: RGB) -> RGB:
    """What is seen on it: nearly black or nearly white."""
    return (250, 250, 246) if luma(behind) < 118 else (18, 18, 22)


def _cutting(table: Image.Image, side: int, rng: Random) -> Image.Image:
    room = table.size[0] - side
    x, y = int(rng.random() * (room + 1)), int(rng.random() * (room + 1))
    return table.crop((x, y, x + side, y + side))


def _mask(thing: Thing, patch: Patch, size: int, rng: Random) -> Image.Image:
    """What of the patch the object covers."""
    if thing.is_glyph:
        height = math.ceil(thing.diameter * size / 8) * 8
        return patch.glyph(glyph_mask(pick(rng, fonts_of(thing.shape)), thing.shape, height))
    if thing.style == "outline":
        return patch.mask(outline(thing.shape).outer, inset(thing.shape, BORDERS.get(thing.shape, BORDER)))
    return patch.mask(*outline(thing.shape))


def _gradient(
    image: Image.Image, thing: Thing, patch: Patch, mask: Image.Image, behind: RGB, tables: Tables, rng: Random
) -> None:
    """Towards a lighter or a darker shade, whichever stays apart from what is behind."""
    ramp = pick(rng, tables.small_ramps).resize(mask.size, Image.Resampling.BILINEAR)
    first, other = (LIGHTER, DARKER) if rng.random() < 0.5 else (DARKER, LIGHTER)
    end = first[thing.colour]
    if distance(end, behind) < CONTRAST:
        end = other[thing.colour]
    image.paste(end, patch.box, ImageChops.multiply(mask, ramp))


def _paint(image: Image.Image, thing: Thing, background: Background, tables: Tables, rng: Random) -> None:
    """One object onto the picture."""
    size, style, rgb = tables.size, thing.style, thing.rgb
    patch = Patch(thing, size, rng)
    if style == "sketch":
        amount = max(0.022, 0.0055 / thing.diameter)
        mask = patch.mask(_rough(strokes(thing.shape, 0.0), tables, amount, rng), outline(thing.shape).hole)
    else:
        mask = _mask(thing, patch, size, rng)
    if style == "soft":
        mask = mask.filter(ImageFilter.BoxBlur((0.022 * thing.diameter + 0.006) * size))
    elif style == "glow":
        halo = mask.filter(ImageFilter.BoxBlur(size / 26)).point(_HALF)
        image.paste(LIGHTER[thing.colour], patch.box, halo)
    elif style == "shadow":
        step = max(1, round((0.03 + 0.025 * rng.random()) * size))
        x0, y0, x1, y1 = patch.box
        dx, dy = step, step if rng.random() < 0.7 else -step
        dark = between(background.rgb, (0, 0, 0), 0.75)
        image.paste(dark, (x0 + dx, y0 + dy, x1 + dx, y1 + dy), mask.point(_HALF))
    image.paste(rgb, patch.box, mask)
    if style == "gradient":
        _gradient(image, thing, patch, mask, background.rgb, tables, rng)
    if thing.texture != "plain":
        choice = tables.textures[thing.texture]
        if thing.size != "large":
            choice = choice[: len(choice) // 2]  # the finer ones
        table = pick(rng, choice)
        image.paste(_ink(background.rgb), patch.box, ImageChops.multiply(mask, _cutting(table, patch.side, rng)))
    if style == "sketch":
        outer, inner = (_rough(strokes(thing.shape, border), tables, 0.02, rng) for border in (0.0, PEN))
        image.paste(DARKER[thing.colour], patch.box, patch.mask(outer, inner))
    elif style == "contour":
        image.paste(_ink(background.rgb), patch.box, patch.mask(outline(thing.shape).outer, inset(thing.shape, PEN)))


def _behind(background: Background, tables: Tables, rng: Random) -> Image.Image:
    """The picture without its objects."""
    size, second = tables.size, background.second
    image = Image.new("RGB", (size, size), background.rgb)
    match background.pattern:
        case "gradient":
            image.paste(second, (0, 0, size, size), pick(rng, tables.ramps))
        case "horizon":
            image.paste(second, (0, round(size * (0.35 + 0.4 * rng.random())), size, size))
        case "striped":
            image.paste(second, (0, 0, size, size), _cutting(pick(rng, tables.wide_stripes), size, rng))
        case "speckled":
            image.paste(second, (0, 0, size, size), _cutting(pick(rng, tables.specks), size, rng))
        case "cloudy":
            image.paste(second, (0, 0, size, size), _cutting(pick(rng, tables.clouds), size, rng))
    return image


def draw(scene: Scene, tables: Tables, rng: Random) -> NDArray[np.uint8]:
    """The scene's picture [S, S, 3]; details that no caption mentions come from `rng`."""
    image = _behind(scene.background, tables, rng)
    for thing in scene.things:
        _paint(image, thing, scene.background, tables, rng)
    size, room = tables.size, tables.side - tables.size
    x, y = int(rng.random() * room), int(rng.random() * room)
    level = min(round(scene.noise / NOISE_STEP), NOISE_LEVELS - 1)
    pixels = tables.noise[level][y : y + size, x : x + size] + np.asarray(image)
    if scene.brightness:
        pixels += np.int16(scene.brightness)
    done: NDArray[np.uint8] = np.clip(pixels, 0, 255, out=pixels).astype(np.uint8)
    return done
