"""What a model knows of emoji, drawings, groceries, clothes: `python benchmarks/what_it_knows.py DATA --model FOLDER`.

DATA is the folder that `golden/make_builtin_data.py` fills. Emoji of the designers of the training are shown in other
renderings: at another size, placed, turned and on backgrounds drawn from another seed. Every picture is put against
the names of its whole source: some 1,900 emoji, 344 words. OpenMoji's, the drawings, groceries and clothes that are
measured are not those of such a training (docs/pairs.md); the model that comes with this package has not seen any of
this. A name longer than the model reads is cut, as in training.

Leaves out: the world, which `benchmarks/what_it_sees.py` and `benchmarks/other_pictures.py` measure.
"""

import argparse
import json
import sys
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from npsiglip import NpsiglipError, SigLIP
from npsiglip.errors import InputWarning
from npsiglip.evaluation.measure import opaque
from npsiglip.evaluation.scores import auroc, calibration, in_best, share
from npsiglip.outputs import sigmoid
from npsiglip.pairs.opening import of_class, open_pairs
from npsiglip.pairs.settings import AugmentSettings, SourceSettings
from npsiglip.train.augment import shown

DESIGNERS = ("google", "twitter", "fluent-3d")
LANGUAGES = ("en", "de", "es", "fr", "it", "pt", "nl", "pl", "ru", "uk", "ja", "ko", "zh", "hi")
RENDERING = AugmentSettings(crop=0.7, rotate=8, background=("white", "plain", "gradient", "pattern"))
SIDE, SEED = 160, "what it knows"
DTYPES = ("float32", "bfloat16", "int8")


@dataclass
class Source:
    """Pictures [N, H, W, 3] each, the class of each [N], and the classes' names by language."""

    name: str
    pictures: list
    labels: np.ndarray
    names: dict


def source(name, settings, languages=("en",), augment=None, limit=None):
    """All pictures of a source, or a part drawn at random; shown as `augment` says, else cut-outs on white."""
    pairs = open_pairs(settings, name)
    indices = of_class(pairs, settings)
    classes = list(dict.fromkeys(pairs.class_of(i) for i in indices))
    first = {pairs.class_of(i): pairs.words(i).names for i in reversed(indices)}
    if limit and limit < len(indices):
        indices = sorted(Random(SEED).sample(indices, limit))
    pictures = []
    for i in indices:
        rng = Random(f"{SEED}, {i}")
        picture = pairs.read(i, rng)
        pictures.append(shown(picture, SIDE, rng, augment, False) if augment else np.asarray(opaque(picture)))
    labels = np.array([classes.index(pairs.class_of(i)) for i in indices])
    return Source(name, pictures, labels, {code: [first[c][code][0] for c in classes] for code in languages})


def sources(data, limit):
    """Every source that is measured."""
    emoji = {"kind": "emoji", "names": str(data / "emojibase-data")}
    found = [
        source(
            f"emoji, {designer}",
            SourceSettings(path=(str(data / designer),), **emoji),
            LANGUAGES,
            RENDERING,
            limit,
        )
        for designer in DESIGNERS
    ]
    found.append(source("emoji, openmoji", SourceSettings(path=(str(data / "openmoji"),), **emoji), limit=limit))
    drawings = SourceSettings(
        kind="drawings", path=(str(data / "quickdraw" / "drawings.ndjson.gz"),), of_class=(12, 15)
    )
    found.append(source("drawings", drawings, limit=limit))
    for name, tar, key in (("groceries", "grocery/grocery-val.tar", "coarse"), ("clothes", "clothing-b.tar", "label")):
        tarred = SourceSettings(kind="webdataset", path=(str(data / tar),), labels={"en": (key,)}, class_by=key)
        found.append(source(name, tarred, limit=limit))
    return found


def embedded(model, pictures):
    """Unit vectors [N, D] of pictures of any sizes."""
    return np.concatenate(
        [model.encode_image([Image.fromarray(p) for p in pictures[i : i + 64]]) for i in range(0, len(pictures), 64)]
    )


def right_of(labels, names):
    """[N, C]: classes that are called the same are all right."""
    names = np.array(names)
    return (names[:, None] == names[None, :])[labels]


def measured(model, found, zimg):
    """Of one source: top-1 and top-5 by language, calibration."""
    result = {}
    for code, names in found.names.items():
        logits = model.compare(zimg, model.encode_text(names)).logits_per_image
        right = right_of(found.labels, names)
        result[code] = {
            "top1": asdict(share(in_best(logits, right, 1))),
            "top5": asdict(share(in_best(logits, right, 5))),
            "ece": calibration(sigmoid(logits), right).ece,
        }
    return result


