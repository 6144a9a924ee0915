"""Draws the figures of architecture, kernels and the loss, `python docs/images/make_figures.py`, and the site's logo.

Names in a figure are those of docs/glossary.md: parameters and taps are set in type of one width, and tests/docs looks
them up. **i** stands for a block's number. The same script gives the same bytes.
"""

from html import escape
from pathlib import Path

HERE = Path(__file__).parent
BLUE, GREEN, YELLOW, RED, VIOLET, WHITE = "#ddf4ff", "#dafbe1", "#fff8c5", "#ffebe9", "#fbefff", "#ffffff"
INK, SOFT, RULE, STRONG = "#1f2328", "#57606a", "#8c959f", "#0b62a8"


class Drawing:
    """An SVG file that grows: boxes, arrows, words, on a white card that is readable on dark pages too."""

    def __init__(self, width, height, title):
        self.size, self.title, self.parts = (width, height), title, []

    def box(self, x, y, w, h, fill=WHITE, dashed=False, stroke=SOFT, radius=6):
        """A rectangle with its upper left corner at (x, y)."""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="{radius}" fill="{fill}" '
            f'stroke="{stroke}"{dash}/>'
        )

    def words(self, x, y, text, size=12, anchor="middle", colour=INK, bold=False, name=False):
        """A line of text; `name`: parameters and taps, with commas between."""
        kind = ' class="name" font-family="ui-monospace, Menlo, Consolas, monospace"' if name else ""
        weight = ' font-weight="bold"' if bold else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" text-anchor="{anchor}" fill="{colour}"{kind}{weight}>'
            f"{escape(text)}</text>"
        )

    def step(self, x, y, w, what, name="", shape="", fill=BLUE, h=None):
        """A box around its middle x: what is done, under which name, what shape comes out. Gives its lower edge."""
        lines = [bool(what), bool(name), bool(shape)]
        h = h or 12 + 16 * sum(lines)
        self.box(x - w / 2, y, w, h, fill)
        at = y + 19
        if what:
            self.words(x, at, what, 13, bold=True)
            at += 16
        if name:
            self.words(x, at, name, 11, name=True)
            at += 16
        if shape:
            self.words(x, at, shape, 11, colour=SOFT)
        return y + h

    def arrow(self, *points, tip=True, colour=SOFT, dashed=False):
        """A line through points."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        end = ' marker-end="url(#tip)"' if tip else ""
        dash = ' stroke-dasharray="4 3"' if dashed else ""
        self.parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.4"{end}{dash}/>')

    def plus(self, x, y):
        """A residual sum."""
        self.parts.append(f'<circle cx="{x:g}" cy="{y:g}" r="11" fill="{YELLOW}" stroke="{SOFT}"/>')
        self.words(x, y + 5, "+", 16, bold=True)

    def svg(self):
        """The file's text."""
        w, h = self.size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
                'font-family="Helvetica, Arial, sans-serif">',
                f"<title>{escape(self.title)}</title>",
                '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
                f'orient="auto"><path d="M0 0.5 L8 4 L0 7.5 z" fill="{SOFT}"/></marker></defs>',
                f'<rect width="{w}" height="{h}" rx="10" fill="#ffffff"/>',
                *self.parts,
                "</svg>\n",
            ]
        )


