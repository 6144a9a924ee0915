"""Pictures by another hand, drawn with matplotlib: flash cards, icons and clip art of 8 colours and 8 shapes.

By an author who had not seen npsiglip's own pictures; `benchmarks/other_pictures.py` shows them to a model. Five
styles, on backgrounds that leave the object easy to name.

Leaves out: several objects, photos, saturated backgrounds, colours between two names.
"""

import numpy as np
from PIL import Image

try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgb
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
    from matplotlib.transforms import Affine2D

    from benchmarks.other_shapes import MAKERS, SHAPES
except ImportError as error:
    if error.name is None or error.name.split(".")[0] != "matplotlib":
        raise
    message = "these pictures are drawn with matplotlib, which is not installed: pip install 'npsiglip[train]'"
    raise ImportError(message) from error

SIZE = 256  # pixels of a side; models scale it down themselves
DPI = 64  # a point is 0.9 pixels

# Names as matplotlib has them (CSS, Tableau, the xkcd survey), and crayons and markers as hex.
PALETTE = {
    "red": ("red", "tab:red", "firebrick", "xkcd:fire engine red", "#e6194b", "#ee204d"),
    "orange": ("orange", "darkorange", "tab:orange", "xkcd:pumpkin orange", "#f58231"),
    "yellow": ("yellow", "gold", "xkcd:sunny yellow", "#ffe119", "#fce74c"),
    "green": ("green", "forestgreen", "limegreen", "tab:green", "mediumseagreen", "xkcd:grass green"),
    "blue": ("blue", "royalblue", "tab:blue", "dodgerblue", "xkcd:cobalt blue", "#4363d8"),
    "purple": ("purple", "rebeccapurple", "tab:purple", "darkviolet", "xkcd:violet", "#7851a9"),
    "pink": ("hotpink", "pink", "tab:pink", "lightpink", "xkcd:bubblegum pink", "#fc74b4"),
    "brown": ("saddlebrown", "sienna", "tab:brown", "xkcd:milk chocolate", "#8a5a2b"),
}
COLOURS = tuple(PALETTE)

# Without a colour that could be named as the object's: little chroma, or very pale.
TINTS = (
    "white", "white", "whitesmoke", "ivory", "aliceblue", "lavender", "honeydew", "mistyrose", "lightcyan",
    "cornsilk", "beige", "lightgray", "#cfe3f7", "#d8ecd0", "#f6e3c5", "#e3d7f0",
)  # fmt: skip
DARKS = ("black", "#24262b", "#1b2333", "#22332b", "#3a3a3a", "#2d2433")
GREYS = ("#555555", "#888888", "#aaaaaa")


def mix(colour, other, part):
    """`part` of `other` in `colour`; RGB from 0 to 1."""
    return tuple((1 - part) * np.array(to_rgb(colour)) + part * np.array(to_rgb(other)))


def distance(colour, other):
    """Euclidean, in RGB from 0 to 1."""
    return float(np.linalg.norm(np.subtract(to_rgb(colour), to_rgb(other))))


def is_dark(colour):
    """Darker than a middle grey, to the eye."""
    return float(np.dot(to_rgb(colour), (0.299, 0.587, 0.114))) < 0.45


# Shapes: a generator of random numbers to a closed outline of about unit size, upright. MAKERS is at the end.

CAPTIONS = tuple(f"a {colour} {shape}".replace("a orange", "an orange") for colour in COLOURS for shape in SHAPES)


def parts(label):
    """Where the colour is in COLOURS and the shape in SHAPES; of one label, or of an array of them."""
    return label // len(SHAPES), label % len(SHAPES)


def place(rng, shape, margin):
    """The outline of a shape somewhere in the unit square, `margin` away from its sides."""
    make, lean = MAKERS[shape]
    flip = -1 if shape in ("moon", "triangle") and rng.random() < 0.5 else 1
    outline = Affine2D().rotate_deg(rng.uniform(-lean, lean)).scale(flip, 1).transform_path(make(rng))
    box = outline.get_extents()
    size = rng.uniform(0.45, 1.0) * (1 - 2 * margin)
    scale = size / max(box.width, box.height)
    room = 0.5 - margin - 0.5 * scale * np.array([box.width, box.height])
    middle = 0.5 + room * rng.uniform(-1, 1, 2) * rng.choice([0.0, 0.5, 1.0])
    shift = middle - scale * 0.5 * (box.min + box.max)
    return Affine2D().scale(scale).translate(*shift).transform_path(outline)


def fill(axes, outline, **look):
    """Draw an outline; returns the patch."""
    return axes.add_patch(PathPatch(outline, **{"lw": 0, "joinstyle": "round", **look}))


def shifted(outline, x, y):
    return Affine2D().translate(x, y).transform_path(outline)


def wash(axes, start, end, degrees, centre=None):
    """An image of the whole canvas from one colour to another, along a direction or away from `centre`."""
    y, x = np.mgrid[1:0:64j, 0:1:64j]
    if centre is None:
        along = x * np.cos(np.radians(degrees)) + y * np.sin(np.radians(degrees))
        along = (along - along.min()) / np.ptp(along)
    else:
        along = np.clip(np.hypot(x - centre[0], y - centre[1]) / 0.6, 0, 1)
    pixels = (1 - along[..., None]) * np.array(to_rgb(start)) + along[..., None] * np.array(to_rgb(end))
    return axes.imshow(pixels, extent=(0, 1, 0, 1), interpolation="bilinear", aspect="auto", zorder=0)


# Backgrounds: axes, random numbers and the colour of the ground that the object lies on.


def plain(axes, rng, ground):
    axes.add_patch(Rectangle((0, 0), 1, 1, fc=ground, lw=0))


def gradient_ground(axes, rng, ground):
    end = mix(ground, "white", 0.15) if is_dark(ground) else mix(ground, "black", 0.12)
    wash(axes, ground, end, rng.uniform(0, 360), centre=(0.5, 0.5) if rng.random() < 0.4 else None)


