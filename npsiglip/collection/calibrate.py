"""How probable a match is in this collection: sigmoid(scale cos + bias) with a scale and a bias of its own.

A model's own two numbers are right for the pairs that it was trained on. In a collection a query has few matches among
many pictures: that moves the odds of all pairs by one factor, and so the bias by its logarithm; other pictures change
the scale as well. Four ways to better numbers, in the order of what they need:

    fit                  labelled pairs: the most likely scale and bias, with their confidence
    fit, scale given     few pairs, or pairs that a cosine separates perfectly: the bias alone
    by_share             no labels: cosines of queries with the collection, and how many matches a query has on average
    estimate             no labels: cosines of pairs that are known to be unrelated, and the same number

Source: J. Platt, Probabilistic outputs for support vector machines (1999); Guo et al., arXiv:1706.04599, section 4. For
labelled pairs of which more match than in the collection: G. King and L. Zeng, Logistic regression in rare events data,
Political Analysis 9 (2001), section 4.1. By share: M. Saerens et al., Adjusting the outputs of a
classifier to new a priori probabilities, Neural Computation 14 (2002).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import exp, log
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.atomic import write_all
from npsiglip.collection.items import reason_of
from npsiglip.errors import InputError
from npsiglip.json_files import ERRORS, parse
from npsiglip.outputs import sigmoid

if TYPE_CHECKING:
    from npsiglip.model import SigLIP

FILE = "calibration.json"
Floats = NDArray[np.float64]
Interval = tuple[float, float]

Z95 = 1.959963984540054
MAD_OF_NORMAL = 0.6744897501960817  # median |x - median| of a normal distribution, in its standard deviations
STEPS = 100  # of Newton's method, which needs about ten
HALVINGS = 100  # of an interval of some thousands, to the last place and beyond
LEAST_UNRELATED = 30

LABELS, BIAS, MODEL = "labelled pairs", "labelled pairs, bias alone", "the model"
UNRELATED, SHARE = "unrelated pairs", "pairs without labels"


@dataclass(frozen=True)
class Calibration:
    """Probabilities of a collection: sigmoid(scale cos + bias)."""

    scale: float
    bias: float
    how: str = MODEL
    """Where the two come from: labelled pairs, pairs without labels, unrelated pairs, or the model."""
    scale_interval: Interval | None = None
    """In which the true value lies with 95 %, if both were fitted."""
    bias_interval: Interval | None = None
    pairs: int = 0
    matched: int = 0
    """Of the labelled pairs, those that match."""

    def probabilities(self, cosines: Any) -> NDArray[np.float32]:
        """Of cosines [...]; computed in float64, -inf gives 0."""
        return sigmoid(self.scale * np.asarray(cosines, np.float64) + self.bias)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Calibration:
        """As `to_dict` gave it, perhaps through JSON.

        Raises:
            InputError: a scale or a bias that is missing or not finite.
        """
        try:
            kept = {name: values[name] for name in cls.__dataclass_fields__ if name in values}
            for name in ("scale_interval", "bias_interval"):
                if kept.get(name) is not None:
                    low, high = kept[name]
                    kept[name] = float(low), float(high)
            found = cls(**kept | {"scale": float(values["scale"]), "bias": float(values["bias"])})
        except (TypeError, KeyError, ValueError):
            raise InputError(f"a calibration has a scale and a bias; got {values!r}") from None
        if not np.isfinite([found.scale, found.bias]).all():
            raise InputError(f"a calibration has a finite scale and bias; got {found.scale} and {found.bias}")
        return found


def of_model(model: SigLIP) -> Calibration | None:
    """The model's own scale and bias; None for a single tower."""
    if model.t_prime is None or model.bias is None:
        return None
    return Calibration(exp(model.t_prime), model.bias)


def read(place: Path) -> tuple[Calibration, str] | None:
    """What is stored with an index, and the hash of the weights that it is of; None if nothing is.

    Args:
        place: the index, or the file in it or elsewhere.

    Raises:
        InputError: the file is damaged.
    """
    path = place / FILE if place.is_dir() else place
    if not path.is_file():
        return None
    try:
        stored = parse(path.read_bytes())
        return Calibration.from_dict(stored), str(stored["weights"])
    except (OSError, KeyError, TypeError, InputError, *ERRORS) as error:
        raise InputError(f"{path} is damaged ({error}); remove it, or run `npsiglip calibrate` again") from None


def write(folder: Path, calibration: Calibration, weights: str) -> None:
    """Store it with an index.

    Raises:
        InputError: the file cannot be written.
    """
    text = json.dumps(calibration.to_dict() | {"weights": weights}, indent=2, allow_nan=False) + "\n"
    try:
        write_all(folder, {FILE: lambda path: path.write_text(text, encoding="utf-8")})
    except OSError as error:
        raise InputError(f"{folder / FILE} cannot be written ({reason_of(error)})") from None