def two_towers():
    """From a picture and a text to a probability."""
    d = Drawing(760, 700, "The two towers, from pixels and token ids to a probability")
    towers = (
        (
            200, "image tower", "pixels", "[N, 3, S, S] in [-1, 1]", "patches, linear", "image.patch_embed",
            "[N, L, D]", "+ image.pos_embed", "image.embed", "image.final_ln", "MAP head", "image.pooled", "zimg", "N",
        ),
        (
            560, "text tower", "token ids", "[K, L], filled up to 64", "a row for each id", "text.token_embed",
            "[K, L, D]", "+ text.pos_embed", "text.embed", "text.final_ln", "last position, linear",
            "text.head", "ztxt", "K",
        ),
    )  # fmt: skip
    for x, tower, source, shape, embed, name, out, positions, embedded, final, pool, pooled, unit, n in towers:
        d.box(x - 160, 96, 320, 392, "#f6f8fa", stroke="#d0d7de", radius=10)
        d.words(x - 148, 116, tower, 12, "start", SOFT, bold=True)
        y = d.step(x, 20, 230, source, shape=shape, fill=WHITE)
        d.arrow((x, y), (x, 126))
        y = d.step(x, 126, 230, embed, name, out)
        d.arrow((x, y), (x, 204))
        y = d.step(x, 204, 230, "", f"{positions},  {embedded}".replace("+ ", ""), fill=YELLOW, h=30)
        d.words(x - 108, y - 10, "+", 14, bold=True)
        d.arrow((x, y), (x, 256))
        for back in (12, 6):
            d.box(x - 115 + back, 256 - back + 12, 230, 60, GREEN)
        d.step(x, 268, 230, "block", "blocks.i", "attention, then MLP; x depth", fill=GREEN)
        d.arrow((x, 328), (x, 354))
        y = d.step(x, 354, 230, "LayerNorm", final)
        d.arrow((x, y), (x, 420))
        y = d.step(x, 420, 230, pool, pooled, f"[{n}, D]", fill=VIOLET, h=60)
        d.arrow((x, y), (x, 508))
        y = d.step(x, 508, 230, "unit norm", unit)
        d.arrow((x, y), (x, 576), (380, 576), (380, 594)) if x < 380 else d.arrow(
            (x, y), (x, 576), (380, 576), tip=False
        )
    y = d.step(380, 594, 330, "", "logits", "t zimg ztxt^T + bias,  t = exp(t_prime)   [N, K]", fill=YELLOW)
    d.arrow((545, 616), (588, 616))
    d.step(660, 594, 142, "sigmoid", "probs", fill=RED)
    d.words(
        380,
        668,
        "Each pair gets a probability of its own: rows do not sum to one, and no label has to win.",
        12,
        colour=SOFT,
    )
    return d


def block():
    """One transformer block."""
    d = Drawing(760, 640, "A transformer block: two copies are normalised, and what comes of them is added to x")
    x, y0 = 110, 58
    d.words(x, 28, "residual stream x", 13, bold=True)
    d.words(x, 46, "[N, L, D]", 11, colour=SOFT)
    d.plus(x, 396)
    d.plus(x, 568)
    d.arrow((x, y0), (x, 384))
    d.arrow((x, 408), (x, 556))
    d.arrow((x, 580), (x, 618))
    d.words(x + 8, 430, "blocks.i.+attn", 11, "start", name=True)
    d.words(x + 12, 606, "blocks.i.+mlp", 11, "start", name=True)
    d.arrow((x, 84), (290, 84))
    d.words(190, 76, "a copy", 11, colour=SOFT)
    d.step(400, 62, 220, "LayerNorm", "ln1")
    d.arrow((400, 106), (400, 122), tip=False)
    d.arrow((260, 138), (260, 122), (540, 122), tip=False)
    for cx, name, fill in ((260, "attn.q", BLUE), (400, "attn.k", BLUE), (540, "attn.v", BLUE)):
        d.arrow((cx, 122), (cx, 140))
        d.step(cx, 140, 124, "linear", name, "[N, L, D]", fill=fill)
    d.arrow((260, 200), (260, 224))
    d.arrow((400, 200), (400, 212), (330, 212), (330, 224))
    d.step(310, 224, 224, "softmax(q k^T / sqrt(Dh))", "attn.probs", "[N, H, L, L], rows sum to one", fill=VIOLET)
    d.arrow((310, 284), (310, 308))
    d.arrow((540, 200), (540, 330), (422, 330))
    d.step(310, 308, 224, "probs v, heads side by side", "attn.mix")
    d.arrow((310, 352), (310, 374))
    d.step(310, 374, 224, "linear", "attn.out")
    d.arrow((198, 396), (121, 396))
    d.words(672, 168, "cut into H heads", 11, colour=SOFT)
    d.words(672, 184, "of width Dh = D / H", 11, colour=SOFT)
    d.arrow((x, 460), (208, 460))
    d.words(164, 475, "a copy", 11, colour=SOFT)
    d.step(272, 438, 128, "LayerNorm", "ln2")
    d.arrow((336, 460), (366, 460))
    d.step(434, 438, 136, "linear", "mlp.fc1", "[N, L, M]")
    d.arrow((502, 468), (532, 468))
    d.step(600, 438, 136, "GELU, tanh form", "mlp.gelu", "[N, L, M]", fill=VIOLET)
    d.arrow((600, 498), (600, 568), (502, 568))
    d.step(434, 546, 136, "linear", "mlp.fc2", "[N, L, D]")
    d.arrow((366, 568), (121, 568))
    return d


