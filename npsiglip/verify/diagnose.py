"""Which known mistake reproduces what a candidate shows?

Each mistake that could act between the taps that are shown is made on the candidate's own input, in float64. It
explains the candidate if what is left is no more than rounding, measured on the mistaken operation itself.

A mistake may also hide below the noise floor, GELU's erf form in bfloat16 for example. Its pattern is known, and noise
is not in it: the candidate's error is projected on the difference that the mistake would make (a matched filter).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.verify.mistakes import BY_NAME, CATALOGUE, Mistake
from npsiglip.verify.operations import Context, Op, run
from npsiglip.verify.replay import Replay, Step, distance, norm

Array = NDArray[Any]

LIMITS = {"float32": 8.0, "bfloat16": 4.0, "float16": 5.0, "int8": 8.0}
"""How many times its noise floor an operation of an honest port may be off: see docs/verify.md for the evidence."""

SUBTLE = tuple(
    BY_NAME[name]
    for name in (
        "erf_gelu", "tanh_gelu", "layer_norm_eps_1e-5", "layer_norm_eps_1e-12", "unbiased_variance",
        "eps_outside_the_root", "bias_missing", "layer_norm_bias_missing",
    )
)  # fmt: skip
TOLD_APART, SIGNIFICANT = 0.1, 8.0  # a matched filter's answer is 1 to so much, and so many of its own deviations
WORTH_A_PAIR = 12  # mistakes that leave least, which are then tried together with every other


class Match(NamedTuple):
    """A mistake that explains a tap, and what is left, relative to the norm of what was expected."""

    name: str
    tap: str
    residual: float


def _mistaken(c: Context, stretch: Sequence[Op], env: Mapping[str, Array], made: Sequence[Mistake]) -> Array | None:
    """What the last operation of a stretch gives with these mistakes; None if none of them acts in it."""
    if not all(any(mistake.change(op) is not None for op in stretch) for mistake in made):
        return None
    own: dict[str, Array] = {}
    for op in stretch:
        forward = None
        for mistake in made:
            if (change := mistake.change(op)) is not None:
                forward, reads = change, mistake.reads
        if forward is None and not any(tap in own for tap in op.inputs) and op.tap in env:
            continue
        seen = {**env, **own}
        if forward is not None:
            if any(tap not in seen for tap in reads):
                return None
            own[op.tap] = run(c, op._replace(inputs=(*op.inputs, *reads)), seen, forward)
        else:
            own[op.tap] = run(c, op, seen)
    return own.get(stretch[-1].tap)


def _at_one_place(catalogue: Sequence[Mistake], stretch: Sequence[Op]) -> list[Mistake]:
    """Mistakes that could be in several operations of a stretch, each in one of these alone."""
    found = []
    for mistake in catalogue:
        places = [(op, change) for op in stretch if (change := mistake.change(op)) is not None]
        if len(places) > 1:
            found += [mistake._replace(changes={op.tap: change}) for op, change in places]
    return found


class Diagnosis:
    """Mistakes, tried on the steps of a replay."""

    def __init__(self, replay: Replay, limit: float) -> None:
        self.replay, self.limit = replay, limit
        self._heard: dict[str, list[_Heard]] = {}

    def _explains(self, step: Step, made: Sequence[Mistake], mutant: Array) -> float | None:
        """What is left of the candidate's error, if that is no more than rounding."""
        unit = norm(step.expected)
        if mutant.shape != step.found.shape:
            return None
        left = distance(step.found, mutant, unit)
        difference = distance(mutant, step.expected, unit)
        if not left < 0.5 * difference:
            return None
        noise = step.floor * max(1.0, norm(mutant) / unit if unit else 1.0)
        if left > self.limit * noise:
            honest = [_mistaken(c, step.stretch, step.env, made) for c in self.replay.contexts]
            noise = max([noise, *(distance(h, mutant, unit) for h in honest if h is not None)])
        return left if left <= self.limit * noise else None

    def _tried(self, step: Step, made: Iterable[Mistake]) -> list[tuple[Mistake, Array]]:
        mutants = ((mistake, self._made(step, (mistake,))) for mistake in made)
        return [(mistake, mutant) for mistake, mutant in mutants if mutant is not None]

    def _made(self, step: Step, made: Sequence[Mistake]) -> Array | None:
        """What the step would give with these mistakes; None if they do not act in it, or cannot."""
        with np.errstate(all="ignore"):
            try:
                mutant = _mistaken(self.replay.exact, step.stretch, step.env, made)
            except ValueError:  # shapes that do not fit: a head left out where the widths differ
                return None
        return mutant if mutant is not None and np.isfinite(mutant).all() else None

    def __call__(self, step: Step, likely: Sequence[str] = ()) -> list[Match]:
        """The mistakes that explain a step, the best first; `likely` are tried before all others.

        Two together come as two matches with the same residual, where none alone explains.
        """
        if not np.isfinite(step.found).all():
            return []
        for group in ([BY_NAME[name] for name in likely], CATALOGUE, _at_one_place(CATALOGUE, step.stretch)):
            tried = self._tried(step, group)
            matches = [
                Match(mistake.name, step.op.tap, left)
                for mistake, mutant in tried
                if (left := self._explains(step, (mistake,), mutant)) is not None
            ]
            if matches:
                best = min(match.residual for match in matches)
                return sorted((m for m in matches if m.residual <= 1.5 * best + 1e-300), key=lambda m: m.residual)
        return self._pair(step, self._tried(step, CATALOGUE))

    def _pair(self, step: Step, tried: Sequence[tuple[Mistake, Array]]) -> list[Match]:
        """Two mistakes in one stretch."""
        if len(step.stretch) < 2:
            return []
        unit = norm(step.expected)
        ranked = sorted(
            (m for m in tried if m[1].shape == step.found.shape), key=lambda m: distance(step.found, m[1], unit)
        )
        best: tuple[float, tuple[Mistake, Mistake]] | None = None
        for one, _ in ranked[:WORTH_A_PAIR]:
            for other, _ in ranked:
                if other.name == one.name or any(one.change(op) and other.change(op) for op in step.stretch):
                    continue
                mutant = self._made(step, (one, other))
                if mutant is None:
                    continue
                left = self._explains(step, (one, other), mutant)
                if left is not None and (best is None or left < best[0]):
                    best = left, (one, other)
        return [Match(mistake.name, step.op.tap, best[0]) for mistake in best[1]] if best else []

    def listen(self, step: Step) -> None:
        """Look for the patterns of subtle mistakes in an error that is no larger than rounding; see `hidden`."""
        unit = norm(step.expected)
        if not unit or not np.isfinite(step.found).all():
            return
        nearest = min(step.honest, key=lambda other: distance(step.found, other, unit))
        error = step.found - np.asarray(nearest, np.float64)
        for mistake, mutant in self._tried(step, SUBTLE):
            pattern = mutant - step.expected
            size = norm(pattern)
            if size <= 1e-3 * step.floor * unit:
                continue
            others = (np.asarray(other, np.float64) - nearest for other in step.honest)
            usual = max((float(np.sum(other * pattern)) for other in others), key=abs)
            heard = float(np.sum(error * pattern))
            noise = _noise(error - heard / size**2 * pattern, pattern)
            # in units in which the noise is 1, so that taps can be added up
            scale = noise or 1e-30 * unit
            self._heard.setdefault(mistake.name, []).append(
                _Heard(
                    step.op.tap, heard / scale**2, (size / scale) ** 2, usual / scale**2, norm(error - pattern) / unit
                )
            )

    def hidden(self) -> list[Match]:
        """The mistakes whose pattern was heard: at a tap by itself, or at all taps together."""
        matches = []
        for name, heard in self._heard.items():
            together = sum(h.heard for h in heard), sum(h.size for h in heard), sum(abs(h.usual) for h in heard)
            for one in heard:
                alone = _is_one(one.heard, one.size, one.usual)
                # too little of it here to tell from chance, or more like once than like not at all
                with_others = _is_one(*together) and one.heard / one.size >= min(0.5, 1 - 6 / np.sqrt(one.size))
                if alone or with_others:
                    matches.append(Match(name, one.tap, one.left))
        best: dict[str, Match] = {}
        for match in matches:
            if match.tap not in best or match.residual < best[match.tap].residual:
                best[match.tap] = match
        return list(best.values())


def _noise(rest: Array, pattern: Array) -> float:
    """The deviation of noise along a pattern: of single numbers, or of rows if these are rounded as one.

    A LayerNorm rounds a deviation once for a whole row, which moves the row along itself, as an epsilon does.
    """
    rows, rest = pattern.reshape(-1, pattern.shape[-1]), rest.reshape(-1, pattern.shape[-1])
    sizes = np.sqrt((rows * rows).sum(axis=1))
    along = (rest * rows).sum(axis=1)[sizes > 0] / sizes[sizes > 0]
    return float(max(norm(rest) / np.sqrt(rest.size), norm(along) / np.sqrt(max(1, len(along)))))


class _Heard(NamedTuple):
    """The error times a pattern, the pattern times itself, another honest arithmetic's error times it; in noise."""

    tap: str
    heard: float
    size: float
    usual: float
    left: float


def _is_one(heard: float, size: float, usual: float) -> bool:
    """Whether a pattern is there once, more clearly than chance and than honest arithmetics would have it."""
    share = heard / size
    return abs(share - 1) <= TOLD_APART and abs(usual / size) <= TOLD_APART and share * np.sqrt(size) >= SIGNIFICANT
