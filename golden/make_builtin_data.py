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
import gzip
import hashlib
import json
import re
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
    "@iconify-json/noto-v1": "1.2.5",  # Noto as it was until 2017, Apache-2.0
    "@iconify-json/fxemoji": "1.2.2",  # Mozilla's, Apache-2.0
    "@iconify-json/fluent-emoji-high-contrast": "1.2.6",  # Microsoft Fluent in black, MIT
    "@iconify-json/streamline-emojis": "1.2.4",  # Streamline, CC BY 4.0
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
ICONS = ("noto-v1", "fxemoji", "fluent-emoji-high-contrast", "streamline-emojis")  # by name, in one file each
WORD_ICONS = {  # sets of Iconify with icons called like words of Quick, Draw!; MIT, Apache-2.0, ISC, CC0, CC BY: NOTICE
    "bx": "1.2.3",  # MIT
    "carbon": "1.2.29",  # Apache-2.0
    "fa6-solid": "1.2.4",  # CC-BY-4.0
    "fluent": "1.2.60",  # MIT
    "game-icons": "1.2.4",  # CC-BY-3.0
    "guidance": "1.2.2",  # CC-BY-4.0
    "healthicons": "1.2.13",  # MIT
    "hugeicons": "1.2.35",  # MIT
    "icon-park-outline": "1.2.4",  # Apache-2.0
    "icon-park-solid": "1.2.4",  # Apache-2.0
    "iconoir": "1.2.11",  # MIT
    "lets-icons": "1.2.2",  # CC-BY-4.0
    "lucide": "1.2.137",  # ISC
    "maki": "1.2.5",  # CC0-1.0
    "material-symbols": "1.2.98",  # Apache-2.0
    "mdi": "1.2.3",  # Apache-2.0
    "mingcute": "1.2.8",  # Apache-2.0
    "ph": "1.2.2",  # MIT
    "solar": "1.2.13",  # CC-BY-4.0
    "streamline": "1.2.5",  # CC-BY-4.0
    "tabler": "1.2.41",  # MIT
    "temaki": "1.2.6",  # CC0-1.0
    "uil": "1.2.3",  # Apache-2.0
}
ICONS_OF_A_WORD = 20
STYLES = re.compile(
    "outlined?|line|bold|fill(ed)?|duotone|thin|light|rounded|sharp|solid|broken|linear|variant|regular|[0-9]+"
    "|twotone|stroke|round"
)
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
  const target = `${to}/${name.slice(0, -4)}.png`;
  if (fs.existsSync(target)) continue;
  fs.writeFileSync(target, '');  // of a drawing that ends the process, which a few do
  const drawing = new Resvg(fs.readFileSync(`${from}/${name}`), { fitTo: { mode: 'width', value: Number(side) } });
  fs.writeFileSync(target, drawing.render().asPng());
}
"""


def rasterise(out, source, target):
    """Draw a folder of SVG as PNG; what cannot be drawn is left out."""
    arguments = ["node", "-e", RASTERISE, str(source), str(target.resolve()), str(SIDE)]
    while subprocess.run(arguments, cwd=out, check=False, stderr=subprocess.DEVNULL).returncode:
        broken = [path for path in target.glob("*.png") if not path.stat().st_size]
        if not broken:
            raise SystemExit(f"error: {source} cannot be drawn")
        print("left out:", *(path.stem for path in broken))
        for path in broken:
            path.write_bytes(b" ")  # not tried again
    for path in target.glob("*.png"):
        if path.stat().st_size == 1:
            path.unlink()


def plain(name):
    """A name without what designers write differently."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("&", "and"))


def svg_of(icons, name):
    """An icon of a set of Iconify as SVG."""
    icon = icons["icons"][name]
    wide, high = (icon.get(side, icons.get(side, 16)) for side in ("width", "height"))
    box = f"{icon.get('left', 0)} {icon.get('top', 0)} {wide} {high}"
    links = 'xmlns:xlink="http://www.w3.org/1999/xlink"'
    body = icon["body"].replace("currentColor", "#222")
    return f'<svg xmlns="http://www.w3.org/2000/svg" {links} viewBox="{box}">{body}</svg>'


def unpack(icons, names, folder):
    """The drawings of an icon set, named by code points; those of other names are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in icons["icons"]:
        if code := names.get(plain(name)):
            (folder / f"{code.lower()}.svg").write_text(svg_of(icons, name), encoding="utf-8")


def words_of(drawings):
    """The words of Quick, Draw!, by their plain names."""
    with gzip.open(drawings, "rt", encoding="utf-8") as lines:
        return {plain(word): word for word in (json.loads(line)["word"] for line in lines)}


def unpack_words(sets, words, folder):
    """Icons that are called like a word, whatever their style: `most` of each, drawn from all sets by their hashes."""
    found = {}
    for label, icons in sorted(sets.items()):
        for name in icons["icons"]:
            parts = name.split("-")
            while parts and STYLES.fullmatch(parts[-1]):
                parts.pop()
            if word := words.get("".join(parts)) or words.get(plain(name)):
                found.setdefault(word, []).append((label, name))
    for word, icons in found.items():
        drawn = sorted(icons, key=lambda icon, word=word: hashlib.sha256("/".join((word, *icon)).encode()).hexdigest())
        (folder / word).mkdir(parents=True, exist_ok=True)
        for label, name in drawn[:ICONS_OF_A_WORD]:
            (folder / word / f"{label}-{name}.svg").write_text(svg_of(sets[label], name), encoding="utf-8")


def emoji_names(modules):
    """Plain name -> code points: names of Unicode, short codes, and the names of one of the sets."""
    english = modules / "emojibase-data" / "en"
    names = {
        plain(each["label"]): each["hexcode"] for each in reversed(json.loads((english / "data.json").read_text()))
    }
    chars = json.loads((modules / "@iconify-json/fluent-emoji-high-contrast/chars.json").read_text())
    names = {plain(name): code for code, name in chars.items()} | names
    for file in ("github", "cldr", "emojibase", "joypixels"):
        for code, said in json.loads((english / "shortcodes" / f"{file}.json").read_text()).items():
            for name in [said] if isinstance(said, str) else said:
                names.setdefault(plain(name), code)
    return names


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
    packages = PACKAGES | {f"@iconify-json/{name}": version for name, version in WORD_ICONS.items()}
    wanted = [f"{name}@{version}" for name, version in packages.items()]
    subprocess.run(["npm", "install", "--prefix", str(out), "--no-audit", "--no-fund", *wanted], check=True)
    modules = out / "node_modules"
    for name, place in FOLDERS.items():
        shutil.copytree(modules / place, out / name, dirs_exist_ok=True)
    for name, place in DRAWN.items():
        rasterise(out, modules / place, out / name)
    names = emoji_names(modules)
    for name in ICONS:
        icons = json.loads((modules / "@iconify-json" / name / "icons.json").read_text(encoding="utf-8"))
        unpack(icons, names, out / "svg" / name)
        rasterise(out, (out / "svg" / name).resolve(), out / name)
    sets = {
        name: json.loads((modules / "@iconify-json" / name / "icons.json").read_text(encoding="utf-8"))
        for name in WORD_ICONS
    }
    unpack_words(sets, words_of(tars / "quickdraw/drawings.ndjson.gz"), out / "svg" / "icons")
    for folder in sorted((out / "svg" / "icons").iterdir()):
        rasterise(out, folder.resolve(), out / "icons" / folder.name)
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
