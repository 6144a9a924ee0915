"""What a model is measured on in the course of training: pictures of classes, each against the names of all classes."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.evaluation.scores import in_best
from npsiglip.model import SigLIP
from npsiglip.pairs.opening import of_class, open_pairs
from npsiglip.pairs.settings import SourceSettings
from npsiglip.train.augment import reduced, shown
from npsiglip.train.config import Config
from npsiglip.train.data import Pixels
from npsiglip.train.measure import ZeroShot, ids_of


class ClassTest:
    """Pictures of a source, and the names of its classes in some languages.

    Args:
        settings: of the source, whose classes have names; languages in the order in which they are reported.
        where: they stand, for messages.
        size: S.
        count: pictures at most, spread over all classes.

    Raises:
        InputError: a source that cannot be used, or without classes that have names.
    """

    def __init__(self, settings: SourceSettings, where: str, size: int, count: int) -> None:
        self.name = settings.name or settings.kind
        pairs = open_pairs(settings, where)
        indices = of_class(pairs, settings)
        named: dict[str, Any] = {}
        for index in indices:
            named.setdefault(pairs.class_of(index) or "", pairs.words(index).names)
        classes = list(named)
        if classes in ([], [""]):
            raise InputError(f"{where}: a test needs classes (`class_by`) with names (`labels`)")
        languages = list(settings.languages) or ["en"]
        self.texts = {code: [next(iter(named[c].get(code, ())), "") for c in classes] for code in languages}
        order = np.random.default_rng(0).permutation(len(indices))[:count]
        chosen = [indices[int(i)] for i in sorted(order)]
        self.labels = np.array([classes.index(pairs.class_of(i) or "") for i in chosen])
        self.pictures = np.stack([_picture(pairs, i, size, settings) for i in chosen])

    def logits(self, model: SigLIP, code: str) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
        """Of every picture against every class, and which are right: classes that are called the same all are."""
        texts = self.texts[code]
        found = model.compare(
            model.encode_image(Pixels()(self.pictures)), model.encode_text(ids_of(model, texts))
        ).logits_per_image
        same = np.array([[a == b for b in texts] for a in texts])
        return found, same[self.labels]

    def __call__(self, model: SigLIP) -> dict[str, float]:
        """Top-1 of the first language; the mean over all and the least, if there are several."""
        found = {code: float(in_best(*self.logits(model, code), 1).mean()) for code in self.texts}
        first, *others = found.values()
        result = {self.name: first}
        if others:
            result |= {
                f"{self.name}_mean": float(np.mean(list(found.values()))),
                f"{self.name}_least": min(found.values()),
            }
        return result


def _picture(pairs: Any, index: int, size: int, settings: SourceSettings) -> NDArray[np.uint8]:
    rng = Random(f"npsiglip test, {index}")
    return shown(reduced(pairs.read(index, rng), size), size, rng, settings.augment, flip=False)


class HeldOut:
    """All tests of a configuration; pictures are prepared when it is first called."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._tests: Sequence[Any] | None = None

    def _open(self) -> list[Any]:
        size, count = self._config.model.image.image_size, self._config.run.eval_pictures
        return [
            ZeroShot(count, size) if test.kind == "world" else ClassTest(test, f"data.tests[{i}]", size, count)
            for i, test in enumerate(self._config.data.tests)
        ]

    def __call__(self, model: SigLIP) -> dict[str, float]:
        """What each of them measures, by its name."""
        if self._tests is None:
            self._tests = self._open()
        return {key: value for test in self._tests for key, value in test(model).items()}
