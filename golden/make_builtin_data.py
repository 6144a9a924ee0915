"""Gathers pictures to train a model on: `python golden/make_builtin_data.py --tars TARS --out DATA`.

Emoji, drawings, groceries, clothes. Emoji come from npm's packages, at the versions below; pictures that are drawn as
SVG become PNG. TARS holds the photographs and drawings, made from their public sources:

    grocery/grocery-train.tar, grocery-val.tar   Grocery Store Dataset (MIT), official splits: shorter side 112 pixels,
                                                 a JSON beside each picture with `fine` and `coarse`
    clothing/clothing-train.tar                  Clothing dataset, full (CC0): shorter side 112, JSON with `label`
    quickdraw/drawings.ndjson.gz                 Quick, Draw! (CC BY 4.0): 15 simplified drawings of each word

Of the clothes, the last 8 in 100 of each label are kept for measuring. Needs npm. OpenMoji (CC BY-SA 4.0) is gathered
for measuring, and is never trained on.
"""

import argparse
import json
import shutil
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

PACKAGES = {
    "emoji-datasource-google": "16.0.0",  # Noto, Apache-2.0
    "emoji-datasource-twitter": "16.0.0",  # Twemoji, CC BY 4.0
    "@lobehub/fluent-emoji-3d": "1.1.0",  # Microsoft Fluent, MIT
    "@lobehub/fluent-emoji-flat": "1.1.0",
    "emojione": "2.2.7",  # EmojiOne 2, CC BY 4.0
    "openmoji": "17.0.0",  # CC BY-SA 4.0, for measuring alone
    "emojibase-data": "17.0.0",  # names and tags of Unicode's CLDR, MIT and Unicode licence
    "@resvg/resvg-js": "2.6.2",  # draws SVG
}
FOLDERS = {
    "google": "emoji-datasource-google/img/google/64",
    "twitter": "emoji-datasource-twitter/img/twitter/64",
    "fluent-3d": "@lobehub/fluent-emoji-3d/assets",
    "emojione": "emojione/assets/png",
    "emojione-bw": "emojione/assets/png_bw",
    "emojibase-data": "emojibase-data",
}
DRAWN = {"fluent-flat": "@lobehub/fluent-emoji-flat/assets", "openmoji": "openmoji/color/svg"}
SIDE = 72
KEPT = 0.08
TARS = (
    "grocery/grocery-train.tar",
    "grocery/grocery-val.tar",
    "clothing/clothing-train.tar",
    "quickdraw/drawings.ndjson.gz",
)
RASTERISE = """
const { Resvg } = require('@resvg/resvg-js');
const fs = require('fs');
const [, from, to, side] = process.argv;
fs.mkdirSync(to, { recursive: true });
for (const name of fs.readdirSync(from).sort().filter((name) => name.endsWith('.svg'))) {
  const drawing = new Resvg(fs.readFileSync(`${from}/${name}`), { fitTo: { mode: 'width', value: Number(side) } });
  fs.writeFileSync(`${to}/${name.slice(0, -4)}.png`, drawing.render().asPng());
}
"""


def samples(tar):
    """Key -> members of each sample, in their order."""
    found = {}
    for member in tar:
        found.setdefault(member.name.split(".")[0], []).append(member)
    return found


def split_by_label(source, kept_for_training, kept_for_measuring):
    """Of each label the last part goes to the second tar."""
    with (
        tarfile.open(source) as tar,
        tarfile.open(kept_for_training, "w") as first,
        tarfile.open(kept_for_measuring, "w") as second,
    ):
        found = samples(tar)
        labels = {
            key: json.load(tar.extractfile(next(m for m in members if m.name.endswith(".json"))))["label"]
            for key, members in found.items()
        }
        total, seen = Counter(labels.values()), Counter()
        for key, members in found.items():
            label = labels[key]
            seen[label] += 1
            last = seen[label] > total[label] - max(2, round(KEPT * total[label]))
            for member in members:
                (second if last else first).addfile(member, tar.extractfile(member))


def gather(tars, out):
    """Fill the folder."""
    if missing := [name for name in TARS if not (tars / name).is_file()]:
        raise SystemExit(f"error: {tars} lacks {', '.join(missing)}; see the top of this script for what they are")
    if shutil.which("npm") is None:
        raise SystemExit("error: npm is not found; install Node.js")
    out.mkdir(parents=True, exist_ok=True)
    wanted = [f"{name}@{version}" for name, version in PACKAGES.items()]
    subprocess.run(["npm", "install", "--prefix", str(out), "--no-audit", "--no-fund", *wanted], check=True)
    modules = out / "node_modules"
    for name, place in FOLDERS.items():
        shutil.copytree(modules / place, out / name, dirs_exist_ok=True)
    for name, place in DRAWN.items():
        arguments = ["node", "-e", RASTERISE, str(modules / place), str((out / name).resolve()), str(SIDE)]
        subprocess.run(arguments, cwd=out, check=True)
    for name in TARS:
        (out / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(tars / name, out / name)
    split_by_label(out / "clothing/clothing-train.tar", out / "clothing-a.tar", out / "clothing-b.tar")


def main():
    """Gather."""
    parser = argparse.ArgumentParser(description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("--tars", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    gather(args.tars.resolve(), args.out.resolve())


if __name__ == "__main__":
    main()
