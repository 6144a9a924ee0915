"""The folders of golden/openclip, with the tokenizers that they share, and what open_clip and timm compute."""

import json
import shutil

import numpy as np

from tests.helpers.golden_data import GOLDEN, group

OPEN_CLIP = ("siglip", "i18n", "siglip2")
TIMM = ("gap", "classes")
FOLDER = GOLDEN / "openclip"
CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
SEED = 20230927  # of make_openclip.py, for its pictures
SIZES = ((45, 61), (61, 45), (32, 32), (20, 90))


def copy_folder(place, name, tokenizer=True):
    """A copy of the folder of a model, whole, in `place`."""
    folder = place / name
    shutil.copytree(FOLDER / name, folder)
    if tokenizer and name in OPEN_CLIP:
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copyfile((GOLDEN / "gemma" if name == "siglip2" else FOLDER) / file, folder / file)
    return folder


def change_json(path, *keys, **changes):
    """Change entries of an object in a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8"))
    section = content
    for key in keys:
        section = section[key]
    section |= changes
    for key in [key for key, value in section.items() if value is None]:
        del section[key]
    path.write_text(json.dumps(content), encoding="utf-8")


def arrays():
    """Name of a model -> what it was given and computed."""
    with np.load(FOLDER / "golden.npz") as file:
        found = dict(file)
    return {name: group(found, name) for name in (*OPEN_CLIP, *TIMM)}


def strings(kind):
    """[text, what ftfy makes of it, ids] of the tokenizer `kind`, "t5" or "gemma"."""
    return json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))["tokens"][kind]
