"""A model on a collection: zero-shot classification, retrieval, calibration, and "none of these".

Classification: each picture against a text for every class. Several templates are measured one by one and as an
ensemble, the mean of their embeddings (arXiv:2103.00020, section 3.1.4). Classes that are called the same all count as
right. Retrieval: each picture against all captions and each caption against all pictures, R@k. Calibration: the sigmoid
of every pair's logit against whether the pair matches. Unknown: does the best probability of a picture tell those that
show one of the classes from those that show none?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.evaluation.scores import Share, auroc, balanced, calibration, in_best, share
from npsiglip.inputs import inputs_per_pass
from npsiglip.interrupts import deferred
from npsiglip.model import SigLIP
from npsiglip.outputs import sigmoid
from npsiglip.pairs.base import Pairs
from npsiglip.zero_shot import DEFAULT_TEMPLATE, fill_template

if TYPE_CHECKING:
    from PIL.Image import Image

Array = NDArray[np.float32]
Progress = Callable[[int, int], None]
RECALLS = (1, 5, 10)


def nothing(done: int, total: int) -> None:
    """Tell nobody."""


def opaque(picture: Image) -> Image:
    """RGB; a cut-out is put on white."""
    with deferred():
        from PIL import Image

    if picture.mode != "RGBA":
        return picture
    ground = Image.new("RGB", picture.size, (255, 255, 255))
    ground.paste(picture, mask=picture.getchannel("A"))
    return ground


@dataclass
class Embedded:
    """The pictures of a collection that could be read.

    Attributes:
        index: of each among all [N].
        zimg: their embeddings [N, D], unit norm, or what else was asked for.
        skipped: name -> reason, of those that could not.
    """

    index: NDArray[np.intp]
    zimg: Array
    skipped: dict[str, str] = field(default_factory=dict)


def embed(
    model: SigLIP,
    pairs: Pairs,
    indices: Sequence[int],
    progress: Progress = nothing,
    encode: Callable[[Sequence[Any]], Array] | None = None,
) -> Embedded:
    """Embed pictures of a collection; one that cannot be decoded is passed over, and named.

    Args:
        model: that embeds them.
        pairs: the collection.
        indices: of the pictures.
        progress: is told how many are done, of how many.
        encode: pictures -> vectors [N, D]; None: the model's embeddings, of unit norm.

    Raises:
        InputError: not one can be decoded.
    """
    step = inputs_per_pass(model.config.image.seq_len) if model.config.image else 1
    kept: list[int] = []
    rows: list[Array] = []
    skipped: dict[str, str] = {}
    for start in range(0, len(indices), step):
        progress(start, len(indices))
        pictures = []
        for index in indices[start : start + step]:
            try:
                pictures.append(opaque(pairs.read(index, Random(index))))
                kept.append(index)
            except Exception as error:  # damaged files raise almost anything
                skipped[pairs.where(index)] = str(error) or type(error).__name__
        if pictures:
            rows.append((encode or model.encode_image)(pictures))
    if not rows:
        name, reason = next(iter(skipped.items()))
        raise InputError(f"not one of {len(indices):,} pictures can be decoded; the first is {name}: {reason}")
    return Embedded(np.array(kept), np.concatenate(rows), skipped)


def sample(count: int, limit: int | None, seed: int = 0) -> list[int]:
    """0 ... count - 1, or `limit` of these drawn at random, in order."""
    if limit is None or limit >= count:
        return list(range(count))
    return sorted(map(int, np.random.default_rng(seed).permutation(count)[:limit]))


def _blocks(n: int, width: int) -> Iterator[slice]:
    """Rows, so many at once that a block of [rows, width] stays small."""
    step = max(1, 2**22 // width)
    return (slice(start, min(n, start + step)) for start in range(0, n, step))


def class_texts(model: SigLIP, names: Sequence[str], templates: Sequence[str]) -> dict[str, Array]:
    """Template -> embeddings of all names in it [C, D]; with several, "ensemble" -> their mean, of unit norm."""
    found = {template: model.encode_text(fill_template(names, template)) for template in templates}
    if len(found) > 1:
        mean = np.mean(np.stack(list(found.values())), axis=0, dtype=np.float64)
        found["ensemble"] = (mean / np.linalg.norm(mean, axis=1, keepdims=True)).astype(np.float32)
    return found


@dataclass(frozen=True)
class Classified:
    """What was measured of one set of texts."""

    top1: Share
    top5: Share
    balanced: float
    """Mean over classes of top-1."""
    classes: dict[str, float]
    """Class -> top-1 of its pictures."""
    calibration: dict[str, Any]
    """Of every pair of picture and class; see `npsiglip.evaluation.scores.Calibration`."""
    unknown_auroc: float | None
    """How often the best probability of a picture of a class is above that of one of none; None without such."""


def classified(
    model: SigLIP, zimg: Array, labels: NDArray[np.integer], names: Sequence[str], ztxt: Array, zother: Array | None
) -> Classified:
    """Pictures [N, D] of classes [N] against the classes' texts [C, D]; `zother` [M, D] show none of them."""
    same = np.array(names)[:, None] == np.array(names)[None, :]
    logits = np.concatenate(
        [model.compare(zimg[rows], ztxt).logits_per_image for rows in _blocks(len(zimg), len(ztxt))]
    )
    right = same[labels]
    best = in_best(logits, right, 1)
    area = None
    if zother is not None:
        other = np.concatenate(
            [model.compare(zother[rows], ztxt).logits_per_image.max(axis=1) for rows in _blocks(len(zother), len(ztxt))]
        )
        area = auroc(logits.max(axis=1), other)
    by_class = {names[c]: float(best[labels == c].mean()) for c in np.unique(labels)}
    return Classified(
        share(best),
        share(in_best(logits, right, 5)),
        balanced(best, labels),
        by_class,
        asdict(calibration(sigmoid(logits), right)),
        area,
    )