def paper(axes, rng, ground):
    """Grain of two sizes, grey."""
    fine, coarse = rng.standard_normal((SIZE, SIZE)), Image.fromarray(rng.standard_normal((24, 24), np.float32))
    grain = 0.02 * fine + 0.012 * np.asarray(coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    pixels = np.clip(np.array(to_rgb(ground)) * 0.96 + grain[..., None], 0, 1)
    axes.imshow(pixels, extent=(0, 1, 0, 1), aspect="auto", zorder=0)


def squared_paper(axes, rng, ground):
    """Ruled, or with squares, as in a school book."""
    plain(axes, rng, ground)
    at, line = np.arange(rng.uniform(0, 0.1), 1, rng.uniform(0.06, 0.12)), mix(ground, "slategray", 0.3)
    axes.hlines(at, 0, 1, colors=[line], lw=1, zorder=1)
    if rng.random() < 0.5:
        axes.vlines(at, 0, 1, colors=[line], lw=1, zorder=1)


def dotted(axes, rng, ground):
    """Small dots all over, hardly other than the ground."""
    plain(axes, rng, ground)
    x, y = np.meshgrid(*[np.arange(0.03, 1, rng.uniform(0.07, 0.1))] * 2)
    axes.scatter(x, y, s=rng.uniform(4, 14), color=[mix(ground, "gray", 0.25)], lw=0)


BACKGROUNDS = {
    "flat": (plain, gradient_ground, dotted),
    "sticker": (plain, gradient_ground, paper, dotted),
    "gradient": (plain, gradient_ground),
    "hatched": (plain, paper, squared_paper),
    "sketch": (plain, paper, squared_paper),
}


def grounds_for(colour, choice):
    """Those of `choice` that the colour stands out from."""
    return [ground for ground in choice if distance(colour, ground) > (0.54 if is_dark(ground) else 0.3)]


def frame(axes, rng, ground):
    """A line along the edge of the picture."""
    inset, line = rng.uniform(0.02, 0.05), str(rng.choice(GREYS))
    axes.add_patch(Rectangle((inset, inset), 1 - 2 * inset, 1 - 2 * inset, fill=False, ec=line, lw=rng.uniform(1, 3)))


def card(axes, rng, ground):
    """What the object lies on is a card on a table."""
    table = mix(ground, "white" if is_dark(ground) else "black", rng.uniform(0.12, 0.3))
    plain(axes, rng, table)
    look = {"boxstyle": f"round,pad=0,rounding_size={rng.uniform(0.02, 0.07):.3f}", "lw": 0}
    axes.add_patch(FancyBboxPatch((0.055, 0.035), 0.9, 0.9, fc=mix(table, "black", 0.3), **look))
    axes.add_patch(FancyBboxPatch((0.045, 0.05), 0.91, 0.91, fc=ground, **look))


def corners(axes, rng, ground):
    """A small dot in each corner."""
    at = np.array([0.06, 0.94])
    axes.scatter(*np.meshgrid(at, at), s=rng.uniform(8, 25), color=[mix(ground, "gray", 0.5)], lw=0)


def draw_ground(axes, rng, style, ground):
    """The background of a style, and a decoration now and then."""
    kinds = BACKGROUNDS[style]
    kinds[rng.integers(len(kinds))](axes, rng, ground)
    if rng.random() < 0.3:
        (frame, card, corners)[rng.integers(3)](axes, rng, ground)


# Styles: axes, random numbers, where the object is, its colour, and the colour of the ground.


def soft_shadow(axes, outline, x, y):
    """Wider and wider borders, each of them almost transparent."""
    for width in (0, 3, 6, 9, 12):
        fill(axes, shifted(outline, x, y), fc="black", ec="black", lw=width, alpha=0.06)


def flat(axes, rng, outline, colour, ground):
    """Flat icon: one colour; a hard shadow, or one half a little darker."""
    if rng.random() < 0.4:
        fill(axes, shifted(outline, *(rng.choice([-1, 1]) * 0.025, -0.025)), fc=mix(ground, "black", 0.25))
    patch = fill(axes, outline, fc=colour)
    if rng.random() < 0.35:
        box = outline.get_extents()
        half = axes.add_patch(Rectangle((0.5 * (box.x0 + box.x1), 0), 1, 1, fc="black", alpha=0.1, lw=0))
        half.set_clip_path(patch)


def sticker(axes, rng, outline, colour, ground):
    """Outlined sticker: a white border that throws a shadow, or a thick dark line as in a comic."""
    if rng.random() < 0.5:
        soft_shadow(axes, outline, 0.01, -0.015)
        fill(axes, outline, fc="white", ec="white", lw=rng.uniform(10, 14))
        fill(axes, outline, fc=colour, ec=mix(colour, "black", 0.3), lw=rng.choice([0, 1.5]))
    else:
        line = "white" if is_dark(ground) else rng.choice(["black", "#222222", "#3b2f2f"])
        fill(axes, outline, fc=colour, ec=str(line), lw=rng.uniform(2.5, 6))


def gradient(axes, rng, outline, colour, ground):
    """Lighter to darker, along a line or from a highlight; perhaps a soft shadow, perhaps a thin edge."""
    if rng.random() < 0.5:
        soft_shadow(axes, outline, 0.015, -0.02)
    bright = np.ptp(colour) * rng.uniform(0.08, 0.24)  # a pale colour has little to lose
    light, dark = mix(colour, "white", bright), mix(colour, "black", rng.uniform(0.04, 0.13))
    patch = fill(axes, outline, fc=colour, ec=mix(colour, "black", 0.2), lw=rng.choice([0, 2]))
    box = outline.get_extents()
    spot = box.min + np.array([0.35, 0.7]) * (box.max - box.min) if rng.random() < 0.4 else None
    image = wash(axes, light, dark, rng.uniform(0, 360), centre=spot)
    image.set(zorder=1.5)
    image.set_clip_path(patch)


def hatched(axes, rng, outline, colour, ground):
    """Hatching: coloured lines on a paler ground of their colour, or lighter and darker ones on the full colour."""
    pattern = str(rng.choice(["//", "\\\\", "xx", "||", "--", "++"]))
    edge = mix(colour, "black", 0.15)
    if rng.random() < 0.5:
        lines, base = colour, mix(colour, "white", 0.3 * np.ptp(colour))
    else:
        lines, base = mix(colour, *(("white", 0.3), ("black", 0.18))[rng.integers(2)]), colour
    with matplotlib.rc_context({"hatch.linewidth": float(rng.uniform(2, 4.5))}):
        patch = fill(axes, outline, fc=base, ec=lines, hatch=pattern)
    patch.set_linewidth(0)
    fill(axes, outline, fill=False, ec=edge, lw=rng.uniform(2, 5))


def sketch(axes, rng, outline, colour, ground):
    """By hand: trembling edges, filled in evenly or with a crayon to and fro."""
    hand = rng.uniform(0.6, 1.7), rng.uniform(50, 130), rng.uniform(8, 30)
    line = colour if rng.random() < 0.5 else mix(colour, "black", 0.35)
    if rng.random() < 0.5:
        fill(axes, outline, fc=colour, ec=line, lw=rng.uniform(2, 4)).set_sketch_params(*hand)
        return
    patch = fill(axes, outline, fc=mix(colour, ground, 0.35))
    turn = Affine2D().rotate_deg_around(0.5, 0.5, rng.uniform(20, 70))
    y = np.arange(-0.3, 1.3, rng.uniform(0.018, 0.026))
    x = np.where(np.arange(len(y)) % 2, -0.3, 1.3)
    strokes = turn.transform(np.stack([x, y + rng.normal(0, 0.006, len(y))], 1))
    crayon = axes.add_collection(LineCollection([strokes], colors=[colour], lw=rng.uniform(3, 4.5)))
    crayon.set_sketch_params(*hand)
    crayon.set_clip_path(patch)
    fill(axes, outline, fill=False, ec=line, lw=rng.uniform(3, 5)).set_sketch_params(*hand)


STYLES = {"flat": flat, "sticker": sticker, "gradient": gradient, "hatched": hatched, "sketch": sketch}


def style_of(label, index):
    """Which of STYLES picture `index` of a class has: any five in a row are all, neighbouring classes begin apart."""
    return (sum(parts(label)) + index) % len(STYLES)


def new_figure():
    """A canvas of one picture."""
    figure = Figure(figsize=(SIZE / DPI, SIZE / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def draw(label, index, seed):
    """One picture, which depends on nothing but its class, its number in it and the seed."""
    rng = np.random.default_rng([seed, label, index])
    colour, shape = parts(label)
    style = tuple(STYLES)[style_of(label, index)]
    rgb = to_rgb(str(rng.choice(PALETTE[COLOURS[colour]])))
    grounds = grounds_for(rgb, DARKS if rng.random() < 0.2 else TINTS) or grounds_for(rgb, TINTS)
    ground = str(rng.choice(grounds))
    figure = new_figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    draw_ground(axes, rng, style, ground)
    STYLES[style](axes, rng, place(rng, SHAPES[shape], margin=0.12), rgb, ground)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.canvas.draw()
    return Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[..., :3].copy())


def other_pictures(count_per_class, seed):
    """Pictures of all classes, class by class: a list of RGB `PIL.Image`s and their labels, int64 [N].

    Class i is COLOURS[i // 8], SHAPES[i % 8]. The first pictures of a class do not depend on how many are drawn.
    """
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever the user's matplotlibrc says
        labels = np.repeat(np.arange(len(CAPTIONS)), count_per_class)
        indices = np.tile(np.arange(count_per_class), len(CAPTIONS))
        return [draw(int(i), int(k), seed) for i, k in zip(labels, indices, strict=True)], labels