def loss(scale: float, bias: float, cosines: Any, matched: Any) -> float:
    """-log likelihood: softplus(-z) of pairs that match, softplus(z) of others, added up; z = scale cos + bias."""
    z = scale * np.asarray(cosines, np.float64) + bias
    return float(np.logaddexp(0.0, np.where(matched, -z, z)).sum())


def _checked(cosines: Any, matched: Any) -> tuple[Floats, NDArray[np.bool_]]:
    x, y = np.asarray(cosines, np.float64), np.asarray(matched)
    if x.ndim != 1 or x.shape != y.shape or not np.isin(y, (0, 1)).all():
        raise InputError(f"labelled pairs are cosines [n] and 0 or 1 [n]; got {list(x.shape)} and {list(y.shape)}")
    if not np.isfinite(x).all():
        raise InputError("the cosine of a labelled pair is not finite")
    y = y.astype(bool)
    if y.all() or not y.any():
        raise InputError(
            f"of {len(y)} labelled pairs {'all' if len(y) and y.all() else 'none'} match: label some of both kinds"
        )
    return x, y


def separation(cosines: Any, matched: Any) -> Interval | None:
    """The gap, if a cosine separates pairs that match from all others: then no finite scale is the most likely one."""
    x, y = _checked(cosines, matched)
    return (float(x[~y].max()), float(x[y].min())) if x[~y].max() <= x[y].min() else None


def _newton(y: NDArray[np.bool_], columns: Floats) -> tuple[Floats, Floats]:
    """Parameters [p] at the minimum of the loss, which is convex, and the inverse [p, p] of its second derivative.

    By Newton's method from 0, where all probabilities are 1/2; from there none of 27,500 random fits needed less than
    whole steps.
    """
    parameters = np.zeros(columns.shape[1])
    for _ in range(STEPS):
        p = np.exp(-np.logaddexp(0.0, -(columns @ parameters)))
        gradient, weights = columns.T @ (p - y), p * (1.0 - p)
        second = (columns * weights[:, None]).T @ columns + 1e-12 * np.eye(columns.shape[1])
        step = np.linalg.solve(second, gradient)
        parameters = parameters - step
        if np.abs(step).max() < 1e-12 * (1.0 + np.abs(parameters).max()):
            break
    return parameters, np.asarray(np.linalg.inv(second), np.float64)


def _check_scale(scale: float) -> None:
    if not np.isfinite(scale):
        raise InputError(f"the scale to keep must be finite; got {scale}")


def _halved(low: float, high: float, below: Callable[[float], bool]) -> float:
    """Where `below`, which holds at `low` and not at `high`, ceases to hold."""
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2


def _bias_alone(logits: Floats, y: NDArray[np.bool_]) -> float:
    """The bias at which the loss has no slope: as much is missing at matches as there is too much at other pairs.

    Both sides by their logarithms: where a gap lies between the kinds, each is far below a rounding of 1.
    """
    further = log(len(y)) + 1  # beyond all logits by so much, one side is certainly the larger

    def below(bias: float) -> bool:
        z = logits + bias
        too_much, missing = (np.logaddexp.reduce(-np.logaddexp(0.0, side)) for side in (-z[~y], z[y]))
        return bool(too_much < missing)

    return _halved(-float(logits.max()) - further, -float(logits.min()) + further, below)


def _interval(value: float, variance: float) -> Interval:
    half = Z95 * float(np.sqrt(variance))
    return value - half, value + half


def fit(cosines: Any, matched: Any, scale: float | None = None, share: float | None = None) -> Calibration:
    """The most likely scale and bias of labelled pairs.

    Args:
        cosines: [n].
        matched: [n], 0 or 1.
        scale: keep this one, such as the model's, and fit the bias alone.
        share: the part of all pairs of the collection that match, if the labelled ones are not drawn from them as they
            come: half of them matches, say. None: as of the labelled pairs.

    Raises:
        InputError: only one kind of pairs; cosines that separate them perfectly, or that are all equal, so that no
            finite scale is the most likely one; a scale that is not finite; a share that is none.
    """
    x, y = _checked(cosines, matched)
    shift = 0.0
    if share is not None:
        if not 0 < share < 1:
            raise InputError(f"the share of pairs that match is between 0 and 1; got {share!r}")
        shift = log(share / (1 - share)) - log(y.sum() / (~y).sum())
    counts: dict[str, Any] = {"pairs": len(y), "matched": int(y.sum())}
    if scale is not None:
        _check_scale(scale)
        bias = _bias_alone(scale * x, y)
        z = scale * x + bias
        second = float(
            np.exp(-np.logaddexp(0.0, z) - np.logaddexp(0.0, -z)).sum()
        )  # of p (1 - p), which may round to 0
        variance = 1.0 / max(second, np.finfo(np.float64).tiny)
        return Calibration(scale, bias + shift, BIAS, None, _interval(bias + shift, variance), **counts)
    if x.min() == x.max() or not x.std():
        raise InputError("the cosines of all labelled pairs are equal: nothing tells how they matter")
    if gap := separation(x, y):
        raise InputError(
            f"the labelled pairs are separated perfectly: those that match have a cosine of {gap[1]:.4g} at least, the "
            f"others of {gap[0]:.4g} at most, and the steeper the scale, the likelier they are. Label some pairs "
            "that are harder to tell, or keep the model's scale"
        )
    if separation(x, ~y):
        raise InputError("all labelled pairs that match have lower cosines than the others: are the labels exchanged?")
    middle, spread = x.mean(), x.std()
    columns = np.stack([(x - middle) / spread, np.ones_like(x)], 1)
    found, inverse = _newton(y, columns)
    change = np.array([[1 / spread, 0.0], [-middle / spread, 1.0]])  # to scale and bias of plain cosines
    (fitted, bias), variance = change @ found, change @ inverse @ change.T
    return Calibration(
        float(fitted), float(bias) + shift, LABELS, _interval(float(fitted), variance[0, 0]),
        _interval(float(bias) + shift, variance[1, 1]), **counts,
    )  # fmt: skip


