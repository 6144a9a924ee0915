"""What users give a model, checked and cut into batches that its towers take.

A batch of images has one size: pixels as they are; or, with NaFlex, the patches of images whose grids are the same.
So nothing is padded, whatever stands beside an image. Results do not depend on how inputs are cut.
Dimensions: N images or texts, L tokens, P patch, M patches of the largest image.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import ImageConfig, TextConfig
from npsiglip.errors import InputError, InputWarning
from npsiglip.images.naflex import NaflexProcessor, PatchBatch, check_patches
from npsiglip.images.processor import ImageProcessor, check_pixels, flatten_images
from npsiglip.texts.base import BaseTokenizer
from npsiglip.texts.load import files_of_tokenizer

Images = Any  # what an ImageProcessor takes, one or a list of these; float32 pixels [N, 3, H, W]; or a PatchBatch
Texts = str | Sequence[str] | NDArray[np.integer]
Batch = tuple[NDArray[np.intp], Any]  # the places of its inputs among all, and what a tower takes

# Inputs go through a tower in passes of about so many tokens: enough to use every weight often, few enough that the
# activations stay in the cache. Results do not depend on it.
TOKENS_PER_PASS = 800

AT_ONCE = 64  # images of NaFlex that are prepared before those with the same grid go through the tower together


def inputs_per_pass(length: int) -> int:
    """How many images or texts of `length` tokens go through a tower at once."""
    return max(1, TOKENS_PER_PASS // length)


class Inputs(NamedTuple):
    """How many there are, all of them, batch by batch, and how a message names one by its place."""

    number: int
    batches: Iterator[Batch]
    name: Callable[[int], str]


def _namer(what: str, number: int, detail: Callable[[int], str | None]) -> Callable[[int], str]:
    """images[3], or "the image" if there is one; with a detail behind it."""

    def name(place: int) -> str:
        plain = f"{what}s[{place}]" if number > 1 else f"the {what}"
        more = detail(place)
        return f"{plain} ({more})" if more else plain

    return name


def _range(pixels: NDArray[np.floating]) -> str:
    return f"pixels from {pixels.min():g} to {pixels.max():g}"


def _spelt(item: Any) -> str | None:
    """A path or a text, not much longer than a line."""
    if not isinstance(item, str | PathLike):
        return None
    text = str(item)
    return repr(text) if len(text) <= 100 else f"{text[:60]!r}..."


def _equal_parts(n: int, most: int) -> Iterator[NDArray[np.intp]]:
    """0 ... n - 1 in parts of equal size, none larger than `most`."""
    step = max(1, -(-n // max(1, -(-n // most))))
    for start in range(0, n, step):
        yield np.arange(start, min(n, start + step))


def is_pixels(images: Images) -> bool:
    """Whether these are pixels, resized and normalised already, and not images that a processor takes."""
    return isinstance(images, np.ndarray) and images.ndim == 4 and np.issubdtype(images.dtype, np.floating)


def _non_empty(images: Images) -> list[Any]:
    items = list(flatten_images(images))
    if not items:
        raise InputError("`images` is empty; expected at least one image")
    return items


def fixed_images(
    images: Images, config: ImageConfig, processor: ImageProcessor | None, interpolate: bool, at_once: bool
) -> Inputs:
    """Images of one size: batches of pixels [n, 3, H, W].

    Args:
        images: what a user gave.
        config: of the tower.
        processor: of images that are not pixels; for pixels there may be none.
        interpolate: whether pixels of another size than the model's may come.
        at_once: all in one batch.

    Raises:
        InputError: naming the image that cannot be used; those of later batches when their turn comes.
    """
    if is_pixels(images):
        height, width = images.shape[2:] if interpolate else (config.image_size, config.image_size)
        if min(height, width) < config.patch_size:
            raise InputError(
                f"`pixels` are {height} x {width} (height x width), expected at least one patch of "
                f"{config.patch_size} x {config.patch_size}"
            )
        pixels = check_pixels(images, (height, width))
        length = (height // config.patch_size) * (width // config.patch_size)
        parts = _equal_parts(len(pixels), len(pixels) if at_once else inputs_per_pass(length))
        name = _namer("image", len(pixels), lambda place: _range(pixels[place]))
        return Inputs(len(pixels), ((part, pixels[part[0] : part[-1] + 1]) for part in parts), name)
    assert processor is not None
    items = _non_empty(images)
    rows, columns = processor.height // config.patch_size, processor.width // config.patch_size
    parts = _equal_parts(len(items), len(items) if at_once else inputs_per_pass(rows * columns))

    def batches() -> Iterator[Batch]:
        for part in parts:
            first = int(part[0])
            yield part, processor(items[first : part[-1] + 1], first if len(items) > 1 else None)

    return Inputs(len(items), batches(), _namer("image", len(items), lambda place: _spelt(items[place])))


def _same_grid(batch: PatchBatch, start: int, at_once: bool) -> Iterator[Batch]:
    """Images of a prepared batch, those with the same grid together; `start` is the place of the first among all."""
    grids = {(int(rows), int(columns)): None for rows, columns in batch.shapes}
    for rows, columns in grids:
        length = rows * columns
        found = np.flatnonzero((batch.shapes == (rows, columns)).all(axis=1))
        for part in _equal_parts(len(found), len(found) if at_once else inputs_per_pass(length)):
            yield found[part] + start, (batch.patches[found[part], :length], rows, columns)


def naflex_images(
    images: Images, config: ImageConfig, processor: NaflexProcessor | None, max_num_patches: int | None, at_once: bool
) -> Inputs:
    """Images that keep their aspect ratio: batches of patches [n, rows * columns, P * P * 3], rows and columns.

    Patches that are ready need no processor.

    Raises:
        InputError: naming the image that cannot be used; for `at_once`, images whose grids differ.
    """
    if isinstance(images, PatchBatch | Mapping):
        prepared = check_patches(images, config.patch_size)
        count = len(prepared.patches)
        name = _namer("image", count, lambda place: _range(prepared.patches[place]))
        chunks: Iterator[tuple[int, PatchBatch]] = iter([(0, prepared)])
    else:
        assert processor is not None
        items = _non_empty(images)
        count, most = len(items), len(items) if at_once else AT_ONCE
        name = _namer("image", count, lambda place: _spelt(items[place]))

        def prepare() -> Iterator[tuple[int, PatchBatch]]:
            for start in range(0, count, most):
                first = start if count > 1 else None
                yield start, processor(items[start : start + most], max_num_patches=max_num_patches, first=first)

        chunks = prepare()

    def batches() -> Iterator[Batch]:
        for start, chunk in chunks:
            if at_once and (chunk.shapes != chunk.shapes[0]).any():
                raise InputError(
                    "a trace needs images whose grids of patches are the same, got "
                    f"{sorted({tuple(map(int, shape)) for shape in chunk.shapes})}: trace them one by one"
                )
            yield from _same_grid(chunk, start, at_once)

    return Inputs(count, batches(), name)


def image_inputs(
    images: Images,
    config: ImageConfig,
    processor: Callable[[], ImageProcessor | NaflexProcessor | None],
    interpolate: bool,
    max_num_patches: int | None,
    at_once: bool = False,
) -> Inputs:
    """What an image tower takes of what a user gave, see `SigLIP.encode_image`.

    Args:
        images: what a user gave.
        config: of the tower.
        processor: finds the processor; only called where it is needed.
        interpolate: whether pixels of another size than the model's may come.
        max_num_patches: of an image, for NaFlex; None: the processor's.
        at_once: all in one batch.

    Raises:
        InputError: naming the image that cannot be used; an option that the model does not have.
    """
    ready = isinstance(images, PatchBatch | Mapping) if config.naflex else is_pixels(images)
    found = None if ready else processor()
    if config.naflex:
        if interpolate:
            raise InputError("interpolate_pos_encoding: NaFlex always does, leave it out")
        assert not isinstance(found, ImageProcessor)
        return naflex_images(images, config, found, max_num_patches, at_once)
    if max_num_patches is not None:
        raise InputError("max_num_patches is for NaFlex models, this one takes images of one size")
    assert not isinstance(found, NaflexProcessor)
    return fixed_images(images, config, found, interpolate, at_once)


def _tokenized(texts: Any, tokenizer: BaseTokenizer) -> NDArray[np.int64]:
    """Token ids [N, L] of texts, with one warning of those that are cut."""
    ids, cut = tokenizer.rows(texts)
    if cut:
        first, text = next(iter(cut.items()))
        warnings.warn(
            f"{len(cut)} of {len(ids)} texts ha{'s' if len(cut) == 1 else 've'} more than the {tokenizer.seq_len} "
            f"tokens that the model reads, and the end is ignored: texts[{first}], {text[:60]!r}"
            f"{'...' * (len(text) > 60)}, is the first; `model.tokenizer.truncated(texts)` tells which",
            InputWarning,
            stacklevel=5,  # who called encode_text
        )
    return ids


def token_ids(
    texts: Texts, config: TextConfig, tokenizer: BaseTokenizer | None, folder: Path | None = None
) -> NDArray[np.int64]:
    """Token ids [N, L], from texts or as given; warns once of texts that are too long.

    Args:
        texts: what a user gave.
        config: of the tower.
        tokenizer: of what is no ids; None if there is none.
        folder: where its files should be, for messages.

    Raises:
        InputError: texts or ids that cannot be used.
    """
    seq_len, vocab_size = config.seq_len, config.vocab_size
    if not isinstance(texts, np.ndarray):
        if tokenizer is None:
            raise InputError(
                f"this model has no tokenizer, which texts need: put {files_of_tokenizer(config)} of the checkpoint "
                f"into {folder or 'its folder'}, or pass token ids [N, L] made elsewhere"
            )
        ids = _tokenized(texts, tokenizer)
    elif np.issubdtype(texts.dtype, np.integer) and texts.ndim == 2 and len(texts):
        ids = texts.astype(np.int64)
    else:
        raise InputError(
            f"`texts` must be a str, a list of str, or whole-number ids [N, {seq_len}]; "
            f"got an array of {texts.dtype} {list(texts.shape)}"
        )
    if not 1 <= ids.shape[1] <= seq_len:
        raise InputError(f"ids must have 1 to {seq_len} columns, the model's positions; got {ids.shape[1]}")
    if ids.min() < 0 or ids.max() >= vocab_size:
        raise InputError(
            f"ids must be from 0 to {vocab_size - 1}; got {ids.min()} to {ids.max()}: "
            "does the tokenizer belong to this model?"
        )
    return ids


def attention_mask_of(ids: NDArray[np.int64], mask: Any) -> NDArray[np.bool_]:
    """A mask [N, L] of 0 and 1 (or bool) as bool, checked against the ids it is for.

    Raises:
        InputError: another shape or other values, or a text of which nothing is left.
    """
    values = np.asarray(mask)
    if values.shape != ids.shape:
        raise InputError(f"attention_mask must be {list(ids.shape)} like the ids, got {list(values.shape)}")
    if values.dtype.kind not in "biuf" or not np.isin(values, (0, 1)).all():
        raise InputError(f"attention_mask must hold 0 and 1 (1: attend to this token), got {values.dtype} with others")
    found = values.astype(bool)
    if not found.any(axis=1).all():
        raise InputError(
            f"attention_mask[{int(np.argmin(found.any(axis=1)))}] is all zeros: a text needs at least one token to "
            "attend to"
        )
    return found


def text_batches(texts: Texts, ids: NDArray[np.int64], mask: NDArray[np.bool_] | None, at_once: bool) -> Inputs:
    """Batches of the ids [n, L] of texts, and their masks."""
    n, length = ids.shape
    parts = _equal_parts(n, n if at_once else inputs_per_pass(length))
    spelt = [texts] if isinstance(texts, str) else texts
    name = _namer("text", n, lambda place: _spelt(spelt[place]))
    return Inputs(n, ((part, (ids[part], None if mask is None else mask[part])) for part in parts), name)