def map_head():
    """From tokens to one vector."""
    d = Drawing(760, 470, "The MAP head: a learned probe is the only query")
    d.step(150, 24, 220, "learned probe", "image.map_head.probe", "one vector, the same for all images", fill=YELLOW)
    d.step(560, 24, 300, "tokens", "image.final_ln", "[N, L, D]", fill=GREEN)
    d.arrow((150, 84), (150, 112))
    d.step(150, 112, 150, "linear", "map_head.attn.q", "[N, 1, D]")
    for x, name in ((470, "map_head.attn.k"), (650, "map_head.attn.v")):
        d.arrow((x, 84), (x, 112))
        d.step(x, 112, 150, "linear", name, "[N, L, D]")
    d.arrow((150, 172), (150, 200))
    d.arrow((470, 172), (470, 230), (272, 230))
    d.step(
        150,
        200,
        244,
        "softmax(q k^T / sqrt(Dh))",
        "map_head.attn.probs",
        "[N, H, 1, L]: where it looks",
        fill=VIOLET,
    )
    d.arrow((150, 260), (150, 288))
    d.arrow((650, 172), (650, 310), (272, 310))
    d.step(150, 288, 244, "probs v, heads side by side", "map_head.attn.mix")
    d.arrow((150, 332), (150, 360))
    d.step(150, 360, 244, "linear", "map_head.attn.out", "a  [N, 1, D]")
    d.arrow((272, 390), (584, 390))
    d.plus(596, 390)
    d.arrow((300, 390), (300, 437), (322, 437))
    d.parts.append(f'<circle cx="300" cy="390" r="3" fill="{SOFT}"/>')
    d.step(368, 418, 90, "LayerNorm", "map_head.ln", h=40)
    d.arrow((413, 437), (432, 437))
    d.step(496, 418, 124, "MLP", "map_head.mlp", h=40)
    d.arrow((558, 437), (596, 437), (596, 402))
    d.arrow((608, 390), (634, 390))
    d.step(690, 368, 108, "", "image.pooled", "[N, D]", fill=RED)
    d.words(440, 366, "the only residual sum:", 11, colour=SOFT)
    d.words(440, 380, "the probe itself is not added", 11, colour=SOFT)
    return d


def loss_matrix():
    """Which device computes which chunk of the matrix of logits, and when."""
    d = Drawing(760, 430, "The matrix of logits: matches on the diagonal, and its chunks in the order of the ring")
    cell, n, devices = 32, 8, 4
    tone = (YELLOW, BLUE, GREEN, VIOLET)
    for left, title in ((60, "B images against B texts"), (440, "the same, round a ring of 4 devices")):
        d.words(left + n * cell / 2, 28, title, 13, bold=True)
        d.words(left + n * cell / 2, 50, "ztxt: texts j", 11, colour=SOFT)
        d.parts.append(
            f'<text transform="translate({left - 14} {64 + n * cell / 2:g}) rotate(-90)" font-size="11" '
            f'text-anchor="middle" fill="{SOFT}">zimg: images i</text>'
        )
    for i in range(n):
        for j in range(n):
            x, y = 60 + j * cell, 62 + i * cell
            d.box(x, y, cell, cell, "#2da44e" if i == j else "#f6f8fa", stroke="#d0d7de", radius=0)
            d.words(x + cell / 2, y + 20, "+1" if i == j else "-1", 11, colour=WHITE if i == j else RULE, bold=i == j)
    d.box(60 + 4 * cell, 62 + 2 * cell, 2 * cell, 2 * cell, "none", stroke=STRONG, radius=2)
    d.parts[-1] = d.parts[-1].replace("/>", ' stroke-width="3"/>')
    size = n * cell // devices
    for device in range(devices):
        for block_of in range(devices):
            turn = (device - block_of) % devices
            x, y = 440 + block_of * size, 62 + device * size
            d.box(x, y, size, size, tone[turn], stroke=RULE, radius=0)
            d.words(
                x + size / 2, y + 30, "first" if turn == 0 else f"exchange {turn}", 11 if turn else 12, bold=turn == 0
            )
            d.words(x + size / 2, y + 46, f"texts of {block_of}", 10, colour=SOFT)
        d.words(704, 62 + device * size + 36, f"device {device}", 11, "start", SOFT)
    y = 344
    d.words(188, y, "y = +1 where text j belongs to image i, else -1", 12)
    d.words(188, y + 20, "B matches, B (B - 1) that do not match:", 12)
    d.words(188, y + 38, "so the bias starts at -10", 12)
    d.words(188, y + 62, "the frame: a chunk. It needs its own rows of zimg and ztxt only", 11, colour=STRONG)
    d.words(568, y, "A device keeps its images. Texts travel:", 12)
    d.words(568, y + 20, "after D - 1 exchanges each image has met each text,", 12)
    d.words(568, y + 38, "and nobody ever held more than one chunk", 12)
    return d