def by_share(cosines: Any, scale: float, share: float, weights: Any = None) -> Calibration:
    """A bias without labels, from cosines of queries with all items, or with some that stand for all.

    The mean of right probabilities is the part of the pairs that match. It grows with the bias, so one bias gives it.

    Args:
        cosines: [n].
        scale: the model's, exp(t_prime).
        share: the part of all pairs that match.
        weights: [n], how many pairs each stands for; None: one.

    Raises:
        InputError: no cosines; one, or a scale, that is not finite; a share that is none.
    """
    _check_scale(scale)
    x = np.asarray(cosines, np.float64).ravel()
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64).ravel()
    if not len(x) or x.shape != w.shape or not np.isfinite(x).all():
        raise InputError(f"an estimate needs finite cosines, and a weight for each; got {len(x)} and {len(w)}")
    if not 0 < share < 1:
        raise InputError(f"the share of pairs that match is between 0 and 1; got {share!r}")
    middle = log(share / (1 - share))  # right if all cosines were 0
    away = abs(scale) * float(np.abs(x).max()) + 1

    def mean(bias: float) -> float:
        return float(np.average(np.exp(-np.logaddexp(0.0, -(scale * x + bias))), weights=w))

    # where the scale makes every probability 0 or 1, many a bias gives the share: the middle of them
    least = _halved(middle - away, middle + away, lambda bias: mean(bias) < share)
    most = _halved(middle - away, middle + away, lambda bias: mean(bias) <= share)
    return Calibration(scale, (least + most) / 2, SHARE, pairs=len(x))


def estimate(unrelated: Any, scale: float, number: int, matches: float = 1.0) -> Calibration:
    """A bias without labels, from cosines of unrelated pairs, such as of queries with pictures drawn at random.

    The odds of a match are matches / (number - matches), times how much likelier a cosine is among matches than among
    unrelated pairs. If probabilities are sigmoid(scale cos + bias), that factor is exp(scale cos + a), and since it
    turns one distribution into another one, its mean over unrelated pairs is 1:

        a = -log mean exp(scale cos) = -(scale mu + scale^2 sigma^2 / 2)    of a normal distribution

    mu and sigma are the median, and the median distance from it: a few pairs that do match do no harm.

    Args:
        unrelated: [n] cosines, 30 at least.
        scale: the model's, exp(t_prime).
        number: of pictures in the collection.
        matches: how many of them match a query, on average.

    Raises:
        InputError: too few cosines, or none that differ; a scale that is not finite; more matches than pictures.
    """
    _check_scale(scale)
    x = np.asarray(unrelated, np.float64).ravel()
    if len(x) < LEAST_UNRELATED or not np.isfinite(x).all():
        raise InputError(f"an estimate needs {LEAST_UNRELATED} cosines of unrelated pairs, all finite; got {len(x)}")
    if not 0 < matches < number:
        raise InputError(f"a query has more than 0 and less than {number} matches in the collection; got {matches!r}")
    mu = float(np.median(x))
    sigma = float(np.median(np.abs(x - mu))) / MAD_OF_NORMAL
    if sigma == 0:
        raise InputError("half of the unrelated pairs have the same cosine: are pictures or queries the same?")
    if mu + scale * sigma**2 > 1:  # where the matches' cosines would have their middle
        raise InputError(
            f"the cosines of unrelated pairs spread too far ({mu:.3f}, give or take {sigma:.3f}) for the scale "
            f"{scale:.4g}: matches would need cosines above 1. Estimate from queries that have matches, or label pairs"
        )
    bias = log(matches / (number - matches)) - scale * mu - (scale * sigma) ** 2 / 2
    return Calibration(scale, bias, UNRELATED, pairs=len(x))
