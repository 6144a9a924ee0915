"""A report as one page of HTML: nothing is fetched, light and dark, on a screen or a phone.

The verdict in a sentence; added errors by tap against floor and limit; where in the first divergent tap the error sits,
as pictures; every tap; coverage and assumptions; the command that repeats it. Everything that comes from a candidate,
its names too, is escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from html import escape
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from npsiglip.verify.compare import Tap
from npsiglip.verify.diagnose import LIMITS
from npsiglip.verify.golden import Golden
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.replay import Replay
from npsiglip.verify.report import Report, summary_of
from npsiglip.verify.verdict import align, replayable
from npsiglip.verify.where import HEAD_AXES

Array = NDArray[Any]
INPUTS = ("preprocess", "tokenize")
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 940, 330, 58, 14, 14, 48  # of the chart, in its own units
MOST_ROWS, MOST_COLUMNS = 400, 800  # of a heat map; larger tensors are averaged in blocks
DECADES = 4  # that a heat map spans, from its largest number down
RED = (214, 69, 36)  # seen on white and on black

STYLE = """
:root { color-scheme: light dark; --fg: #1d2025; --soft: #626a75; --bg: #fff; --box: #f3f4f6; --line: #d5d9df;
  --bad: #c43d1c; --good: #1f7a45; --floor: #2f6fb3; --limit: #8a5fb5; }
@media (prefers-color-scheme: dark) { :root { --fg: #e6e8eb; --soft: #9aa3af; --bg: #15181c; --box: #1f242a;
  --line: #363d46; --bad: #ff7a52; --good: #5fcf8d; --floor: #77b4f2; --limit: #c39bf0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 16px/1.5 system-ui, sans-serif; color: var(--fg);
  background: var(--bg); overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; line-height: 1.35; margin: .5rem 0; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .4rem; }
p.verdict { border-left: .35rem solid var(--good); padding: .6rem .9rem; background: var(--box); margin: .6rem 0; }
p.verdict.bad { border-color: var(--bad); }
code, pre { font: .88em ui-monospace, monospace; background: var(--box); border-radius: 4px; padding: .05em .3em; }
pre { padding: .7rem; overflow-x: auto; }
.wide { overflow-x: auto; } .wide svg { min-width: 680px; width: 100%; height: auto; display: block; }
figure { margin: .8rem 0; } figcaption, .soft { color: var(--soft); font-size: .88rem; }
figure img { display: block; width: 100%; aspect-ratio: 3; border: 1px solid var(--line); image-rendering: pixelated; }
figure.few img { aspect-ratio: 8; } figure.square img { width: min(100%, 22rem); aspect-ratio: auto; }
table { border-collapse: collapse; font-size: .88rem; width: 100%; }
td, th { text-align: right; padding: .15rem .5rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } tr.bad td { color: var(--bad); }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
"""


class Heat(NamedTuple):
    """A picture of an error: magnitudes [rows, columns], and what its rows and columns are."""

    values: Array
    rows: str
    columns: str
    square: bool = False


# -- where in a tensor ------------------------------------------------------------------------------------------------


def _rms(error: Array, axes: tuple[int, ...]) -> Array:
    return np.asarray(np.sqrt((error * error).mean(axis=axes)))


def error_at(tap: str, candidate: Mapping[str, Array], golden: Golden, names: str, dtype: str) -> Array | None:
    """What the candidate added at a tap: its numbers less float64's on its own input; None if that has no shape.

    Args:
        tap: ours.
        candidate: names -> arrays.
        golden: the truth.
        names: whose names these are.
        dtype: what the candidate computes in.
    """
    shown = align(candidate, golden, names).taps
    if tap in (PIXELS, IDS):
        found, truth = (np.asarray(x, np.float64) for x in (shown[tap], golden.inputs[tap]))
        return None if found.shape != truth.shape else (found - truth if tap == PIXELS else 1.0 * (found != truth))
    replay = Replay(golden.config, golden.params, golden.ops, golden.inputs, dtype)
    for step in replay(replayable(shown, golden)):
        if step.op.tap == tap:
            return step.found - step.expected
    return None


def heats(tap: str, error: Array, golden: Golden) -> Iterator[Heat]:
    """The pictures of an error."""
    if tap == PIXELS:
        yield Heat(_rms(error, (0, 1)), "rows of the picture", "columns", True)
    elif tap == IDS:
        yield Heat(error, "texts", "positions")
    elif error.ndim == 4:
        yield Heat(_rms(error, (0, 3)), "heads", "queries")
        yield Heat(_rms(error, (0, 1)), "queries", "keys", True)
    elif error.ndim == 3:
        yield Heat(_rms(error, (0,)), "tokens", "channels")
        tower = golden.config.image if tap.startswith("image.") else golden.config.text
        if tower is not None and tap.endswith(HEAD_AXES):
            by_head = error.reshape(*error.shape[:2], tower.num_heads, -1)
            yield Heat(_rms(by_head, (0, 3)).T, "heads", "tokens")
        if tap.startswith("image.") and PIXELS in golden.inputs and golden.config.image is not None:
            rows, columns = (side // golden.config.image.patch_size for side in golden.inputs[PIXELS].shape[2:])
            if rows * columns == error.shape[1]:
                yield Heat(_rms(error, (0, 2)).reshape(rows, columns), "rows of patches", "columns", True)
    elif error.ndim == 2:
        yield Heat(np.abs(error), "texts" if tap.startswith(("text.", "ztxt")) else "images", "columns")


def _blocks(values: Array) -> Array:
    """Averaged in blocks, until a picture is of a size to look at; what does not divide is left at the edge."""
    for axis, most in ((0, MOST_ROWS), (1, MOST_COLUMNS)):
        size = values.shape[axis]
        if size > most:
            starts = np.arange(0, size, math.ceil(size / most))
            counts = np.diff([*starts, size]).reshape((-1, 1) if axis == 0 else (1, -1))
            values = np.sqrt(np.add.reduceat(values * values, starts, axis=axis) / counts)
    return values


def picture(values: Array) -> bytes:
    """A PNG of magnitudes: the larger, the redder, on a logarithmic scale; what is not finite is full."""
    values = np.nan_to_num(np.asarray(values, np.float64), nan=np.inf, posinf=np.inf)
    finite = values[np.isfinite(values)]
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    with np.errstate(divide="ignore"):
        shade = np.clip(1 + np.log10(np.minimum(values, top) / top) / DECADES, 0, 1)
    pixels = np.empty((*values.shape, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = RED, np.round(255 * shade)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()


def _figure(heat: Heat) -> str:
    finite = heat.values[np.isfinite(heat.values)]
    top = f"{finite.max():.2g}" if finite.size else "nothing finite"
    words = f"{heat.values.shape[0]} {heat.rows} down, {heat.values.shape[1]} {heat.columns} across"
    data = base64.b64encode(picture(_blocks(heat.values))).decode()
    kind = ' class="square"' if heat.square else (' class="few"' if len(heat.values) <= 4 else "")
    return (
        f'<figure{kind}><img alt="{escape(words)}" src="data:image/png;base64,{data}"><figcaption>{escape(words)}; '
        f"full red is {top}, and nothing is {DECADES} decades less.</figcaption></figure>"
    )


# -- errors by tap ----------------------------------------------------------------------------------------------------


def _limit(tap: Tap, dtype: str) -> float:
    return tap.floor * (1.0 if tap.operation in INPUTS else LIMITS[dtype])


def _part(tap: str) -> tuple[str, str]:
    """Tower and block, as the chart says it below its taps."""
    parts = tap.split(".")
    if parts[0] not in ("image", "text"):
        return "", ""
    return parts[0], parts[2] if parts[1] == "blocks" else ("MAP" if parts[1] == "map_head" else "")


def chart(report: Report) -> str:
    """An SVG: added error, floor, limit and the error of the whole port by tap, logarithmic."""
    taps = report.taps
    values = [v for t in taps for v in (t.added, t.error, t.floor, _limit(t, report.dtype)) if 0 < v < math.inf]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    low = max(low, high - 16)

    def x(i: float) -> float:
        return LEFT + (i + 0.5) * (WIDTH - LEFT - RIGHT) / len(taps)

    def y(value: float) -> float:
        at = high if value == math.inf or math.isnan(value) else (math.log10(value) if value > 0 else low)
        return TOP + (high - min(max(at, low), high)) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def line(value_of: Any, style: str) -> str:
        path = " ".join(f"{x(i):.1f},{y(value_of(tap)):.1f}" for i, tap in enumerate(taps))
        return f'<polyline points="{path}" fill="none" {style}/>'

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Added error of each tap, its floor and its limit">'
    ]
    for exponent in range(low, high + 1, max(1, (high - low) // 8)):
        at = y(10.0**exponent)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="var(--line)"/>'
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">1e{exponent}</text>'
        )
    parts += _sections(taps, x)
    parts.append(line(lambda tap: tap.error, 'stroke="var(--soft)" stroke-opacity=".55"'))
    parts.append(line(lambda tap: tap.floor, 'stroke="var(--floor)" stroke-width="1.5"'))
    parts.append(
        line(lambda tap: _limit(tap, report.dtype), 'stroke="var(--limit)" stroke-width="1.5" stroke-dasharray="5 3"')
    )
    for i, tap in enumerate(taps):
        colour, size = ("var(--bad)", 4.5) if tap.diverges else ("var(--good)", 2.5)
        words = f"{tap.tap}: added {tap.added:.2g}, floor {tap.floor:.2g}"
        parts.append(
            f'<circle cx="{x(i):.1f}" cy="{y(tap.added):.1f}" r="{size}" fill="{colour}">'
            f"<title>{escape(words)}</title></circle>"
        )
    return "\n".join([*parts, "</svg>"])


def _sections(taps: tuple[Tap, ...], x: Any) -> Iterator[str]:
    """Rules between blocks, their numbers, and the towers' names."""
    keys = [_part(tap.tap) for tap in taps]
    for level, height, least in ((1, 30, 20), (0, 12, 40)):
        start, names = 0, [key[: level + 1] for key in keys]
        for i in range(1, len(names) + 1):
            if i < len(names) and names[i] == names[start]:
                continue
            left, right = x(start - 0.5), x(i - 0.5)
            if start and level:
                yield f'<line x1="{left:.1f}" x2="{left:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" stroke="var(--line)"/>'
            label = names[start][level]
            if label and right - left >= least:
                yield f'<text x="{(left + right) / 2:.1f}" y="{HEIGHT - height}" text-anchor="middle">{label}</text>'
            start = i


# -- the page ---------------------------------------------------------------------------------------------------------


def _table(taps: tuple[Tap, ...]) -> str:
    rows = [
        f"<tr{' class=bad' if t.diverges else ''}><td>{escape(t.tap)}</td><td>{t.error:.1e}</td>"
        f"<td>{t.inherited:.1e}</td><td>{t.added:.1e}</td><td>{t.floor:.1e}</td><td>{t.added / t.floor:.3g}</td>"
        f"<td>{t.cosine:.9f}</td></tr>"
        for t in taps
    ]
    head = "".join(f"<th>{name}</th>" for name in ("tap", "error", "inherited", "added", "floor", "times", "cosine"))
    lines = "\n".join(rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def _first(report: Report, error: Array | None, golden: Golden | None) -> Iterator[str]:
    tap = report.first
    if tap is None:
        return
    yield f"<h2>What is wrong at <code>{escape(tap.tap)}</code></h2>"
    matches = report.diagnosis
    if not matches:
        yield "<p>No mistake of the catalogue explains it: it is called unknown.</p>"
    for match in matches:
        yield (
            f"<p><code>{escape(match.name)}</code>: {escape(summary_of(match.name))}. With it, float64 gives the "
            f"port's numbers at <code>{escape(match.tap)}</code> but for {match.residual:.1g}.</p>"
        )
    if len(tap.stretch) > 1:
        yield f"<p>Between these the fault lies, not all are shown: {escape(', '.join(tap.stretch))}.</p>"
    if tap.where:
        yield f"<p>Where: {escape(tap.where)}.</p>"
    if tap.fit is not None and math.isfinite(tap.fit.left) and not matches:
        yield (
            f"<p>Best fit: {tap.fit.scale:.6g} times what was expected, plus {tap.fit.offset:.3g}, which leaves "
            f"{tap.fit.left:.2g}.</p>"
        )
    if error is not None and golden is not None:
        yield from (_figure(heat) for heat in heats(tap.tap, error, golden))


def page(
    report: Report, candidate: Mapping[str, Array] | None = None, golden: Golden | None = None, names: str = "auto"
) -> str:
    """The page.

    Args:
        report: what was found.
        candidate, golden, names: as they were compared, for pictures of where; without them there are none.
    """
    error, first = None, report.first
    if candidate is not None and golden is not None and first is not None:
        error = error_at(first.tap, candidate, golden, names, report.dtype)
    bad = "" if report.exit_code == 0 else " bad"
    body = [f"<h1>npsiglip verify: {escape(report.verdict)}</h1>"]
    body += [f'<p class="verdict{bad}">{escape(report.sentence())}</p>']
    if report.taps:
        body += [
            "<h2>What each operation adds</h2>", f'<div class="wide">{chart(report)}</div>',
            '<p class="soft">Dots: added error, relative, on the port\'s own input; red ones diverge. '
            '<span style="color:var(--floor)">Blue</span>: the noise floor of '
            f'{escape(report.dtype)}. <span style="color:var(--limit)">Dashed</span>: the limit. '
            "Grey: the error of the whole port up to there. Logarithmic.</p>",
            *_first(report, error, golden),
        ]  # fmt: skip
    body += [
        "<h2>What was compared</h2>",
        *(f"<p>{escape(line)}</p>" for line in report.said_of_coverage().splitlines()),
    ]
    if report.repeat:
        body += ["<h2>Again</h2>", f"<pre>{escape(report.repeat)}</pre>"]
    if report.taps:
        body += [f"<details><summary>All {len(report.taps)} taps</summary>{_table(report.taps)}</details>"]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        f'content="width=device-width, initial-scale=1"><title>npsiglip verify: {escape(report.verdict)}</title>'
        f"<style>{STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )
