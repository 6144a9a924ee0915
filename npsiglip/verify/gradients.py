"""A candidate's loss and gradients against float64: which is first wrong, walking back from the loss, and why.

A port shows the gradients of its parameters, not what flows between its operations. So what is measured is the error of
the whole way there and back; its floor is that of honest arithmetics, with every result moved by up to a last place.
Where all gradients behind an operation are right, and its own are wrong, the fault lies between: the suspects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npsiglip.verify.arithmetic import EXACT, HONEST, ROUNDING, Arithmetic
from npsiglip.verify.backward import GRAD, LOSS, LOSS_OP, Gradients, check_pairs, gradients, taps_of
from npsiglip.verify.compare import Tap, Truth, cosine
from npsiglip.verify.diagnose import LIMITS, Match
from npsiglip.verify.gradient_names import Shown
from npsiglip.verify.mistakes_gradients import SLIPS
from npsiglip.verify.operations import Context, Op
from npsiglip.verify.replay import distance, norm
from npsiglip.verify.where import best_fit

Array = NDArray[Any]
JITTERS = 4  # honest runs of which every result is moved by up to a last place, beside those that are not
ZERO = ".attn.k.b"  # the gradient of this is zero: softmax does not see the bias of keys
SAME = 0.02  # a factor on all gradients is one of N, 1 / N or -1 to so much


def _jittered(arithmetic: Arithmetic, size: float, seed: int) -> Arithmetic:
    """The arithmetic, with every result moved by a relative deviation before it is kept."""
    rng = np.random.default_rng(seed)

    def store(x: Array) -> Array:
        moved = x * (1 + size * 3**0.5 * rng.uniform(-1, 1, np.shape(x)))
        return arithmetic.store(np.asarray(moved, np.asarray(x).dtype))

    return arithmetic._replace(store=store, keeps=())


class TrueGradients:
    """The loss and all gradients of a model in float64, and how far honest ports may be off.

    Args:
        truth: the model and its inputs.

    Attributes:
        exact: the loss, the gradients in the order in which a backward pass finds them, and their operations.

    Raises:
        InputError: other than N images of the model's size and N texts.
    """

    def __init__(self, truth: Truth) -> None:
        self.truth, self.ops = truth, truth.ops
        self._context = Context(truth.config, truth.params, EXACT)
        check_pairs(self._context, truth.inputs)
        self.env = taps_of(self._context, self.ops, truth.inputs)
        self.exact = gradients(self._context, self.ops, self.env)

    def mistaken(self, change: Callable[[Op], Any]) -> Gradients:
        """The same with a mistake."""
        with np.errstate(all="ignore"):
            return gradients(self._context, self.ops, self.env, change)

    def honest(self, dtype: str) -> Iterator[Gradients]:
        """What honest ports compute."""
        kinds = HONEST[dtype]
        moved = [_jittered(kinds[i % len(kinds)], ROUNDING[dtype], i) for i in range(JITTERS)]
        for arithmetic in (*kinds, *moved):
            context = Context(self.truth.config, self.truth.params, arithmetic)
            with np.errstate(all="ignore"):
                yield gradients(context, self.ops, taps_of(context, self.ops, self.truth.inputs))

    def floors(self, dtype: str) -> tuple[float, dict[str, float]]:
        """How far honest ports are off, absolute: the loss, and the norm of each gradient's error."""
        exact, rounding = self.exact, ROUNDING[dtype]
        loss, found = rounding * exact.loss, {name: rounding * norm(x) for name, x in exact.grads.items()}
        for run in self.honest(dtype):
            loss = max(loss, abs(run.loss - exact.loss)) if np.isfinite(run.loss) else loss
            for name, x in run.grads.items():
                off = distance(x, exact.grads[name], 1.0)
                found[name] = max(found[name], off) if np.isfinite(off) else found[name]
        return loss, {name: off or 1e-300 for name, off in found.items()}

    def unit(self, name: str) -> float:
        """What a gradient's error is relative to: its norm; for the bias of keys, which is zero, that of queries."""
        return norm(self.exact.grads[name.replace(ZERO, ".attn.q.b")]) or 1.0


class Part(NamedTuple):
    """An operation's gradients that are shown, those of them that are wrong, and what may be to blame."""

    op: Op
    wrong: tuple[str, ...]
    suspects: tuple[Op, ...]
    inherited: bool


