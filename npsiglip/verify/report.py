"""What is said of a candidate: the verdict in a sentence, a table of taps, JSON, JUnit."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, NamedTuple
from xml.etree import ElementTree

from npsiglip.verify.backward import GRAD, LOSS
from npsiglip.verify.compare import Tap, ranked
from npsiglip.verify.diagnose import Match
from npsiglip.verify.mistakes import BY_NAME
from npsiglip.verify.mistakes_gradients import GRADIENT_SUMMARIES
from npsiglip.verify.preprocessing import SUMMARIES

CONFORMS, DIVERGES, CANNOT_TELL = "conforms", "diverges", "cannot tell"
EXIT = {CONFORMS: 0, DIVERGES: 1, CANNOT_TELL: 2}


class Coverage(NamedTuple):
    """How many taps were compared; which the candidate does not show; which of its names mean nothing to us."""

    compared: int
    missing: tuple[str, ...]
    unknown: tuple[str, ...]


class Report(NamedTuple):
    """The outcome of a comparison.

    Attributes:
        verdict: "conforms", "diverges" or "cannot tell".
        taps: in the order of the forward pass.
        coverage: what was compared, and what not.
        dtype: what the candidate was taken to compute in.
        assumed: what was assumed of names, axes and types, in words.
        reason: why nothing can be told.
        repeat: the command that does it again.
    """

    verdict: str
    taps: tuple[Tap, ...]
    coverage: Coverage
    dtype: str
    assumed: tuple[str, ...]
    reason: str = ""
    repeat: str = ""

    @property
    def first(self) -> Tap | None:
        """The first operation that diverges."""
        return next((tap for tap in self.taps if tap.diverges), None)

    @property
    def diagnosis(self) -> list[Match]:
        """The mistakes that explain what diverges, the first first."""
        return ranked(self.taps)

    @property
    def exit_code(self) -> int:
        """0 conforms, 1 diverges, 2 cannot tell."""
        return EXIT[self.verdict]

    def sentence(self) -> str:
        """The verdict, in a sentence or two."""
        if self.verdict == CANNOT_TELL:
            return f"Cannot tell: {self.reason.rstrip('?')}{'?' if self.reason.endswith('?') else '.'}"
        compared = f"{self.coverage.compared} of {self.coverage.compared + len(self.coverage.missing)} taps"
        first = self.first
        unknown = len(self.coverage.unknown)
        if first is None:
            worst = max(self.taps, key=lambda tap: tap.added / tap.floor)
            return (
                f"Conforms: {compared} are what {self.dtype} makes of the truth; the largest added error is "
                f"{worst.added / worst.floor:.1f} times the noise floor, at {worst.tap}."
                + (f" {unknown} of its names are not known, and were not compared." if unknown else "")
            )
        said = f"Diverges first at {first.tap} ({first.operation}): {self._size(first)}."
        if first.tap == LOSS or first.tap.startswith(GRAD):
            return f"{self._walked_back(first)} {self._why()}"
        if len(first.stretch) > 1:
            after = f"between {first.after} and {first.tap}" if first.after else f"before {first.tap}"
            said += f" The fault lies {after}, in one of {len(first.stretch)} operations from {first.stretch[0]} on."
        return f"{said} {self._why()}"

    def _size(self, tap: Tap) -> str:
        if not math.isfinite(tap.added):
            return tap.where
        times = f", {tap.added / tap.floor:,.0f} times the noise floor" if tap.added > 2 * tap.floor else " in all"
        place = f", {tap.where}" if tap.where and tap.where != "everywhere" else ""
        return f"it adds an error of {tap.added:.2g}{times}{place}"

    def _walked_back(self, first: Tap) -> str:
        """The same of a gradient."""
        times = f"{first.added / first.floor:,.0f} times the noise floor"
        size = f"off by {first.added:.2g}, {times}" if math.isfinite(first.added) else "not finite"
        place = f" ({first.where})" if first.where and first.where != "everywhere" else ""
        if first.tap == LOSS:
            said = f"Diverges first at the loss: {first.where}, {times}; the forward pass or the loss is suspect."
        else:
            said = (
                f"Diverges first, walking back from the loss, at {first.tap}: {size}{place}. Suspect is the backward "
                f"pass of {' or '.join(first.stretch)}; what lies behind it is right."
            )
            if LOSS in first.stretch:
                said = said.removesuffix("; what lies behind it is right.") + ", or the forward pass."
        shown = any(not tap.tap.startswith((GRAD, LOSS)) for tap in self.taps)
        return said if shown or LOSS not in first.stretch else f"{said} Show taps of the forward pass, too."

    def _why(self) -> str:
        matches = self.diagnosis
        if not matches:
            return "No mistake of the catalogue explains it: unknown."
        lines = [f"It matches `{m.name}` to {m.residual:.1g} at `{m.tap}`: {summary_of(m.name)}." for m in matches]
        return " ".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """What `--json` writes."""
        first = self.first
        return {
            "verdict": self.verdict,
            "first": None
            if first is None
            else {key: getattr(first, key) for key in ("tap", "operation", "added", "inherited", "floor", "where")},
            "diagnosis": [{"name": m.name, "residual": m.residual, "tap": m.tap} for m in self.diagnosis],
            "coverage": {
                "compared": self.coverage.compared,
                "missing": list(self.coverage.missing),
                "unknown": list(self.coverage.unknown),
            },
            "taps": [
                {key: getattr(tap, key) for key in ("tap", "error", "added", "floor", "cosine")} for tap in self.taps
            ],
            "dtype": self.dtype,
            "assumed": list(self.assumed),
            "sentence": self.sentence(),
            "repeat": self.repeat,
        }

    def table(self, everything: bool = False) -> str:
        """Taps with their errors, in at most 80 columns, in order; where nothing diverges, the ten worst."""
        shown = list(self.taps)
        if not everything:
            diverging = [tap for tap in shown if tap.diverges][:12]
            worst = sorted(shown, key=lambda tap: -tap.added / tap.floor)[:10]
            shown = diverging or [tap for tap in shown if tap in worst]
        lines = [f"{'tap':<34}{'error':>9}{'inherited':>11}{'added':>9}{'floor':>9}{'x':>8}"]
        for tap in shown:
            times = tap.added / tap.floor
            ratio = f"{times:.1f}" if times < 1000 else f"{times:.0e}"
            lines.append(
                f"{tap.tap[-33:]:<34}{tap.error:>9.1e}{tap.inherited:>11.1e}{tap.added:>9.1e}{tap.floor:>9.1e}{ratio:>8}"
            )
        return "\n".join(lines)

    def said_of_coverage(self) -> str:
        """What was compared, and what not."""
        c = self.coverage
        lines = [f"compared {c.compared} taps, not shown {len(c.missing)}, names that are not known {len(c.unknown)}"]
        if c.missing:
            parts = Counter(".".join(tap.split(".")[-2:]) if "." in tap else tap for tap in c.missing)
            lines.append("not shown: " + ", ".join(f"{name} ({number})" for name, number in parts.most_common(6)))
        if c.unknown:
            more = ", ..." if len(c.unknown) > 4 else ""
            lines.append("not known: " + ", ".join(c.unknown[:4]) + more)
        return "\n".join([*lines, *(f"assumed: {what}" for what in self.assumed)])

    def junit(self) -> str:
        """JUnit's XML: a case a tap."""
        suite = ElementTree.Element(
            "testsuite",
            name="npsiglip verify",
            tests=str(len(self.taps)),
            failures=str(sum(tap.diverges for tap in self.taps)),
            errors=str(int(self.verdict == CANNOT_TELL)),
        )
        for tap in self.taps:
            case = ElementTree.SubElement(suite, "testcase", classname=tap.operation, name=tap.tap)
            if tap.diverges:
                names = ", ".join(match.name for match in tap.diagnosis) or "unknown"
                failure = ElementTree.SubElement(case, "failure", message=f"added {tap.added:.3g}: {names}")
                failure.text = f"floor {tap.floor:.3g}, inherited {tap.inherited:.3g}, where: {tap.where}"
        if self.verdict == CANNOT_TELL:
            case = ElementTree.SubElement(suite, "testcase", classname="verify", name="comparison")
            ElementTree.SubElement(case, "error", message=self.reason)
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def summary_of(name: str) -> str:
    """What a mistake is, in a few words."""
    return BY_NAME[name].summary if name in BY_NAME else (SUMMARIES | GRADIENT_SUMMARIES)[name]
