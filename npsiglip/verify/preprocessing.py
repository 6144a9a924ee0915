"""Mistakes before the towers: in pixels, and in token ids.

Each gives what a port would have made of the same pictures and texts. A candidate's own pixels and ids are compared
with the truth first, then with all of these.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.interrupts import deferred
from npsiglip.texts.siglip import Tokenizer, canonicalize

Array = NDArray[Any]

SUMMARIES: dict[str, str] = {
    "bgr": "blue, green, red instead of red, green, blue",
    "resize_nearest": "resized with the nearest pixel",
    "resize_bilinear": "resized bilinear, where the model has bicubic",
    "resize_bicubic": "resized bicubic, where the model has bilinear",
    "resize_lanczos": "resized with Lanczos' filter",
    "resize_without_antialias": "resized bicubic without antialias (a = -0.5)",
    "resize_opencv_cubic": "resized bicubic without antialias (a = -0.75), as OpenCV's INTER_CUBIC and PyTorch do",
    "resize_bilinear_without_antialias": "resized bilinear without antialias, as OpenCV's INTER_LINEAR does",
    "centre_crop": "the short side resized and the middle cut out, instead of squashed",
    "padded_to_a_square": "padded to a square before it was resized",
    "clip_mean_and_deviation": "normalised with CLIP's mean and deviation",
    "imagenet_mean_and_deviation": "normalised with ImageNet's mean and deviation",
    "range_0_to_255": "bytes from 0 to 255, not normalised",
    "range_0_to_1": "from 0 to 1, not from -1 to 1",
    "normalised_twice": "normalised twice",
    "rescaled_by_256": "bytes divided by 256, not by 255",
    "transposed": "rows and columns of the picture exchanged",
    "flipped": "upside down",
    "exif_ignored": "the file's EXIF orientation is ignored",
    "alpha_dropped": "transparency is dropped, where it should be put on white",
    "pad_id_0": "padded with id 0",
    "pad_id_1": "padded with id 1",
    "unpadded": "not padded to the model's length",
    "padded_left": "padded on the left",
    "not_lowered": "letters keep their case",
    "punctuation_kept": "punctuation is kept",
    "punctuation_lost": "punctuation is deleted",
    "end_missing": "no end-of-text id behind the text",
    "end_twice": "two end-of-text ids",
    "beginning_added": "a beginning-of-text id in front",
    "cut_without_an_end": "a text that is too long loses its end-of-text id",
}


# -- pixels -----------------------------------------------------------------------------------------------------------


def _weights(size: int, new: int, a: float, cubic: bool) -> tuple[Array, Array]:
    """For each new pixel the old ones around it and their weights: no wider when the picture shrinks."""
    at = (np.arange(new) + 0.5) * size / new - 0.5
    base = np.floor(at).astype(int)
    taps = np.arange(-1, 3) if cubic else np.arange(0, 2)
    distance = np.abs(at[:, None] - (base[:, None] + taps))
    if cubic:
        near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
        far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
        weights = np.where(distance <= 1, near, np.where(distance < 2, far, 0))
    else:
        weights = np.maximum(0, 1 - distance)
    return np.clip(base[:, None] + taps, 0, size - 1), weights


def _plain_resize(picture: Array, size: int, a: float, cubic: bool = True) -> Array:
    """[H, W, 3] bytes -> [S, S, 3] bytes, without antialias."""
    x = picture.astype(np.float64)
    for axis in (0, 1):
        places, weights = _weights(x.shape[axis], size, a, cubic)
        moved = np.moveaxis(x, axis, 0)
        x = np.moveaxis(np.einsum("nt,nt...->n...", weights, moved[places]), 0, axis)
    return np.asarray(np.clip(np.round(x), 0, 255), np.uint8)


def _pillow(picture: Array, size: tuple[int, int], resample: int) -> Array:
    with deferred():
        from PIL import Image
    return np.array(Image.fromarray(picture).resize(size, resample=resample))


def _cropped(picture: Array, size: int, resample: int) -> Array:
    height, width = picture.shape[:2]
    scale = size / min(height, width)
    x = _pillow(picture, (max(size, round(width * scale)), max(size, round(height * scale))), resample)
    top, left = (x.shape[0] - size) // 2, (x.shape[1] - size) // 2
    return x[top : top + size, left : left + size]


def _padded(picture: Array, size: int, resample: int) -> Array:
    height, width = picture.shape[:2]
    side = max(height, width)
    canvas = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = picture
    return _pillow(canvas, (size, size), resample)


def _channels_first(pictures: list[Array], mean: Any, std: Any, scale: float = 255.0) -> Array:
    x = np.stack(pictures).astype(np.float64) / scale
    return np.asarray(((x - np.asarray(mean)) / np.asarray(std)).transpose(0, 3, 1, 2))


CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def pixels_by_mistake(
    decoded: list[Array], sources: list[Any], settings: Any, size: int
) -> Iterator[tuple[str, Array]]:
    """Names of mistakes, and the pixels [N, 3, S, S] that they would give.

    Args:
        decoded: the pictures, bytes [H, W, 3].
        sources: what they were read from, for what a file says beside its bytes.
        settings: of the model's image processor.
        size: S.
    """
    mean, std, resample = settings.image_mean, settings.image_std, settings.resample

    def normal(pictures: list[Array]) -> Array:
        return _channels_first(pictures, mean, std)

    def resized(how: Callable[[Array], Array]) -> Array:
        return normal([how(picture) for picture in decoded])

    right = [_pillow(picture, (size, size), resample) for picture in decoded]
    yield "bgr", normal(right)[:, ::-1]
    for name, filter_ in (("nearest", 0), ("bilinear", 2), ("bicubic", 3), ("lanczos", 1)):
        if filter_ != resample:
            yield f"resize_{name}", resized(lambda picture, f=filter_: _pillow(picture, (size, size), f))  # type: ignore[misc]
    yield "resize_without_antialias", resized(lambda picture: _plain_resize(picture, size, -0.5))
    yield "resize_opencv_cubic", resized(lambda picture: _plain_resize(picture, size, -0.75))
    yield "resize_bilinear_without_antialias", resized(lambda picture: _plain_resize(picture, size, 0, cubic=False))
    yield "centre_crop", resized(lambda picture: _cropped(picture, size, resample))
    yield "padded_to_a_square", resized(lambda picture: _padded(picture, size, resample))
    yield "clip_mean_and_deviation", _channels_first(right, *CLIP)
    yield "imagenet_mean_and_deviation", _channels_first(right, *IMAGENET)
    yield "range_0_to_255", _channels_first(right, 0, 1, 1)
    yield "range_0_to_1", _channels_first(right, 0, 1)
    yield "normalised_twice", (normal(right) - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    yield "rescaled_by_256", _channels_first(right, mean, std, 256)
    yield "transposed", normal(right).swapaxes(2, 3)
    yield "flipped", normal(right)[:, :, ::-1]
    yield from _by_file(sources, lambda pictures: normal([_pillow(p, (size, size), resample) for p in pictures]))


def _by_file(sources: list[Any], normal: Callable[[list[Array]], Array]) -> Iterator[tuple[str, Array]]:
    """What is lost of a file that says more than its bytes."""
    with deferred():
        from PIL import Image
    opened = []
    for source in sources:
        try:
            opened.append(source if isinstance(source, Image.Image) else Image.open(source))
        except (OSError, AttributeError, TypeError, ValueError):
            return
    if any(picture.getexif().get(0x0112, 1) != 1 for picture in opened):
        yield "exif_ignored", normal([np.array(picture.convert("RGB")) for picture in opened])
    if any("A" in picture.getbands() or "transparency" in picture.info for picture in opened):
        dropped = [np.array(picture.convert("RGBA"))[:, :, :3] for picture in opened]
        yield "alpha_dropped", normal([np.ascontiguousarray(picture) for picture in dropped])


# -- ids --------------------------------------------------------------------------------------------------------------


def _rows(ids: list[list[int]], length: int, pad: int, left: bool = False) -> Array:
    rows = np.full((len(ids), length), pad, np.int64)
    for row, own in zip(rows, ids, strict=True):
        own = own[:length]
        row[length - len(own) if left else 0 : length if left else len(own)] = own
    return rows


def ids_by_mistake(texts: list[str], tokenizer: Any) -> Iterator[tuple[str, Array]]:
    """Names of mistakes, and the ids [K, L] that they would give."""
    length, pad, end = tokenizer.seq_len, tokenizer.pad_id, tokenizer.eos_id
    closed = [tokenizer.encode(text) for text in texts]
    whole = [[*own[: length - 1], end] if len(own) > length else own for own in closed]
    open_ = [own[:-1] for own in whole]
    if pad != 0:
        yield "pad_id_0", _rows(whole, length, 0)
    if pad != 1:
        yield "pad_id_1", _rows(whole, length, 1)
    yield "unpadded", _rows(whole, max(map(len, whole)), pad)
    yield "padded_left", _rows(whole, length, pad, left=True)
    yield "end_missing", _rows(open_, length, 0 if pad == end else pad)
    yield "end_twice", _rows([[*own, end] for own in whole], length, 0 if pad == end else pad)
    yield "beginning_added", _rows([[2, *own] for own in whole], length, pad)
    yield "cut_without_an_end", _rows(closed, length, pad)
    yield from _other_texts(texts, tokenizer, length)


def _other_texts(texts: list[str], tokenizer: Any, length: int) -> Iterator[tuple[str, Array]]:
    """Texts that are cleaned in another way."""

    def rows(changed: list[list[int]]) -> Array:
        end, most = tokenizer.eos_id, length - 1
        return _rows([[*own[:most], end] for own in changed], length, tokenizer.pad_id)

    if isinstance(tokenizer, Tokenizer):
        cased = copy.copy(tokenizer)
        cased.canonicalize = not tokenizer.canonicalize
        yield "not_lowered", np.asarray(cased(texts))
        encode = tokenizer._model.encode
        yield "punctuation_kept", rows([list(encode(text.lower())) for text in texts])
    else:
        yield "punctuation_lost", np.asarray(tokenizer([canonicalize(text) for text in texts]))


def equal_ids(found: Array, expected: Mapping[str, Array] | Array) -> bool:
    """Whether ids are the same numbers in the same shape."""
    other = np.asarray(expected)
    return found.shape == other.shape and bool((np.asarray(found) == other).all())
