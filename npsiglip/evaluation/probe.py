"""A linear probe: a classifier on the features of a frozen image tower, chosen by cross-validation, as a model folder.

The features are the mean of an image's tokens behind the final LayerNorm, without the MAP head: what Hugging Face's
`SiglipForImageClassification` and `npsiglip classify` put a classifier on. So the folder that is written is an ordinary
one of that class, and gives the logits that were fitted.

Features are brought to mean 0 and deviation 1 for fitting, which the weights that are written undo. The strength of the
regularisation is the largest whose loss on held-out pictures is within one standard error of the least (L. Breiman et
al., Classification and Regression Trees, 1984, section 3.4.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.checkpoint import Checkpoint
from npsiglip.config import ClassifierConfig, SigLIPConfig
from npsiglip.errors import CheckpointError, InputError
from npsiglip.evaluation.logistic import LOSSES, Linear, fit, losses
from npsiglip.evaluation.measure import Progress, embed, nothing
from npsiglip.evaluation.scores import balanced, share
from npsiglip.formats.safetensors import json_writer
from npsiglip.images.files import Decoding
from npsiglip.model import SigLIP
from npsiglip.pairs.base import Pairs
from npsiglip.params import image_shapes
from npsiglip.processors import deferred_processor, preprocessor_config
from npsiglip.save import save_folder
from npsiglip.towers.image import mean_of_tokens

Features = NDArray[np.float64]
Classes = NDArray[np.integer]
STRENGTHS = tuple(10.0 ** (1 - i / 2) for i in range(15))  # 10, 3.2, 1 ... 1e-6
WORSE = 3  # strengths in a row with a higher loss than the best: weaker ones are not tried
ROUGH = 1e-5  # tolerance of the gradient while strengths are compared


@dataclass(frozen=True)
class Chosen:
    """What cross-validation found."""

    strength: float
    """That was chosen."""
    losses: dict[float, tuple[float, float]]
    """Strength -> mean loss of held-out pictures, and its standard error."""
    predicted: Classes
    """[N], of each picture by the classifier that did not see it, with the strength that was chosen."""


def tower_of(checkpoint: Checkpoint, dtype: str | None = None, threads: int | None = None) -> SigLIP:
    """The image tower of a checkpoint, which ends with its tokens.

    Raises:
        InputError: there is none.
    """
    image = checkpoint.config.image
    if image is None:
        raise InputError(f"{checkpoint.source} has no image tower: a probe classifies images")
    config = SigLIPConfig(replace(image, head=False, mean=False), None)
    return SigLIP(config, checkpoint, deferred_processor(checkpoint, Decoding()), threads=threads, dtype=dtype)


def features_of(tower: SigLIP, pictures: Sequence[Any]) -> NDArray[np.float32]:
    """The mean of each picture's tokens, float32 [N, D], as a classifier takes it."""
    assert tower.config.image is not None
    parts = [[picture] for picture in pictures] if tower.config.image.naflex else [pictures]  # whose grids differ
    means = [mean_of_tokens(tower.image_output(part).last_hidden_state) for part in parts]
    return np.concatenate(means).astype(np.float32)


def folds_of(classes: Classes, folds: int, seed: int = 0) -> NDArray[np.intp]:
    """Which fold each picture is held out in [N]: those of a class are spread over all of them, at random."""
    rng, found, first = np.random.default_rng(seed), np.empty(len(classes), np.intp), 0
    for number in np.unique(classes):
        own = np.flatnonzero(classes == number)
        found[rng.permutation(own)] = (first + np.arange(len(own))) % folds
        first += len(own)  # where the last class ended: folds of one size
    return found


def choose(x: Features, classes: Classes, count: int, loss: str, folds: int, progress: Progress = nothing) -> Chosen:
    """Compare strengths by cross-validation.

    Args:
        x: features [N, D], of mean 0 and deviation 1.
        classes: [N], at least two pictures of each.
        count: K.
        loss: "softmax" or "sigmoid".
        folds: parts that are held out one by one.
        progress: is told how many fits are done, of how many at most.
    """
    place, starts = folds_of(classes, folds), dict[int, Linear]()
    found: dict[float, tuple[float, float]] = {}
    predicted: dict[float, Classes] = {}
    since = 0
    for number, strength in enumerate(STRENGTHS):
        value, guess = np.empty(len(x)), np.empty(len(x), np.intp)
        for fold in range(folds):
            progress(number * folds + fold, folds * len(STRENGTHS))
            out = place == fold
            if not out.any():
                continue
            model = fit(x[~out], classes[~out], count, strength, loss, starts.get(fold), ROUGH)
            starts[fold], logits = model, x[out] @ model.w + model.b
            value[out], guess[out] = losses(logits, classes[out], loss)[0], logits.argmax(axis=1)
        found[strength] = float(value.mean()), float(value.std(ddof=1) / len(value) ** 0.5)
        predicted[strength] = guess
        since = 0 if found[strength][0] <= min(mean for mean, _ in found.values()) else since + 1
        if since == WORSE:
            break
    least, error = min(found.values())
    strength = next(s for s, (mean, _) in found.items() if mean <= least + error)
    return Chosen(strength, found, predicted[strength])


def standardized(x: NDArray[np.floating]) -> tuple[Features, Features, Features]:
    """Features with mean 0 and deviation 1, their means and deviations; constant ones stay 0.

    Raises:
        InputError: values that are not finite.
    """
    wide = x.astype(np.float64)
    if not np.isfinite(wide).all():
        raise InputError(f"{int((~np.isfinite(wide)).any(axis=1).sum())} pictures have features that are not finite")
    mean, deviation = wide.mean(axis=0), wide.std(axis=0)
    deviation = np.where(deviation > 1e-6 * deviation.max(initial=0.0), deviation, np.inf)
    return (wide - mean) / deviation, mean, deviation