def _parts(ops: Sequence[Op], owner: Mapping[str, Op], shown: Mapping[str, bool]) -> list[Part]:
    """Each operation with gradients, walking back from the loss. `shown`: name -> whether it is wrong."""
    own: dict[str, list[str]] = {}
    for name in owner:
        if name in shown and not (name.endswith(ZERO) and not shown[name]):  # zero whatever comes back: tells nothing
            own.setdefault(owner[name].tap, []).append(name)
    makers = {op.tap: op for op in ops}
    readers: dict[str, list[Op]] = {}
    for op in (*(op for op in ops if op.kind != "pair_probs"), LOSS_OP):
        for tap in op.inputs:
            readers.setdefault(tap, []).append(op)

    def is_right(op: Op) -> bool | None:
        """Whether what comes back to an operation is right; None: nothing is known."""
        if op.kind == "residual":  # its branch gets what it gets
            op = makers[op.inputs[1]]
        wrong = [shown[name] for name in own.get(op.tap, ())]
        return not any(wrong) if wrong else None

    def blamed(op: Op) -> tuple[tuple[Op, ...], bool]:
        """Operations between this one and those that are right; and whether one is reached that is wrong itself."""
        found: dict[str, Op] = {}
        inherited, stack = False, list(readers.get(op.tap, ()))
        while stack:
            one = stack.pop()
            if one.tap in found:
                continue
            found[one.tap] = one
            right = is_right(one)
            if right is False and one.kind == "residual" and one.inputs[1] == op.tap:
                right = None  # what is known of this sum is known of `op` itself
            if right is None:
                stack += readers.get(one.tap, ())
            inherited = inherited or right is False
        return tuple(sorted(found.values(), key=lambda one: -order[one.tap])), inherited

    order = {op.tap: i for i, op in enumerate((*ops, LOSS_OP))}
    parts = []
    for tap, names in own.items():
        op, wrong = makers[tap], tuple(name for name in names if shown[name])
        suspects, inherited = blamed(op) if wrong else ((), False)
        if 0 < len(wrong) < len(names):  # what comes back to it is right, or the others would be wrong
            suspects, inherited = (op,), False
        elif wrong and len(names) == 1:
            suspects = (*suspects, op)
        parts.append(Part(op, wrong, suspects, inherited))
    return parts


def compare_gradients(true: TrueGradients, shown: Shown, dtype: str, explain: bool = True) -> list[Tap]:
    """What is found at the loss and at each gradient that a candidate shows, walking back from the loss.

    Args:
        true: of the model.
        shown: of the candidate.
        dtype: what it computes in; int8 counts as float32, since 8 bits have no gradients of their own.
        explain: whether mistakes are looked for: not if the forward pass is wrong.
    """
    dtype = "float32" if dtype == "int8" else dtype
    limit, exact = LIMITS[dtype], true.exact
    loss_floor, floors = true.floors(dtype)
    grads = {name: shown.grads[name] for name in exact.grads if name in shown.grads}
    off = {name: distance(x, exact.grads[name], 1.0) for name, x in grads.items()}
    parts = _parts(true.ops, exact.owner, {name: not off[name] <= limit * floors[name] for name in grads})
    lost = shown.loss is not None and not abs(shown.loss - exact.loss) <= limit * loss_floor
    starts = [part for part in parts if part.wrong and not part.inherited]
    found = {}
    if explain and (starts or lost):
        judge = _Judge(true, shown, grads, floors, loss_floor, limit)
        found = judge.diagnosis(parts, starts)
    taps = []
    if shown.loss is not None:
        error, unit = abs(shown.loss - exact.loss), abs(exact.loss) or 1.0
        taps.append(
            Tap(
                LOSS, "pair_loss", error / unit, 0.0, error / unit, loss_floor / unit, float("nan"), lost,
                f"{shown.loss:.6g} instead of {exact.loss:.6g}" if lost else "", None, ("logits", LOSS),
                tuple(found.get(LOSS, ())),
            )
        )  # fmt: skip
    for part in parts:
        for name in (name for name in grads if exact.owner[name] is part.op):
            unit, wrong = true.unit(name), name in part.wrong
            error = off[name] / unit
            found_at = _where(grads[name], exact.grads[name]) if wrong else ""
            fit = best_fit(grads[name], exact.grads[name]) if wrong and grads[name].size > 2 else None
            taps.append(
                Tap(
                    GRAD + name,
                    part.op.kind,
                    error,
                    error if part.inherited and wrong else 0.0,
                    error,
                    floors[name] / unit,
                    cosine(grads[name], exact.grads[name]),
                    wrong,
                    found_at,
                    fit,
                    tuple(op.tap for op in part.suspects) if wrong else (part.op.tap,),
                    tuple(found.get(name, ())) if wrong else (),
                )
            )
    return taps


