"""The eleven panels as they stand without JavaScript: one choice of patch, layer, head and label each.

With JavaScript, `view/` draws the same again, to be changed. Numbers are the same, from the page's own data.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.explain.arrays import png, restored

Array = NDArray[Any]
HEAT, YES, NO = (255, 146, 43), (45, 212, 191), (255, 99, 71)


def probability(p: float) -> str:
    """Four decimals, or 1.8e-9 where these would be zero."""
    if p >= 0.001 or p == 0:
        return f"{p:.4f}"
    digits, exponent = f"{p:.1e}".split("e")
    return f"{digits}e{int(exponent)}"


def number(x: float, digits: int = 2) -> str:
    """With a true minus; no minus before zero."""
    return f"{x:z.{digits}f}".replace("-", "\N{MINUS SIGN}")


def heat(values: Array, rows: int, columns: int, signed: bool = False, top: float | None = None) -> str:
    """Numbers as a picture of one pixel each, as a URL: the larger, the less transparent."""
    values = np.asarray(values, np.float64).reshape(rows, columns)
    most = top or max(float(np.abs(values).max()), 1e-30)
    pixels = np.empty((rows, columns, 4), np.uint8)
    pixels[..., :3] = np.where(values[..., None] < 0, NO, YES) if signed else HEAT
    pixels[..., 3] = np.rint(255 * np.clip(np.abs(values) / most, 0, 1) ** 0.8)
    return png(pixels)


def shade(values: Array, rows: int, columns: int) -> str:
    """Shade over what is not looked at, as a URL: the less attention, the darker."""
    values = np.asarray(values, np.float64).reshape(rows, columns)
    pixels = np.empty((rows, columns, 4), np.uint8)
    pixels[..., :3], pixels[..., 3] = (8, 10, 16), np.rint(204 * (1 - values / values.max()))
    return png(pixels)


def patch_map(data: dict[str, Any], values: Array | None, name: str, kind: str = "", **options: Any) -> str:
    """A map of patches over the picture."""
    rows, columns = options.pop("rows", data["rows"]), options.pop("columns", data["columns"])
    below = options.pop("below", "")  # pictures stand once, in the page's style: its own, and those of other classes
    under = f'<span class="{" ".join(["below", "shot", *below.split()])}"></span>'
    over = f'<img alt="" src="{heat(values, rows, columns, **options)}">' if values is not None else ""
    return f'<div class="map {kind}" role="img" aria-label="{escape(name)}">{under}{over}</div>'


def training_shot(place: int) -> str:
    """The class of one of panel 11's pictures in the page's style."""
    return f"training-{place}"


def figure(content: str, caption: str) -> str:
    """With a caption, which is HTML."""
    return f"<figure>{content}<figcaption>{caption}</figcaption></figure>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, which are HTML."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="table"><table><thead><tr>{top}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def round_ticks(low: float, high: float) -> list[float]:
    """Round numbers from below `low` to above `high`, about four steps."""
    rough = (high - low) / 4
    scale = 10.0 ** math.floor(math.log10(rough))
    step = scale * next(x for x in (1, 2, 5, 10) if x * scale >= rough)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def chart(lines: dict[str, tuple[Sequence[float], Sequence[float]]], label: str, log: bool = False) -> str:
    """Lines as an SVG: name -> x, y."""
    width, height, left, right, top, bottom = 560, 210, 54, 96, 12, 32
    ys = [math.log10(y) if log else y for _, y_ in lines.values() for y in y_ if not log or y > 0]
    low, high = min(ys), max(ys)
    if log:
        low, high = math.floor(low), max(math.ceil(high), math.floor(low) + 1)
    elif high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    ticks = [low + i for i in range(int(high - low) + 1)] if log else round_ticks(low, high)
    low, high = ticks[0], ticks[-1]
    far = max(1.0, *(float(max(x)) for x, _ in lines.values()))

    def at(x: float, y: float) -> tuple[float, float]:
        y = (math.log10(y) if y > 0 else low) if log else y
        return left + x / far * (width - left - right), top + (high - y) / (high - low) * (height - top - bottom)

    parts = []
    for tick in ticks:
        _, y = at(0, 10.0**tick if log else tick)
        parts.append(
            f'<line x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{f"1e{tick:.0f}" if log else f"{tick:.3g}"}</text>'
        )
    if far >= 100:  # steps of a training
        for tick in (0, far / 2, far):
            parts.append(
                f'<text x="{at(tick, 1.0)[0]:.1f}" y="{height - 8}" text-anchor="middle">{round(tick):,}</text>'
            )
    placed = -math.inf
    ends = sorted(lines.items(), key=lambda item: at(0, item[1][1][-1])[1])
    for (name, (x, y_)), colour in zip(ends, "abc" * 4, strict=False):
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in (at(*pair) for pair in zip(x, y_, strict=True)))
        placed = max(at(0, y_[-1])[1], placed + 15)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="var(--{colour})" stroke-width="2"/>'
            f'<text x="{width - right + 6}" y="{placed + 4:.1f}" style="fill:var(--{colour})">{escape(name)}</text>'
        )
    return (
        f'<div class="wide" tabindex="0" role="group" aria-label="{escape(label)}"><svg viewBox="0 0 {width} {height}" '
        f'role="img" aria-label="{escape(label)}">{"".join(parts)}</svg></div>'
    )


class Static:
    """The panels of a page's data.

    Args:
        data: of `gather`.
        resized, naive: uint8 [S, S, 3], for their difference.
    """

    def __init__(self, data: dict[str, Any], resized: Array, naive: Array) -> None:
        self.data, self.resized, self.naive = data, resized, naive
        self.arrays = {name: restored(entry) for name, entry in data["arrays"].items()}
        middle = data["rows"] // 2, data["columns"] // 2
        rows, columns = np.divmod(np.array(data["queries"]), data["columns"])
        self.query = int(np.argmin((rows - middle[0]) ** 2 + (columns - middle[1]) ** 2))

    def panel(self, i: int) -> str:
        """The inside of panel number i."""
        return str(getattr(self, f"panel_{i}")())

    def panel_1(self) -> str:
        """Resize."""
        picture = self.data["picture"]
        difference = png(np.minimum(255, 8 * np.abs(self.resized.astype(int) - self.naive)))

        def plain(source: str, name: str, mark: str = "") -> str:
            return f'<div class="map plain middle"><img alt="{name}" {mark} src="{source}"></div>'

        return (
            '<div class="row">'
            + figure(
                plain(picture["resized"], "the picture, resized"),
                f"Pillow's resize: {picture['height']} x {picture['width']} pixels become {len(self.resized)} x "
                f"{len(self.resized)}. This goes in.",
            )
            + figure(plain(picture["naive"], "the picture, resized naively"), "Naive: most pixels are skipped.")
            + figure(
                plain(difference, "their difference, eight times", "data-difference"),
                f"Their difference, x 8; at most {picture['difference']} of 255.",
            )
            + "</div>"
        )

    def panel_2(self) -> str:
        """Patches."""
        norms, sheet = self.arrays["patch_norms"], self.data["filters"]
        return (
            '<div class="row">'
            + figure(
                patch_map(self.data, norms, "length of each patch's vector"),
                f"How long the patches' vectors are: {number(norms.min())} to {number(norms.max())}; longest: "
                f"{self._place(int(norms.argmax()))}.",
            )
            + figure(
                f'<img class="sheet" alt="learned filters" src="{sheet["sheet"]}">',
                f"The {len(sheet['channels'])} filters that tell these patches apart most; grey is 0.",
            )
            + "</div>"
        )

    def panel_3(self) -> str:
        """Positions."""
        grid = self.data["image"]["wider_grid"]
        near, wider = (np.maximum(self.arrays[name][self.query], 0) for name in ("positions", "positions_wider"))
        cosines = self.arrays["positions"][self.query].reshape(self.data["rows"], self.data["columns"])
        row, column = divmod(self.data["queries"][self.query], self.data["columns"])
        like = [np.delete(cosines[row], column), np.delete(cosines[:, column], row)]
        means = [number(float(x.mean()) if x.size else 0.0) for x in like]
        return (
            '<div class="row">'
            + figure(
                patch_map(self.data, near, "similarity of positions"),
                f"Positions like the middle patch's. Its row: {means[0]} on average, its column: {means[1]}.",
            )
            + figure(
                patch_map(self.data, wider, "the same on a finer grid", rows=grid, columns=grid),
                f"The same, interpolated to {grid} x {grid}.",
            )
            + "</div>"
        )

    def _place(self, patch: int) -> str:
        row, column = divmod(patch, self.data["columns"])
        return f"row {row + 1}, column {column + 1}"

    def _heads(self, maps: Array, said: Sequence[str]) -> str:
        thumbs = [
            f"<figure>{patch_map(self.data, values, f'head {h + 1}', 'small')}<figcaption>head {h + 1}<br>{words}"
            "</figcaption></figure>"
            for h, (values, words) in enumerate(zip(maps, said, strict=True))
        ]
        return f'<div class="thumbs">{"".join(thumbs)}</div>'

    def panel_4(self) -> str:
        """Attention."""
        layer = self.data["config"]["image"]["depth"] // 2
        said = [
            f"entropy {number(e)}<br>distance {number(d, 1)}"
            for e, d in zip(self.arrays["entropy"][layer], self.arrays["distance"][layer], strict=True)
        ]
        maps, distance = self.arrays["attention"][layer][:, self.query], self.arrays["distance"]
        i, h = np.unravel_index(distance.argmin(), distance.shape)
        least = f"layer {i + 1}, head {h + 1}, {number(float(distance.min()), 1)} patches"
        return (
            f'<p class="soft">Layer {layer + 1}, from the middle patch.</p>{self._heads(maps, said)}'
            f'<p class="soft">Least distance of all: {least}.</p>'
        )

    def panel_5(self) -> str:
        """The probe."""
        said = [f"entropy {number(e)}" for e in self.arrays["probe_entropy"]]
        windows = np.array(self.data["shares"]["windows"])
        agreement = self.data["shares"]["agreement"][0]
        gradient, grey = self.arrays["gradient"][0], self.arrays["occlusion"][0][windows]
        verdict = "agree" if agreement >= 0.7 else "disagree: do not explain a decision by one of them alone"
        return (
            self._heads(self.arrays["probe"], said)
            + f'<h3>{escape(self.data["labels"][0])}</h3><div class="row">'
            + figure(
                patch_map(self.data, gradient, "by gradients", "middle", signed=True),
                f"By gradient: {number(gradient.sum())} in all.",
            )
            + figure(
                patch_map(self.data, grey, "made grey", "middle", signed=True),
                f"Made grey: at most {number(float(np.abs(grey).max()))}.",
            )
            + f'</div><p class="say {"good" if agreement >= 0.7 else "bad"}">They {verdict}; correlation '
            f"{number(agreement)}.</p>"
        )

    def panel_6(self) -> str:
        """The residual stream."""
        norms, depth = self.arrays["norms"], range(len(self.arrays["norms"]))
        worst = self.data["image"]["outliers"][-1]
        lines: Any = {"mean": (depth, norms.mean(axis=1)), "largest": (depth, norms.max(axis=1))}
        similar = np.maximum(2 * self.arrays["stream_similarity"][-1][self.query] - 1, 0)
        return (
            '<div class="row">'
            + figure(
                patch_map(self.data, similar, "similarity to the middle patch"), "Like the middle patch, at the end."
            )
            + figure(chart(lines, "norm of the tokens by depth"), "Norm of the tokens by depth.")
            + "</div>"
            + table(
                ["channel", *map(str, worst["channels"])],
                [["times the median channel", *(number(x, 1) for x in worst["times"])]],
            )
        )

    def panel_7(self) -> str:
        """Text."""
        found = []
        for text in self.data["texts"]:
            shown = [escape(piece) for piece in text["pieces"][: text["length"] - 1]] + ["&lt;/s&gt;"]
            shown += ["pad"] * (len(text["ids"]) - len(shown))
            pieces = "".join(
                f'<span class="piece{"" if i < text["length"] else " pad"}">{shown[i]}<small>{piece}</small></span>'
                for i, piece in enumerate(text["ids"])
            )
            words = ", ".join(f"{escape(word['word'])} {number(word['change'])}" for word in text["words"])
            found.append(
                f"<h3>{escape(text['text'])}</h3><p>Canonical text: <code>{escape(text['canonical'])}</code></p>"
                f'<div class="pieces">{pieces}</div><p class="soft">With padding masked: cosine of the two vectors '
                f"{number(text['masked_cosine'], 3)}, logit {number(text['masked_logit'])}. "
                f"Each word adds: {words or 'one word'}.</p>"
            )
        return "".join(f"<div>{one}</div>" for one in found)

    def panel_8(self) -> str:
        """Probabilities."""
        data, t = self.data, math.exp(self.data["t_prime"])
        rows = [
            [
                escape(label),
                number(cosine, 4),
                number(t * cosine),
                number(logit),
                f"<b>{probability(p)}</b>",
                probability(share),
            ]
            for label, cosine, logit, p, share in zip(
                data["labels"], data["cosines"], data["logits"], data["probs"], data["softmax"], strict=True
            )
        ]
        head = [
            "label",
            "cosine",
            f"\N{MULTIPLICATION SIGN} t = {t:.2f}",
            f"+ bias = {number(data['bias'])}",
            "sigmoid",
        ]
        return table([*head, "softmax"], rows)

    def panel_9(self) -> str:
        """The loss."""
        pairs, t, bias = self.data["pairs"], math.exp(self.data["t_prime"]), self.data["bias"]
        z = t * np.array(pairs["cosines"]) + bias
        signs = 2 * np.eye(len(z)) - 1
        losses = np.log1p(np.exp(-np.abs(z))) + np.maximum(-signs * z, 0)
        cells = ["<span></span>", *(f'<span class="cap">text {j + 1}</span>' for j in range(len(z)))]
        for i, row in enumerate(z):
            cells.append(
                f'<span class="cap"><img alt="{escape(pairs["captions"][i])}" src="{pairs["pictures"][i]}"></span>'
            )
            for j, x in enumerate(row):
                strong = round(55 * min(1.0, math.sqrt(losses[i, j]) / 2.2))
                cells.append(
                    f'<span class="cell{" match" if i == j else ""}" style="background:color-mix(in srgb, var(--no) '
                    f'{strong}%, var(--box))">{number(x, 0)}</span>'
                )
        captions = " \N{MIDDLE DOT} ".join(f"<b>{j + 1}</b> {escape(text)}" for j, text in enumerate(pairs["captions"]))
        return (
            f'<div class="cells" style="grid-template-columns: 1.5fr repeat({len(z)}, 1fr)">{"".join(cells)}</div>'
            f'<p class="soft">{captions}</p><p class="say">Loss {number(losses.sum() / len(z), 4)}, of which '
            f"{number(np.trace(losses) / len(z), 4)} from the matches.</p>"
        )

    def panel_10(self) -> str:
        """Fewer bits."""
        found, data = self.data["precision"], self.data
        blocks = [i for i, tap in enumerate(found["taps"]) if tap.startswith("image.")]
        lines: Any = {
            name: (range(len(blocks)), [errors[i] for i in blocks]) for name, errors in found["errors"].items()
        }
        rows = [
            [escape(label), number(data["logits"][k], 4), *(number(found["logits"][name][k], 4) for name in lines)]
            for k, label in enumerate(data["labels"])
        ]
        return figure(chart(lines, "relative error by layer", log=True), "Relative error by layer.") + table(
            ["logit", "float64", *lines], rows
        )

    def panel_11(self) -> str:
        """Training."""
        found = self.data["training"] or {}
        parts = [f'<p class="soft">{escape(found["about"])}</p>'] if found.get("about") else []
        if found.get("loss"):
            steps, losses = zip(*found["loss"], strict=True)
            parts.append(figure(chart({"loss": (steps, losses)}, "loss by step"), "Loss by step."))
        for p, shown in enumerate(found.get("pictures", [])):
            thumbs = []
            for one in found["checkpoints"]:
                values = np.array(one["probes"][p])
                side = math.isqrt(len(values))
                drawn = patch_map(
                    self.data, values, f"step {one['step']}", "small", rows=side, columns=side, below=training_shot(p),
                    top=max(0.25, float(values.max())),
                )  # fmt: skip
                thumbs.append(f"<figure>{drawn}<figcaption>step {one['step']:,}</figcaption></figure>")
            parts.append(f'<h3>{escape(shown["caption"])}</h3><div class="thumbs">{"".join(thumbs)}</div>')
        return "".join(parts) or "<p>No training was given.</p>"
