"""A candidate against a pack: which levels conform, where each goes wrong first, and by which known mistake."""

from __future__ import annotations

import math
from collections.abc import Mapping
from textwrap import fill
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import InputError
from npsiglip.verify.arithmetic import DTYPES
from npsiglip.verify.compare import Tap
from npsiglip.verify.diagnose import LIMITS, Diagnosis
from npsiglip.verify.golden import DECODED, RESIZED
from npsiglip.verify.inputs import compare_inputs
from npsiglip.verify.mistakes import BY_NAME
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.packs import TITLES, Check, Pack, has_head, level_of
from npsiglip.verify.replay import Replay
from npsiglip.verify.report import CANNOT_TELL, CONFORMS, DIVERGES, EXIT, summary_of
from npsiglip.verify.verdict import verify
from npsiglip.verify.where import where

Array = NDArray[Any]
PREFIXES = {f"level{level}.": level for level in range(len(TITLES))}


class Scored(NamedTuple):
    """What a candidate shows at a check.

    Attributes:
        check: what it was held to.
        error: in the measure of the check.
        limit: for the type that the candidate computes in.
        conforms: whether the error is within the limit, and nothing was added that rounding does not explain.
        inherited: it does not conform, but what came in explains that: the fault is in an operation before.
        mistake: the known mistake that explains it, or nothing.
        where: which part of the tensor is off, in words.
    """

    check: Check
    error: float
    limit: float
    conforms: bool
    inherited: bool = False
    mistake: str = ""
    where: str = ""

    def sentence(self) -> str:
        """What is wrong, in one line."""
        size = f"off by {self.error:.2g}, limit {self.limit:.2g}" if math.isfinite(self.error) else "not a number"
        if not self.limit:
            size = "not the golden one"
        why = "inherited from a tap before it" if self.inherited else "a mistake that is not known"
        if self.mistake:
            why = f"matches `{self.mistake}`: {summary_of(self.mistake)}"
        place = f" ({self.where})" if self.where and self.where != "everywhere" else ""
        return f"{self.check.tap}: {size}{place}; {why}"


