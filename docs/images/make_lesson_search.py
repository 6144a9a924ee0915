"""Draws docs/images/lesson-search.png: `python docs/images/make_lesson_search.py`.

The contact sheet that `npsiglip search ... --sheet` writes, for the queries of docs/lessons/search.md and its pictures,
in 64 colours, which is a fraction of the size.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # the root of the repository

from PIL import Image

import npsiglip
from npsiglip.cli.sheet import sheet
from npsiglip.world import World

TARGET = Path(__file__).with_name("lesson-search.png")
QUERIES = ("a yellow heart", "a brown star", "a steam engine")


def draw(target):
    """The sheet, of five results for each query."""
    target = Path(target).absolute()
    world = World(seed=0, image_size=224, split="test", mix={"single": 1, "pair": 1}, languages=0)
    model = npsiglip.SigLIP.from_pretrained("builtin")
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            Path("pictures").mkdir()
            for number, picture in enumerate(world.batch(0, 96)[0]):
                Image.fromarray(picture).save(f"pictures/{number:02}.png")
            with npsiglip.Index.build("pictures", "index", model) as index:
                found = index.search(QUERIES, k=5)
            short = [[hit._replace(key=f"pictures/{Path(hit.key).name}") for hit in hits] for hits in found]
            sheet(target, list(zip(QUERIES, short, strict=True)), pictures=True)
        finally:
            os.chdir(before)
    with Image.open(target) as image:
        image.quantize(64).save(target, optimize=True)


if __name__ == "__main__":
    draw(TARGET)
