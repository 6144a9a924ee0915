"""Each operation on the candidate's own input: what it added to the error, and how much rounding would have added.

An error that is seen at a tap may have come in with its input. So our float64 operation is fed what the candidate fed
its own; the difference is what this operation added. Taps that the candidate does not show are computed from those
that it shows, and an operation then stands for all those back to these.

The noise floor of the same stretch: the same input through honest arithmetics (`arithmetic`), the furthest of them from
float64. Sums in plain order, which a simple port has, are measured on a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.config import SigLIPConfig
from npsiglip.verify.arithmetic import EXACT, HONEST, ROUNDING
from npsiglip.verify.operations import IDS, Context, Op, run

Array = NDArray[Any]
SAMPLE_ROWS, SAMPLE_COLUMNS = 8, 64  # of a product, whose sums are taken one by one
FEW, JITTERS = 2048, 8  # a floor of so few numbers is itself uncertain: inputs are moved so many times


class Step(NamedTuple):
    """An operation that the candidate shows the result of.

    `added` and `floor` are relative to the norm of `expected`, which is float64 on the candidate's own input; `honest`
    are the results of honest arithmetics on it. `stretch` are the operations from the taps that are shown to this one.
    `env` holds what they read.
    """

    op: Op
    found: Array
    expected: Array
    honest: tuple[Array, ...]
    added: float
    floor: float
    stretch: tuple[Op, ...]
    env: dict[str, Array]


def norm(x: Array) -> float:
    """The Euclidean norm of all elements, in float64."""
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.sum(np.square(x, dtype=np.float64))))


def distance(x: Array, expected: Array, unit: float) -> float:
    """|x - expected| / unit; infinite where something is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = norm(np.asarray(x, np.float64) - expected)
    return found / unit if np.isfinite(found) and unit > 0 else (0.0 if found == 0 else float("inf"))


def _one_by_one(c: Context, op: Op, env: Mapping[str, Array]) -> float:
    """The error of a product whose sums are taken in plain order in float32, relative, on a sample of it."""
    if op.kind != "linear":
        return 0.0
    x = np.asarray(env[op.inputs[0]], np.float32)
    x = x.reshape(-1, x.shape[-1])
    rows = x[np.linspace(0, len(x) - 1, min(SAMPLE_ROWS, len(x))).astype(int)]
    w, b = (np.asarray(c.params[f"{op.name}.{part}"]) for part in "wb")
    columns = np.linspace(0, w.shape[1] - 1, min(SAMPLE_COLUMNS, w.shape[1])).astype(int)
    w, b = np.asarray(w[:, columns], np.float32), np.asarray(b[columns], np.float32)
    found = np.add.reduce(rows.T[:, :, None] * w[:, None, :], axis=0) + b  # along the first axis: one by one
    exact = rows.astype(np.float64) @ w + b
    return distance(found, exact, norm(exact))


class Replay:
    """The operations of a model on what a candidate shows.

    Args:
        config, params: of the model; parameters of any float type.
        ops: its operations, in order.
        inputs: golden `image.pixels` and `text.ids`, for what the candidate does not show of them.
        dtype: what the candidate computes in, see `HONEST`.
    """

    def __init__(
        self,
        config: SigLIPConfig,
        params: Mapping[str, Array],
        ops: Sequence[Op],
        inputs: Mapping[str, Array],
        dtype: str,
    ) -> None:
        self.ops, self.inputs = ops, inputs
        self.exact = Context(config, params, EXACT)
        self.rounding = ROUNDING[dtype]
        self.contexts = [Context(config, params, arithmetic) for arithmetic in HONEST[dtype]]
        self._last_use = {tap: i for i, op in enumerate(ops) for tap in (*op.inputs, *_read_later(op))}

    def __call__(self, candidate: Mapping[str, Array]) -> Iterator[Step]:
        """A step for each operation that the candidate shows, in order. Candidates' arrays have our shapes."""
        exact: dict[str, Array] = {}
        honest: list[dict[str, Array]] = [{} for _ in self.contexts]
        slack: dict[str, float] = {}
        stretch: dict[str, tuple[Op, ...]] = {}
        for tap, golden in self.inputs.items():
            value = np.asarray(candidate.get(tap, golden))
            value = value if tap == IDS else np.asarray(value, np.float64)
            exact[tap], slack[tap], stretch[tap] = value, 0.0, ()
            for env in honest:
                env[tap] = value
        for i, op in enumerate(self.ops):
            expected = run(self.exact, op, exact)
            others = tuple(run(c, op, env) for c, env in zip(self.contexts, honest, strict=True))
            noise = float(np.hypot(_one_by_one(self.exact, op, exact), max(slack[tap] for tap in op.inputs)))
            before = tuple(dict.fromkeys(o for tap in op.inputs for o in stretch[tap]))
            found = np.asarray(candidate[op.tap], np.float64) if op.tap in candidate else None
            if found is not None:
                unit = norm(expected)
                noise = max(noise, self._jittered(op, exact, expected, unit))
                floor = max(self.rounding, noise, *(distance(other, expected, unit) for other in others))
                yield Step(op, found, expected, others, distance(found, expected, unit), floor, (*before, op), exact)
            if found is not None and np.isfinite(found).all():
                exact[op.tap], slack[op.tap], stretch[op.tap] = found, 0.0, ()
                for env in honest:
                    env[op.tap] = found
            else:
                exact[op.tap], slack[op.tap], stretch[op.tap] = expected, noise, (*before, op)
                for env, other in zip(honest, others, strict=True):
                    env[op.tap] = other
            self._forget(i, stretch, exact, *honest)

    def _jittered(self, op: Op, env: Mapping[str, Array], expected: Array, unit: float) -> float:
        """The error of honest arithmetics where the inputs of a small result are moved by up to a last place."""
        if expected.size > FEW or not unit:
            return 0.0
        rng, worst = np.random.default_rng(len(op.tap)), 0.0
        for _ in range(JITTERS):
            moved = {
                tap: env[tap]
                if tap == IDS
                else env[tap] * (1 + 2 * 3**0.5 * self.rounding * rng.uniform(-1, 1, env[tap].shape))
                for tap in op.inputs
            }
            worst = max(worst, *(distance(run(c, op, moved), expected, unit) for c in self.contexts))
        return worst

    def _forget(self, i: int, stretch: dict[str, tuple[Op, ...]], *held: dict[str, Array]) -> None:
        """Drop what no operation behind number i reads, nor any of a stretch that is still open."""
        live = {tap for tap in held[0] if self._last_use.get(tap, 0) > i}
        live |= {tap for one in tuple(live) for op in stretch[one] for tap in (op.tap, *op.inputs)}
        for env in held:
            for tap in [tap for tap in env if tap not in live and tap not in self.inputs]:
                del env[tap]


def _read_later(op: Op) -> tuple[str, ...]:
    """Taps that mistakes read beside inputs, made at this operation or, if it is the first shown, before it."""
    image = ("image.final_ln",)
    return {"image.pooled": image, "zimg": image, "logits": image, "text.pooled": (IDS,)}.get(op.tap, ())