class PackReport(NamedTuple):
    """The outcome: all that was scored, and what was not shown.

    Attributes:
        scored: in the order of the levels, and of the forward pass.
        missing: checks of the pack that the candidate shows nothing for.
        unknown: names that mean nothing to us.
        dtype: what the candidate computes in.
        notes: what was assumed, in words.
        reason: why nothing can be told, or nothing.
        repeat: the command that does it again.
    """

    scored: tuple[Scored, ...]
    missing: tuple[Check, ...]
    unknown: tuple[str, ...]
    dtype: str
    notes: tuple[str, ...] = ()
    reason: str = ""
    repeat: str = ""

    @property
    def verdict(self) -> str:
        """Conforms, diverges or cannot tell."""
        if self.reason:
            return CANNOT_TELL
        return CONFORMS if all(one.conforms for one in self.scored) else DIVERGES

    @property
    def exit_code(self) -> int:
        """0 conforms, 1 diverges, 2 cannot tell."""
        return EXIT[self.verdict]

    def first(self, level: int) -> Scored | None:
        """Where a level goes wrong first."""
        wrong = [one for one in self.scored if one.check.level == level and not one.conforms]
        return next((one for one in wrong if not one.inherited), wrong[0] if wrong else None)

    def counts(self, level: int) -> tuple[int, int, int]:
        """How many checks of a level conform, do not, and are not shown."""
        shown = [one.conforms for one in self.scored if one.check.level == level]
        return sum(shown), len(shown) - sum(shown), sum(check.level == level for check in self.missing)

    def sentence(self) -> str:
        """The verdict, in a sentence or two."""
        if self.reason:
            return f"Cannot tell: {self.reason}."
        levels = [level for level in range(len(TITLES)) if sum(self.counts(level)[:2])]
        wrong = [(level, one) for level in levels if (one := self.first(level)) is not None]
        if not wrong:
            total = len(self.scored) + len(self.missing)
            said = f"level{'s' * (len(levels) > 1)} {', '.join(map(str, levels))}"
            return f"Conforms to the pack at {said}: {len(self.scored)} of {total} checks."
        level, one = wrong[0]
        also = f" Also at level {', '.join(str(level) for level, _ in wrong[1:])}." if len(wrong) > 1 else ""
        return f"Diverges at level {level} ({TITLES[level]}), {one.sentence()}.{also}"

    def table(self) -> str:
        """A line for each level, in at most 80 columns, and what is wrong first."""
        lines = [f"{'level':<42}{'conform':>9}{'diverge':>9}{'not shown':>11}"]
        for level, title in enumerate(TITLES):
            right, wrong, missing = self.counts(level)
            if right + wrong + missing:
                lines.append(f"{level}  {title:<39}{right:>9}{wrong:>9}{missing:>11}")
        faults = [
            fill(f"level {level}: {one.sentence()}", 80, subsequent_indent="  ", break_on_hyphens=False)
            for level in range(len(TITLES))
            if (one := self.first(level))
        ]
        return "\n".join([*lines, "", *faults] if faults else lines)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        levels = []
        for level, title in enumerate(TITLES):
            right, wrong, missing = self.counts(level)
            first = self.first(level)
            if right + wrong + missing:
                verdict = DIVERGES if wrong else CONFORMS if right else CANNOT_TELL
                levels.append(
                    {
                        "level": level,
                        "title": title,
                        "verdict": verdict,
                        "conform": right,
                        "diverge": wrong,
                        "missing": missing,
                        "first": _described(first) if first else None,
                    }
                )
        return {
            "verdict": self.verdict,
            "levels": levels,
            "checks": [{"level": one.check.level, **_described(one)} for one in self.scored],
            "coverage": {
                "compared": len(self.scored),
                "missing": [check.name for check in self.missing],
                "unknown": list(self.unknown),
            },
            "dtype": self.dtype,
            "assumed": list(self.notes),
            "sentence": self.sentence(),
            "repeat": self.repeat,
        }

    def junit(self) -> str:
        """JUnit's XML: a case a check."""
        wrong = [one for one in self.scored if not one.conforms]
        suite = ElementTree.Element(
            "testsuite",
            name="npsiglip verify --pack",
            tests=str(len(self.scored)),
            failures=str(len(wrong)),
            errors=str(int(bool(self.reason))),
        )
        for one in self.scored:
            title = f"level {one.check.level}: {TITLES[one.check.level]}"
            case = ElementTree.SubElement(suite, "testcase", classname=title, name=one.check.tap)
            if not one.conforms:
                ElementTree.SubElement(case, "failure", message=one.sentence())
        if self.reason:
            case = ElementTree.SubElement(suite, "testcase", classname="verify", name="comparison")
            ElementTree.SubElement(case, "error", message=self.reason)
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _described(one: Scored) -> dict[str, Any]:
    return {
        "tap": one.check.tap,
        "operation": one.check.operation,
        "error": one.error,
        "floor": one.check.floor,
        "limit": one.limit,
        "conforms": one.conforms,
        "inherited": one.inherited,
        "mistake": one.mistake or None,
        "where": one.where,
    }


def _by_level(candidate: Mapping[str, Array], pack: Pack) -> dict[int, dict[str, Array]]:
    """The candidate's tensors, level by level; names without a level belong to that of their tap."""
    found: dict[int, dict[str, Array]] = {level: {} for level in range(len(TITLES))}
    for name in candidate:
        prefix = name[:7]
        level, tap = (PREFIXES[prefix], name[7:]) if prefix in PREFIXES else (level_of(name), name)
        found[level][tap] = np.asarray(candidate[name])
    return found


def _shaped(x: Array, golden: Array, name: str) -> Array:
    """A candidate's tensor in float64 and in the golden shape.

    Raises:
        InputError: it has another number of elements, or holds no numbers.
    """
    if x.dtype.kind not in "fiuV" or x.dtype.hasobject:
        raise InputError(f"{name} holds {x.dtype}; expected numbers")
    sides = [side for side in x.shape if side != 1]
    if sides != [side for side in golden.shape if side != 1]:
        raise InputError(f"{name} is {list(x.shape)}, and the pack's {list(golden.shape)}: is it of this pack?")
    return np.asarray(x, np.float64).reshape(golden.shape)


def _inputs(pack: Pack, shown: Mapping[str, Array], dtype: str) -> tuple[list[Scored], tuple[str, ...]]:
    """Levels 0 and 1: ids and pixels."""
    checks = {check.tap: check for check in (*pack.at(0), *pack.at(1))}
    given = {tap: x for tap, x in shown.items() if tap in checks}
    if not given:
        return [], ()
    if PIXELS in given:
        given[PIXELS] = _shaped(given[PIXELS], pack.tensors[PIXELS], PIXELS)
    if IDS in given and given[IDS].dtype.kind not in "iuf":
        raise InputError(f"{IDS} holds {given[IDS].dtype}; expected numbers")
    golden = pack.golden
    taps, notes = compare_inputs(golden, given, dtype, golden.processor, golden.tokenizer)
    scored = []
    for tap in taps:
        error = tap.error
        if tap.tap == PIXELS:
            error = float(np.abs(given[PIXELS] - pack.tensors[PIXELS]).max())
        scored.append(_of_tap(tap, checks[tap.tap], error, checks[tap.tap].limit))
    return scored, tuple(notes)


def _of_tap(tap: Tap, check: Check, error: float, limit: float) -> Scored:
    mistake = tap.diagnosis[0].name if tap.diagnosis else ""
    return Scored(check, error, limit, not tap.diverges, False, mistake, tap.where)


def _operations(pack: Pack, shown: Mapping[str, Array], dtype: str) -> list[Scored]:
    """Level 2: each operation on its golden input, as it was rounded for the pack."""
    golden, checks = pack.golden, {check.tap: check for check in pack.at(2)}
    scored = []
    for op in golden.ops:
        if op.tap not in shown or op.tap not in checks or not has_head(op):
            continue
        read = {tap for mistake in BY_NAME.values() if mistake.change(op) for tap in mistake.reads}
        given = {tap: pack.tensors[tap] for tap in (*op.inputs, *read) if tap in pack.tensors}
        given = {tap: x if tap == IDS else np.asarray(x, np.float64) for tap, x in given.items()}
        replay = Replay(pack.config, golden.params, [op], given, dtype)
        found = _shaped(shown[op.tap], pack.tensors[op.tap], f"level2.{op.tap}")
        step = next(iter(replay({op.tap: found})))
        check = checks[op.tap]
        limit = check.limit if dtype == "float32" else LIMITS[dtype] * step.floor
        right = step.added <= limit
        matches = [] if right else Diagnosis(replay, LIMITS[dtype])(step)
        place = "" if right else where(step.found - step.expected, op, pack.config, golden.inputs)
        scored.append(Scored(check, step.added, limit, right, False, matches[0].name if matches else "", place))
    return scored