def named_classes(pairs: Pairs, language: str = "en") -> tuple[list[str], list[int], Classes]:
    """The names of all classes, the pictures that have one, and the class of each of these.

    Raises:
        InputError: fewer than two classes, or one with a single picture.
    """
    every = [next(iter(pairs.words(i).names.get(language, ())), "") for i in range(len(pairs))]
    counts = Counter(name for name in every if name)
    names = sorted(counts)
    if len(names) < 2:
        found = f"{names[0]!r} alone" if names else "none"
        raise InputError(
            f"a classifier needs at least two classes with a name, got {found}: which key of a sample holds it "
            "(--label)?"
        )
    number = {name: c for c, name in enumerate(names)}
    indices = [i for i, name in enumerate(every) if name]
    return names, indices, np.array([number[every[i]] for i in indices])


def _check_counts(names: Sequence[str], classes: Classes) -> None:
    few = [name for c, name in enumerate(names) if (classes == c).sum() < 2]
    if few:
        more = f" and {len(few) - 1} more classes" if len(few) > 1 else ""
        raise InputError(
            f"class {few[0]!r}{more} has fewer than two pictures: cross-validation needs one to learn from and another "
            "to be asked about; add pictures, or leave the class out"
        )


def check_options(loss: str, folds: int) -> None:
    """Refuse an unknown loss, and fewer than two folds.

    Raises:
        InputError: which of them.
    """
    if loss not in LOSSES:
        raise InputError(f"loss must be one of {', '.join(LOSSES)}; got {loss!r}")
    if folds < 2:
        raise InputError(f"cross-validation needs at least two folds, got {folds}")


@dataclass(frozen=True)
class Probe:
    """A classifier that was fitted, and what is known of it."""

    names: list[str]
    linear: Linear
    report: dict[str, Any]


def probe(tower: SigLIP, pairs: Pairs, loss: str = "softmax", folds: int = 5, progress: Progress = nothing) -> Probe:
    """Fit a classifier to a collection whose pictures have names.

    Args:
        tower: from `tower_of`.
        pairs: the collection; the class of a picture is its first English name.
        loss: "softmax", one class is right; or "sigmoid", each against all others, and none may be.
        folds: of the cross-validation.
        progress: is told how much is done, of how much.

    Returns:
        The classifier; its report has "pictures", "loss", "folds", "strength", "losses", "accuracy" (`Share` as a
        dict, of held-out pictures), "balanced", "classes" (name -> pictures and share of them that are right) and
        "skipped".

    Raises:
        InputError: fewer than two classes, a class with fewer than two pictures that can be decoded, features that are
            not finite, or an option that cannot be.
    """
    check_options(loss, folds)
    names, indices, classes = named_classes(pairs)
    _check_counts(names, classes)
    found = embed(tower, pairs, indices, progress, lambda pictures: features_of(tower, pictures))
    classes = classes[np.searchsorted(indices, found.index)]
    _check_counts(names, classes)
    x, mean, deviation = standardized(found.zimg)
    folds = min(folds, len(classes))  # of one picture each
    chosen = choose(x, classes, len(names), loss, folds, progress)
    fitted = fit(x, classes, len(names), chosen.strength, loss)
    w = fitted.w / deviation[:, None]
    hits = chosen.predicted == classes
    report = {
        "pictures": len(classes),
        "loss": loss,
        "folds": folds,
        "strength": chosen.strength,
        "losses": [
            {"strength": s, "loss": value, "standard_error": error} for s, (value, error) in chosen.losses.items()
        ],
        "accuracy": asdict(share(hits)),
        "balanced": balanced(hits, classes),
        "classes": {
            name: {"pictures": int((classes == c).sum()), "right": float(hits[classes == c].mean())}
            for c, name in enumerate(names)
        },
        "skipped": found.skipped,
    }
    return Probe(names, Linear(w, fitted.b - mean @ w), report)


def check_target(folder: Path, checkpoint: Checkpoint) -> None:
    """Check, before time is spent, that a classifier on this model can be written there; the folder is made.

    Raises:
        CheckpointError: a folder that cannot be made or holds a model; a model without image tower, or in 8 bits.
    """
    if checkpoint.quantized:
        raise CheckpointError(f"{checkpoint.source} is quantised: probe the original model, and quantise the result")
    if (folder / "config.json").exists():
        raise CheckpointError(f"{folder} holds a model already: choose another folder, or remove it first")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be made: {error}") from None


def write(folder: Path, checkpoint: Checkpoint, tower: SigLIP, found: Probe) -> SigLIPConfig:
    """Write the classifier and the tower under it as `SiglipForImageClassification`, in float32.

    Raises:
        CheckpointError: it cannot be written.
    """
    assert tower.config.image is not None and tower.processor is not None
    classifier = ClassifierConfig(tuple(found.names), found.report["loss"] == "sigmoid")
    config = SigLIPConfig(tower.config.image, None, classifier)
    params: Mapping[str, NDArray[Any]] = {name: checkpoint[name] for name in image_shapes(tower.config.image)} | {
        "classifier.w": found.linear.w.astype(np.float32),
        "classifier.b": found.linear.b.astype(np.float32),
    }
    processor = json_writer(preprocessor_config(tower.processor))
    save_folder(folder, config, params, "float32", others={"preprocessor_config.json": processor})
    return config
