"""Small collections of every kind that `[[data.sources]]` reads, made in a folder of the test's own."""

import gzip
import io
import json
import tarfile

import numpy as np
from PIL import Image

from npsiglip.pairs.settings import SourceSettings
from tests.helpers.train_standin import config

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
EMOJI = {"1F34E": "red apple", "1F34F": "green apple", "1F44B": "waving hand"}


def picture(colour, size=(24, 20), mode="RGB"):
    """One colour on black; as RGBA, on nothing."""
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[4:-4, 4:-4] = (*colour, 255)
    if mode == "RGB":
        pixels[..., 3] = 255
    return Image.fromarray(pixels).convert(mode)


def encoded(colour, **options):
    data = io.BytesIO()
    picture(colour, **options).save(data, "PNG")
    return data.getvalue()


def class_folder(root, count=3):
    for name, colour in COLOURS.items():
        (root / f"a_{name}-thing").mkdir(parents=True)
        for i in range(count):
            picture(colour, (24 + i, 20)).save(root / f"a_{name}-thing" / f"{i}.png")
    return root


def caption_folder(root):
    root.mkdir()
    for name, colour in COLOURS.items():
        picture(colour).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"a {name} block\n\none block, {name}\n")
    picture((1, 2, 3)).save(root / "nobody-says-anything.png")
    return root


def table(path, rows):
    """CSV or JSONL, by the suffix, beside pictures that it names."""
    for name, colour in COLOURS.items():
        picture(colour).save(path.parent / f"{name}.png")
    if path.suffix == ".csv":
        keys = list(rows[0])
        lines = [",".join(keys), *(",".join(f'"{row[key]}"' for key in keys) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def tar(path, count=2, broken=()):
    """A WebDataset tar: for each colour some samples, KEY.png and KEY.json; those in `broken` hold no picture."""
    with tarfile.open(path, "w") as archive:

        def add(name, data):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))

        for i in range(count):
            for name, colour in COLOURS.items():
                key = f"{name}{i}"
                add(f"x/{key}.png", b"no picture" if key in broken else encoded(colour))
                add(f"x/{key}.json", json.dumps({"kind": f"{name}_block", "en": [f"the {name} one"]}).encode())
    return path


def emoji(root):
    """Pictures of two designers, and names in two languages as emojibase-data has them."""
    for designer, suffix in (("one", ""), ("two", "-fe0f")):
        (root / designer).mkdir(parents=True)
        for i, key in enumerate(EMOJI):
            picture((60 * i, 200, 90), mode="RGBA").save(root / designer / f"{key.lower()}{suffix}.png")
        picture((9, 9, 9), mode="RGBA").save(root / designer / "1f1e6.png")
    for code, prefix in (("en", ""), ("de", "de ")):
        (root / "names" / code).mkdir(parents=True)
        entries = [
            {"label": f"{prefix}{name}", "hexcode": f"{key}-FE0F", "order": i, "tags": [f"{prefix}tag of {name}"]}
            for i, (key, name) in enumerate(EMOJI.items())
        ]
        entries.append({"label": "regional indicator A", "hexcode": "1F1E6"})  # no emoji: it has no place in the order
        (root / "names" / code / "data.json").write_text(json.dumps(entries))
    return root


def drawings(path, words=("cat", "house"), count=3):
    with gzip.open(path, "wt") as file:
        for word in words:
            for i in range(count):
                file.write(json.dumps({"word": word, "drawing": [[[0, 255, 40 * i], [0, 255, 90]]]}) + "\n")
    return path


def settings(**values):
    """The settings of one source."""
    source = config(data={"sources": [values]}).data.sources[0]
    assert isinstance(source, SourceSettings)
    return source


def several(root):
    """A folder of classes, a tar with a picture that is damaged, and emoji."""
    class_folder(root / "c")
    tar(root / "a.tar", 4, broken=("green1",))
    emoji(root / "e")
    return root
