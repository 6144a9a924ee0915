"""Writes the example pictures that other people made: `python golden/make_example_pictures.py DATA`.

DATA is the folder that golden/make_builtin_data.py fills. Emoji of three designers, a drawing, a photograph; who made
them and their licences are in NOTICE. Training has seen the emoji, though not in this rendering; it has seen neither
the drawing nor the photograph. Those of the world are drawn by `npsiglip.world`.
"""

import argparse
import tarfile
from pathlib import Path
from random import Random

from PIL import Image

from npsiglip.evaluation.measure import opaque
from npsiglip.pairs.drawings import drawn, open_drawings
from npsiglip.pairs.opening import of_class
from npsiglip.pairs.settings import SourceSettings

TARGET = Path(__file__).parent.parent / "docs" / "images"
EMOJI = {
    "emoji-dog.png": "google/1f436.png",
    "emoji-rocket.png": "twitter/1f680.png",
    "emoji-strawberry.png": "fluent-3d/1f353.webp",
}
DRAWING = {"drawing-sailboat.png": ("sailboat", 1)}  # the word, and which of the drawings that training never saw
PHOTOGRAPH = {"photo-pineapples.png": ("grocery/grocery-val.tar", "00092")}
UNSEEN = (12, 15)
SIDE = 128


def emoji(path):
    """On white."""
    return opaque(Image.open(path).convert("RGBA").resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def drawing(data, word, number):
    """In black, on white."""
    settings = SourceSettings(kind="drawings", path=(str(data / "quickdraw/drawings.ndjson.gz"),), of_class=UNSEEN)
    pairs = open_drawings(settings, "drawings")
    index = [i for i in of_class(pairs, settings) if pairs.class_of(i) == word][number]
    return opaque(drawn(pairs.strokes[index], Random(3), 4 * SIDE)).reduce(4)


def photograph(tar, key):
    """As it is in the tar."""
    with tarfile.open(tar) as file:
        member = next(m for m in file if m.name.split(".")[0] == key and not m.name.endswith(".json"))
        return Image.open(file.extractfile(member)).convert("RGB")


def main():
    """Write all of them."""
    parser = argparse.ArgumentParser(description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("data", type=Path, help="the folder that golden/make_builtin_data.py fills")
    data = parser.parse_args().data
    pictures = {name: emoji(data / path) for name, path in EMOJI.items()}
    pictures |= {name: drawing(data, *which) for name, which in DRAWING.items()}
    pictures |= {name: photograph(data / tar, key) for name, (tar, key) in PHOTOGRAPH.items()}
    for name, picture in pictures.items():
        picture.save(TARGET / name, optimize=True)


if __name__ == "__main__":
    main()