def _chain(pack: Pack, shown: Mapping[str, Array], dtype: str) -> list[Scored]:
    """Levels 3 and 4: all taps from golden pixels and ids.

    A tap diverges that is farther from the truth than its limit, or adds to its own input what rounding does not
    explain. What is as near to the truth as rounding alone makes it does not, whatever its input was.
    """
    checks = {check.tap: check for check in (*pack.at(3), *pack.at(4))}
    given = {tap: _shaped(x, pack.tensors[tap], tap) for tap, x in shown.items() if tap in checks}
    if not given:
        return []
    both = any(tap in given for tap in ("logits", "probs"))
    images = both or any(tap.startswith("image.") or tap == "zimg" for tap in given)
    texts = both or any(tap.startswith("text.") or tap == "ztxt" for tap in given)
    report = verify(given, pack.golden_of(images, texts), "npsiglip", dtype)
    if report.verdict == CANNOT_TELL:
        raise InputError(report.reason)
    scored = []
    for tap in report.taps:
        check = checks[tap.tap]
        limit = check.limit if dtype == "float32" else math.inf  # the pack has limits of float32 alone
        far, adds = not tap.error <= limit, tap.diverges and not tap.error <= check.floor
        one = _of_tap(tap, check, tap.error, limit)
        scored.append(one._replace(conforms=not (adds or far), inherited=far and not tap.diverges))
    return scored


def _rankings(pack: Pack, shown: Mapping[str, Array]) -> list[Scored]:
    """Level 5: orders, in which golden logits that are as good as equal may be exchanged."""
    scored = []
    for check in pack.at(5):
        if check.tap not in shown:
            continue
        golden = pack.tensors[check.tap]
        order = _shaped(shown[check.tap], golden, check.tap)
        places = np.sort(order, axis=1)
        if not np.array_equal(places, np.broadcast_to(np.arange(golden.shape[1]), golden.shape)):
            scored.append(Scored(check, math.inf, check.limit, False, where="a row is no order of 0, 1, 2, ..."))
            continue
        logits = np.asarray(pack.golden["logits"], np.float64)
        by_row = np.take_along_axis(logits if len(golden) == len(logits) else logits.T, order.astype(int), axis=1)
        rise = float(np.max(np.diff(by_row, axis=1), initial=0.0))
        scored.append(Scored(check, rise, check.limit, rise <= check.limit))
    return scored


def score(pack: Pack, candidate: Mapping[str, Array], dtype: str | None = None, repeat: str = "") -> PackReport:
    """Hold a candidate to a pack.

    Args:
        pack: the pack.
        candidate: names -> arrays. Taps have their own names; results of level 2, on golden input, have "level2."
            in front of them. What else is there is named in the report.
        dtype: what the candidate computes in: float32, bfloat16, float16 or int8; None: float32. The pack's limits
            are those of float32; for others, only what each operation adds is judged by.
        repeat: the command that does this again.

    Raises:
        InputError: an unknown dtype; a damaged file.
    """
    chosen = dtype or "float32"
    if chosen not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {chosen!r}")
    shown = _by_level(candidate, pack)
    known = {(check.level, check.tap) for check in pack.checks}
    here = {(level, tap) for level, taps in shown.items() for tap in taps}
    missing = tuple(check for check in pack.checks if (check.level, check.tap) not in here)
    rest = (f"level2.{tap}" if level == 2 else tap for level, tap in here - known)
    unknown = tuple(sorted(name for name in rest if not name.startswith((DECODED, RESIZED))))

    def cannot(reason: str) -> PackReport:
        return PackReport((), missing, unknown, chosen, (), reason, repeat)

    if not here & known:
        one = next(iter(candidate), "none")
        return cannot(
            f"none of its {len(candidate)} names is one of the pack's, such as {one!r}; expected some of those that "
            f"{pack.folder / 'pack.json'} lists, such as {pack.checks[-1].tap!r} or {pack.at(2)[0].name!r}"
        )
    try:
        inputs, notes = _inputs(pack, shown[0] | shown[1], chosen)
        scored = [*inputs, *_operations(pack, shown[2], chosen), *_chain(pack, shown[3] | shown[4], chosen)]
        scored += _rankings(pack, shown[5])
    except InputError as error:
        return cannot(str(error))
    order = {(check.level, check.tap): i for i, check in enumerate(pack.checks)}
    scored = sorted(scored, key=lambda one: order[one.check.level, one.check.tap])
    return PackReport(tuple(scored), missing, unknown, chosen, notes, "", repeat)
