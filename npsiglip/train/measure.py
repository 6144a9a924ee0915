"""How well a model sees the world: zero-shot classification, retrieval, and whether its probabilities are right.

Zero-shot: every picture against the captions of all colour-shape classes; right if the highest logit is that of its
class. Retrieval: R@1 among pairs with distinct captions, both ways. Calibration: probabilities of pairs that match and
pairs that do not; expected calibration error (arXiv:1706.04599) over 15 bins of equal width. A probability says what to
expect where one pair of B matches, as in the batches of training. Where one of two does, odds are B - 1 times as high,
by Bayes' rule: so there it is measured as it is, and with the odds multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.evaluation.scores import calibration, in_best
from npsiglip.images.processor import ImageProcessor
from npsiglip.model import SigLIP
from npsiglip.params import Params
from npsiglip.texts.siglip import Tokenizer
from npsiglip.train.data import Pixels
from npsiglip.train.softmax_loss import sigmoid

Pictures = NDArray[np.uint8]


def ids_of(model: SigLIP, captions: Sequence[str]) -> NDArray[np.int64]:
    """The ids of captions, as in training: the end of a long one is cut off without a word."""
    assert model.tokenizer is not None
    return model.tokenizer(list(captions))


def top1(model: SigLIP, pictures: Pictures, labels: NDArray[np.integer], captions: Sequence[str]) -> float:
    """The part of the pictures [n, S, S, 3] whose label's caption has the highest logit."""
    zimg, ztxt = model.encode_image(Pixels()(pictures)), model.encode_text(ids_of(model, captions))
    return float((model.compare(zimg, ztxt).logits_per_image.argmax(axis=1) == labels).mean())


def model_of(config: SigLIPConfig, params: Params, tokenizer_file: Path) -> SigLIP:
    """A model from parameters under training, which are copied."""
    assert config.image is not None and config.text is not None
    size = config.image.image_size
    tokenizer = Tokenizer(tokenizer_file, config.text.seq_len)
    copies = {name: np.array(value, np.float32) for name, value in params.items()}
    return SigLIP(config, copies, ImageProcessor(size, size), tokenizer)


class ZeroShot:
    """Held-out pictures drawn once, on which models are compared in the course of training.

    Args:
        count: pictures of seen combinations, and as many of held-out ones.
        image_size: S.
        seed: of the pictures.
    """

    def __init__(self, count: int, image_size: int, seed: int = 1) -> None:
        from npsiglip.world import class_captions, zero_shot_pictures

        self._captions = class_captions()
        self._sets = {
            name: zero_shot_pictures(count, held_out=held_out, seed=seed, image_size=image_size)
            for name, held_out in (("seen", False), ("held_out", True))
        }

    def __call__(self, model: SigLIP) -> dict[str, float]:
        """Top-1 of both sets."""
        return {name: top1(model, pictures, labels, self._captions) for name, (pictures, labels) in self._sets.items()}


def _pairs_in_batches(model: SigLIP, batch: int, batches: int, seed: int, image_size: int) -> dict[str, Any]:
    from npsiglip.world import World

    world = World(seed=seed, image_size=image_size, split="test")
    logits = []
    for step in range(batches):
        pictures, captions = world.batch(step, batch)
        logits.append(model(Pixels()(pictures), ids_of(model, captions)).logits_per_image.astype(np.float64))
    z, y = np.stack(logits), np.broadcast_to(np.eye(batch, dtype=bool), (batches, batch, batch))
    balanced = y | np.roll(y, 1, axis=2)  # each picture with its own caption and the next one's
    few = z[balanced], y[balanced]
    return {
        "calibration": asdict(calibration(sigmoid(z), y)),
        "calibration_balanced": asdict(calibration(sigmoid(few[0]), few[1])),
        "calibration_corrected": asdict(calibration(sigmoid(few[0] + np.log(batch - 1)), few[1])),
    }


def evaluate(
    model: SigLIP | str | Path, count: int = 2048, pairs: int = 1000, batch: int = 256, batches: int = 8, seed: int = 2
) -> dict[str, Any]:
    """Everything that a model card reports.

    Args:
        model: or its folder.
        count: pictures of seen combinations, and of held-out ones.
        pairs: for retrieval.
        batch: pairs of a batch, for calibration.
        batches: of these.
        seed: of all pictures.

    Returns:
        seen, held_out: top-1 of zero-shot classification.
        image_to_text, text_to_image: R@1 of retrieval.
        calibration, calibration_balanced, calibration_corrected: see `Calibration`; one pair of `batch` matches, one
            of two, and one of two with odds batch - 1 times as high.
    """
    from npsiglip.world import retrieval_pairs

    if not isinstance(model, SigLIP):
        model = SigLIP.from_pretrained(model)
    assert model.config.image is not None
    size = model.config.image.image_size
    results: dict[str, Any] = dict(ZeroShot(count, size, seed)(model))
    pictures, captions = retrieval_pairs(pairs, seed=seed, image_size=size)
    logits = model(Pixels()(pictures), ids_of(model, captions)).logits_per_image
    same = np.eye(pairs, dtype=bool)
    found = {"image_to_text": in_best(logits, same, 1), "text_to_image": in_best(logits.T, same, 1)}
    results |= {name: float(hits.mean()) for name, hits in found.items()}
    return results | _pairs_in_batches(model, batch, batches, seed, size)
