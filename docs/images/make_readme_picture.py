"""Draws docs/images/readme.png, README's picture: `python docs/images/make_readme_picture.py`.

The example picture; where the probe of the built-in model's MAP head looks, as the mean of its six heads and in two
of them; the probabilities of five captions. The model cuts a picture into 4 x 4 patches, so that is how finely it can
look. Needs matplotlib.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the root of the repository

import matplotlib
import numpy as np
from PIL import Image

from npsiglip import SigLIP
from npsiglip.cli.classify import percent

PICTURE = Path(__file__).with_name("example.png")
TARGET = Path(__file__).with_name("readme.png")
CAPTIONS = (
    "a red circle and a blue square",
    "a red circle and a green square",
    "a green circle and a blue square",
    "a blue circle",
    "a letter W",
)
HEADS = {"head 6: the circle": 5, "head 4: the square": 3}
INK, FAINT, ACCENT = "#1f2328", "#656d76", "#2456c4"


def look(model):
    """Probabilities of the captions [K], and the probe's attention in each head [H, rows, columns]."""
    probs = model(str(PICTURE), list(CAPTIONS)).probs[0]
    attention = model.trace(images=str(PICTURE))["image.map_head.attn.probs"][0, :, 0]
    side = round(attention.shape[-1] ** 0.5)
    return probs, attention.reshape(-1, side, side)


def shaded(picture, weights):
    """The picture [H, W, 3], dark where the weights [rows, columns] are small."""
    rows = np.arange(picture.shape[0]) * weights.shape[0] // picture.shape[0]
    columns = np.arange(picture.shape[1]) * weights.shape[1] // picture.shape[1]
    light = 0.08 + 0.92 * weights / weights.max()
    return (picture * light[rows][:, columns, None]).astype(np.uint8)


def draw(picture, probs, attention, target):
    """The figure, 1,600 x 760 pixels: legible at half its size, with a ground of its own for dark pages."""
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    plt.rcParams.update({"font.family": "DejaVu Sans", "font.size": 11, "text.color": INK})
    figure = plt.figure(figsize=(8, 3.8), dpi=200, facecolor="white")
    panels = {"the picture": picture, "where the MAP head looks": shaded(picture, attention.mean(0))}
    panels |= {title: shaded(picture, attention[head]) for title, head in HEADS.items()}
    for i, (title, content) in enumerate(panels.items()):
        axes = figure.add_axes((0.018 + 0.2455 * i, 0.505, 0.2275, 0.38))
        axes.imshow(content, interpolation="lanczos" if i == 0 else "nearest")
        axes.set_title(title, fontsize=10.5, pad=6)
        axes.axis("off")
    bars = figure.add_axes((0.37, 0.055, 0.5, 0.36))
    places = np.arange(len(probs))[::-1]
    bars.barh(places, np.ones(len(probs)), color="#eceff3", height=0.62)
    bars.barh(places, probs, color=ACCENT, height=0.62)
    for place, caption, p in zip(places, CAPTIONS, probs, strict=True):
        bars.text(-0.025, place, f"“{caption}”", ha="right", va="center", fontsize=11)
        bars.text(1.02, place, percent(float(p)), ha="left", va="center", fontsize=11, color=INK if p > 0.5 else FAINT)
    bars.set(xlim=(0, 1), ylim=(-0.6, len(probs) - 0.4))
    bars.axis("off")
    figure.savefig(target, metadata={"Software": None})
    plt.close(figure)


def main():
    """Draw it."""
    picture = np.asarray(Image.open(PICTURE).convert("RGB"))
    draw(picture, *look(SigLIP.from_pretrained("builtin")), TARGET)


if __name__ == "__main__":
    main()