def classification(
    model: SigLIP,
    pairs: Pairs,
    templates: Sequence[str] = (DEFAULT_TEMPLATE,),
    language: str = "en",
    limit: int | None = None,
    unknown: Pairs | None = None,
    progress: Progress = nothing,
) -> dict[str, Any]:
    """Zero-shot classification of a collection whose pictures have names.

    Args:
        model: to be measured.
        pairs: the collection; the class of a picture is its first name in `language`.
        templates: sentences with {}.
        language: of the names.
        limit: pictures at most, drawn at random.
        unknown: pictures that show none of the classes.
        progress: is told how many pictures are done, of how many.

    Returns:
        "pictures", "classes", "skipped" (name -> reason), and "texts": template, or "ensemble" -> `Classified` as a
        dict.

    Raises:
        InputError: no names in this language, or no picture that can be decoded.
    """
    every = [next(iter(pairs.words(i).names.get(language, ())), "") for i in range(len(pairs))]
    names = sorted({name for name in every if name})
    if len(names) < 2:
        raise InputError(
            f"classification needs at least two classes with a name in {language!r}, got {len(names)}: which key of a "
            "sample holds its name (--label)?"
        )
    indices = [i for i in range(len(pairs)) if every[i]]
    number = {name: c for c, name in enumerate(names)}
    found = embed(model, pairs, [indices[k] for k in sample(len(indices), limit)], progress)
    labels = np.array([number[every[i]] for i in found.index])
    others = embed(model, unknown, sample(len(unknown), limit), progress) if unknown else None
    zother = others.zimg if others else None
    texts = class_texts(model, names, templates)
    return {
        "pictures": len(labels),
        "classes": len(names),
        "unknown": 0 if zother is None else len(zother),
        "skipped": found.skipped | (others.skipped if others else {}),
        "texts": {text: asdict(classified(model, found.zimg, labels, names, z, zother)) for text, z in texts.items()},
    }


def retrieval(
    model: SigLIP,
    pairs: Pairs,
    language: str = "en",
    limit: int | None = None,
    progress: Progress = nothing,
) -> dict[str, Any]:
    """Retrieval of a collection whose pictures have captions.

    Returns:
        "pictures", "captions", "skipped", "image_to_text" and "text_to_image" (k -> `Share` as a dict), "calibration"
        of all pairs.

    Raises:
        InputError: no captions in this language, or no picture that can be decoded.
    """
    indices = [i for i in range(len(pairs)) if pairs.words(i).captions.get(language)]
    if len(indices) < 2:
        raise InputError(
            f"retrieval needs at least two pictures with captions in {language!r}, got {len(indices)}: which key of a "
            "sample holds them (--caption)?"
        )
    found = embed(model, pairs, [indices[k] for k in sample(len(indices), limit)], progress)
    captions = [list(pairs.words(i).captions[language]) for i in found.index]
    texts = [text for said in captions for text in said]
    owner = np.repeat(np.arange(len(captions)), [len(said) for said in captions])
    logits = model.compare(found.zimg, model.encode_text(texts)).logits_per_image
    words = np.array(texts)
    right = owner[None, :] == np.arange(len(captions))[:, None]
    right |= np.stack([np.isin(words, said) for said in captions])  # the same words for another picture are right, too
    return {
        "pictures": len(captions),
        "captions": len(texts),
        "skipped": found.skipped,
        "image_to_text": {str(k): asdict(share(in_best(logits, right, k))) for k in RECALLS},
        "text_to_image": {str(k): asdict(share(in_best(logits.T, right.T, k))) for k in RECALLS},
        "calibration": asdict(calibration(sigmoid(logits), right)),
    }