def _where(x: Array, truth: Array) -> str:
    """What can be said of a wrong gradient in a few words."""
    bad = ~np.isfinite(x)
    if bad.any():
        return f"{int(bad.sum()):,} of {x.size:,} values are not finite"
    if not x.any():
        return "all zero"
    size = float(np.sum(truth * truth))
    factor = float(np.sum(x * truth)) / size if size else 0.0
    if size and abs(factor - 1) > 0.01 and distance(x, factor * truth, norm(x)) < 0.01:
        return f"{factor:.4g} times the truth"
    return "everywhere"


class _Judge:
    """Which mistakes explain gradients."""

    def __init__(
        self, true: TrueGradients, shown: Shown, grads: Mapping[str, Array], floors: Mapping[str, float], loss: float,
        limit: float,
    ) -> None:  # fmt: skip
        self.true, self.shown, self.grads, self.floors, self.loss, self.limit = true, shown, grads, floors, loss, limit

    def _left(self, name: str, mistaken: Array) -> float | None:
        """What is left of a gradient's error, relative; None if that is more than rounding."""
        truth, unit = self.true.exact.grads[name], self.true.unit(name)
        left = distance(self.grads[name], mistaken, 1.0)
        size = norm(truth)
        noise = self.floors[name] * max(1.0, norm(mistaken) / size if size else 1.0)
        return left / unit if left <= self.limit * noise else None

    def _factor(self) -> tuple[str, float] | None:
        """A factor that all gradients have: its name, and what is left."""
        exact = self.true.exact.grads
        one = {name: 1 / self.floors[name] ** 2 for name in self.grads if exact[name].any()}  # the surest count most
        size = sum(one[name] * norm(exact[name]) ** 2 for name in one)
        factor = sum(one[name] * float(np.sum(self.grads[name] * exact[name])) for name in one) / (size or 1.0)
        if not np.isfinite(factor) or abs(factor) < 1e-12:
            return None
        left = [self._left(name, factor * exact[name]) for name in self.grads]
        if any(x is None for x in left):
            return None
        pairs = len(next(iter(self.true.truth.inputs.values())))
        known = {"gradients_of_the_sum": pairs, "gradients_of_the_mean": 1 / pairs, "gradients_negated": -1}
        name = next(
            (n for n, value in known.items() if abs(factor / value - 1) < SAME and value != 1), "gradients_scaled"
        )
        return name, max(x for x in left if x is not None)

    def diagnosis(self, parts: Sequence[Part], starts: Sequence[Part]) -> dict[str, list[Match]]:
        """Parameter, or the loss -> the mistakes that explain it, at those where errors begin."""
        wrong = [name for part in parts for name in part.wrong]
        if not wrong:
            return {}
        if len(wrong) > 1 and (scaled := self._factor()):
            return {wrong[0]: [Match(scaled[0], GRAD + wrong[0], scaled[1])]}
        blamed = {op.tap: op for part in starts for op in part.suspects}
        found: dict[str, list[Match]] = {}
        counts: dict[str, int] = {}
        for slip in SLIPS:
            if not any(slip.change(op) for op in blamed.values()):
                continue
            grads = self.true.mistaken(slip.change).grads
            left = {name: self._left(name, grads[name]) for name in self.grads}
            counts[slip.name] = sum(left[name] is not None for name in wrong)
            for part in starts:
                own = [left[name] for name in self.grads if self.true.exact.owner[name] is part.op]
                acts = any(slip.change(op) for op in part.suspects)
                if acts and own and all(x is not None for x in own):
                    first = part.wrong[0]
                    residual = max(x for x in own if x is not None)
                    found.setdefault(first, []).append(Match(slip.name, GRAD + first, residual))
        for first, matches in found.items():
            most = max(counts[match.name] for match in matches)
            found[first] = sorted((m for m in matches if counts[m.name] == most), key=lambda m: m.residual)
        return found