def known_from_unknown(model, found, zimg, others):
    """AUROC of the best probability of its pictures against that of other sources' pictures, by its names."""
    ztxt = model.encode_text(found.names["en"])
    return auroc(
        model.compare(zimg, ztxt).logits_per_image.max(axis=1), model.compare(others, ztxt).logits_per_image.max(axis=1)
    )


def drawing_to_emoji(drawings, zdrawings, emoji, zemoji, k=10):
    """Drawings of words that emoji have too: whether one of the k nearest pictures shows the word.

    Returns:
        The share among all emoji, and the share among those alone that are called like one of the words.
    """
    words = np.array([name.lower() for name in drawings.names["en"]])[drawings.labels]
    called = np.array([name.lower() for name in emoji.names["en"]])[emoji.labels]
    asked, shared = np.isin(words, called), np.isin(called, words)
    scores, right = zdrawings[asked] @ zemoji.T, words[asked][:, None] == called
    return share(in_best(scores, right, k)), share(in_best(scores[:, shared], right[:, shared], k))


def everything(folder, data, limit=None, dtypes=DTYPES):
    """All numbers: float32's in full, and top-1 of the other dtypes."""
    found = sources(data, limit)
    result = {"sources": {}, "dtypes": {}}
    for dtype in dtypes:
        model = SigLIP.from_pretrained(folder, dtype=dtype)
        vectors = [embedded(model, each.pictures) for each in found]
        result["dtypes"][dtype] = {}
        for each, zimg in zip(found, vectors, strict=True):
            scores = measured(model, each, zimg)
            result["dtypes"][dtype][each.name] = {code: score["top1"]["value"] for code, score in scores.items()}
            if dtype == dtypes[0]:
                kind = each.name.split(",")[0]
                others = np.concatenate(
                    [z for f, z in zip(found, vectors, strict=True) if f.name.split(",")[0] != kind]
                )
                result["sources"][each.name] = {
                    "pictures": len(zimg),
                    "classes": len(each.names["en"]),
                    "languages": scores,
                    "auroc": known_from_unknown(model, each, zimg, others),
                }
                if each.name == "drawings":
                    both = drawing_to_emoji(each, zimg, found[0], vectors[0])
                    result["drawing_to_emoji"] = {
                        of: asdict(value) for of, value in zip(("all", "shared"), both, strict=True)
                    }
        print(f"{dtype} done", file=sys.stderr, flush=True)
    return result


def table(result):
    """Lines for people."""
    for name, row in result["sources"].items():
        english = row["languages"]["en"]
        ece = max(score["ece"] for score in row["languages"].values())
        yield (
            f"{name}: {row['pictures']} pictures, {row['classes']} names: top-1 {english['top1']['value']:.1%}, "
            f"top-5 {english['top5']['value']:.1%}, ECE {ece:.4f}, AUROC {row['auroc']:.3f}"
        )
        others = {code: score["top1"]["value"] for code, score in row["languages"].items() if code != "en"}
        if others:
            mean = np.mean(list(others.values()))
            yield f"  other languages: mean {mean:.1%}; " + ", ".join(f"{c} {v:.1%}" for c, v in others.items())
    every, shared = (result["drawing_to_emoji"][of] for of in ("all", "shared"))
    yield (
        f"a drawing finds its emoji, R@10: {every['value']:.1%} of {every['n']} among all emoji, "
        f"{shared['value']:.1%} among those of words that both have"
    )
    first, *rest = result["dtypes"].items()
    for dtype, scores in rest:
        gaps = {name: min(s[c] - first[1][name][c] for c in s) for name, s in scores.items()}
        yield f"{dtype} against {first[0]}, top-1, the worst language: " + ", ".join(
            f"{name} {gap:+.1%}" for name, gap in gaps.items()
        )


def main():
    """Measure, print, and perhaps write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split(":", maxsplit=1)[0])
    parser.add_argument("data", type=Path, help="the folder that golden/make_builtin_data.py fills")
    parser.add_argument("--model", default="builtin")
    parser.add_argument("--limit", type=int, help="pictures of each source, drawn at random")
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore", InputWarning)
    try:
        result = everything(args.model, args.data, args.limit, args.dtype or DTYPES)
    except NpsiglipError as error:
        raise SystemExit(f"error: {error}") from None
    print(*table(result), sep="\n")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