def panels():
    """Weights in the order in which a product reads them."""
    d = Drawing(760, 400, "Weights w [K, N], cut into panels of 16 columns, and the order in which they lie in memory")
    tone = (BLUE, GREEN, VIOLET)
    d.words(170, 30, "w [K, N]", 14, bold=True)
    left, top, w, rows, pitch = 50, 62, 80, 7, 34
    for p in range(3):
        x, wide = left + p * w, w if p < 2 else w * 0.6
        d.words(x + wide / 2, 54, f"panel {p}", 11, colour=SOFT)
        for r in range(rows):
            d.box(x, top + r * pitch, wide, pitch, tone[p], stroke=RULE, radius=0)
            label = "..." if r == 4 else f"step {r}" if r < 4 else ("last step" if r == 6 else "...")
            d.words(x + wide / 2, top + r * pitch + 21, label, 11)
        d.words(
            x + wide / 2,
            top + rows * pitch + 18,
            "16 columns" if p < 2 else "<= 16",
            11,
            colour=SOFT,
        )
    d.box(left + 2 * w + w * 0.6, top, w * 0.4, rows * pitch, WHITE, dashed=True, stroke=RULE, radius=0)
    d.words(left + 2 * w + w * 0.8, top + 120, "0", 13, colour=RULE)
    d.arrow((310, 180), (370, 180))
    d.words(340, 170, "pack", 12, bold=True)
    d.words(530, 30, "panels [ceil(N / 16), steps, 16 lanes]", 14, bold=True)
    d.words(530, 54, "one after the other in memory", 11, colour=SOFT)
    y = top
    for p in range(3):
        for label in ("step 0", "step 1", "...", "last step"):
            for lane in range(16):
                d.box(390 + lane * 14, y, 14, 20, tone[p] if p < 2 or lane < 10 else WHITE, stroke="#d0d7de", radius=0)
            d.words(624, y + 14, label, 11, "start", SOFT)
            y += 20
        d.words(734, y - 40, f"panel {p}", 11, "end", INK, bold=True)
        y += 10
    d.words(502, y + 8, "16 lanes of 32 bits: 64 bytes, a line of the cache", 11, colour=SOFT)
    d.words(380, 378, "A lane of a step holds one float32, two bfloat16 or four int8 of its column.", 12)
    return d


def tile():
    """What stays in registers while a product runs over its steps."""
    d = Drawing(760, 384, "The tile of 8 x 48 sums: in one step, three loads, eight broadcasts, 24 multiply-adds")
    left, top, w, pitch = 230, 108, 132, 28
    d.words(left + 1.5 * w, 28, "one step of three panels: 3 loads", 13, bold=True)
    for p, tone in enumerate((BLUE, GREEN, VIOLET)):
        x = left + p * (w + 8)
        d.box(x, 42, w, 30, tone)
        d.words(x + w / 2, 62, f"b{p}: 16 lanes", 12)
        d.arrow((x + w / 2, 72), (x + w / 2, 102))
        for r in range(8):
            d.box(x, top + r * pitch, w, pitch - 4, "#f6f8fa", stroke="#d0d7de", radius=3)
            d.words(x + w / 2, top + r * pitch + 17, f"+= x{r} b{p}", 12)
    d.words(106, 62, "one step of 8 rows:", 13, bold=True)
    d.words(106, 80, "8 broadcasts", 13, bold=True)
    for r in range(8):
        d.box(84, top + r * pitch, 44, pitch - 4, YELLOW)
        d.words(106, top + r * pitch + 17, f"x{r}", 12)
        d.arrow((128, top + r * pitch + 12), (224, top + r * pitch + 12))
    d.words(left + 1.5 * w, top + 8 * pitch + 20, "24 registers hold sums for all steps of a chain", 12)
    d.words(
        380,
        372,
        "A lane's share of a step: 1 float32, 2 bfloat16 or 4 int8, so 16, 32 or 64 multiply-adds at once",
        12,
        colour=SOFT,
    )
    return d


def logo():
    """A small matrix of logits with its diagonal."""
    d = Drawing(64, 64, "npsiglip")
    for i in range(4):
        for j in range(4):
            d.box(5 + 14 * j, 5 + 14 * i, 12, 12, STRONG if i == j else "#c8e1f8", stroke="none", radius=3)
    return d


FIGURES = {
    "two-towers": two_towers, "block": block, "map-head": map_head, "loss-matrix": loss_matrix, "panels": panels,
    "tile": tile, "logo": logo,
}  # fmt: skip

if __name__ == "__main__":
    for stem, figure in FIGURES.items():
        (HERE / f"{stem}.svg").write_text(figure().svg(), encoding="utf-8")
