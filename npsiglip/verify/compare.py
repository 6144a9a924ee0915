"""A candidate's traces against the truth: what conforms, what diverges first, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.verify.diagnose import LIMITS, Diagnosis, Match
from npsiglip.verify.operations import IDS, PIXELS, Context, Op, forward, operations
from npsiglip.verify.replay import Replay, distance, norm
from npsiglip.verify.where import Fit, best_fit, where

Array = NDArray[Any]


class Tap(NamedTuple):
    """What was found at a tap.

    `error` is of the whole port up to here, `inherited` what came in, `added` what this operation added, `floor` what
    rounding would add: all relative to the norm of the truth. `stretch`: all operations since the taps before, and
    `after` the last of these.
    """

    tap: str
    operation: str
    error: float
    inherited: float
    added: float
    floor: float
    cosine: float
    diverges: bool
    where: str
    fit: Fit | None
    stretch: tuple[str, ...]
    diagnosis: tuple[Match, ...]
    after: str = ""


class Truth:
    """A model, its inputs, and what float64 makes of them.

    Args:
        config, params: of the model.
        pixels: [N, 3, H, W], or None.
        ids: [K, L], or None.
    """

    def __init__(
        self,
        config: SigLIPConfig,
        params: Mapping[str, Array],
        pixels: Array | None = None,
        ids: Array | None = None,
    ) -> None:
        self.config, self.params = config, params
        self.ops: list[Op] = operations(config, pixels is not None, ids is not None)
        self.inputs: dict[str, Array] = {}
        if pixels is not None:
            self.inputs[PIXELS] = np.asarray(pixels, np.float64)
        if ids is not None:
            self.inputs[IDS] = np.asarray(ids)

    def taps(self) -> dict[str, Array]:
        """All taps, float64, in the order of the forward pass, after the inputs."""
        return {**self.inputs, **dict(forward(Context(self.config, self.params), self.ops, self.inputs))}


def cosine(a: Array, b: Array) -> float:
    """Of two arrays as vectors; NaN if one is zero or not finite."""
    size = norm(a) * norm(b)
    return float(np.sum(a * b) / size) if 0 < size < float("inf") else float("nan")


def compare_taps(truth: Truth, golden: Mapping[str, Array], candidate: Mapping[str, Array], dtype: str) -> list[Tap]:
    """What is found at each tap that the candidate shows, in the order of the forward pass.

    Args:
        truth: the model and its inputs.
        golden: its taps.
        candidate: names and shapes are ours.
        dtype: what the candidate computes in.
    """
    replay, limit = Replay(truth.config, truth.params, truth.ops, truth.inputs, dtype), LIMITS[dtype]
    diagnosis = Diagnosis(replay, limit)
    found: list[Tap] = []
    likely: list[str] = []
    for step in replay(candidate):
        wanted = golden[step.op.tap]
        unit = norm(wanted)
        diverges = not step.added <= limit * step.floor
        matches = diagnosis(step, likely) if diverges else []
        if not diverges:
            diagnosis.listen(step)
        likely += [match.name for match in matches if match.name not in likely]
        found.append(
            Tap(
                step.op.tap,
                step.op.kind,
                distance(step.found, wanted, unit),
                distance(step.expected, wanted, unit),
                step.added,
                step.floor,
                cosine(step.found, wanted),
                diverges,
                where(step.found - step.expected, step.op, truth.config, truth.inputs) if diverges else "",
                best_fit(step.found, step.expected) if diverges else None,
                tuple(op.tap for op in step.stretch),
                tuple(matches),
                _last_before(step.stretch, truth),
            )
        )
    hidden = {match.tap: match for match in diagnosis.hidden()}
    return [tap._replace(diverges=True, diagnosis=(hidden[tap.tap],)) if tap.tap in hidden else tap for tap in found]


def _last_before(stretch: Sequence[Op], truth: Truth) -> str:
    """The last tap, or input, that a stretch of operations reads and does not make."""
    made, read = {op.tap for op in stretch}, {tap for op in stretch for tap in op.inputs}
    order = [*truth.inputs, *(op.tap for op in truth.ops)]
    return max(read - made, key=order.index)


def ranked(taps: Sequence[Tap]) -> list[Match]:
    """The mistakes that explain what diverges: first those at the first tap, of these the one that explains most."""
    explained = Counter(match.name for tap in taps for match in tap.diagnosis)
    best: dict[str, Match] = {}
    for tap in taps:
        names = [match.name for match in tap.diagnosis]
        if any(name in best for name in names):
            continue
        most = max((explained[name] for name in names), default=0)
        for match in tap.diagnosis:
            if explained[match.name] == most:
                best[match.name] = match
    return list(best.values())
