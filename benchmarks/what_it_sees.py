"""What a model sees in pictures of the world, question by question: `python benchmarks/what_it_sees.py --model FOLDER`.

Every question puts captions to a picture of the test split, of which one is true: its colour and shape among all 64,
how many there are, which of two is to the left, what letter it is. Right is the highest logit, and chance is one in as
many captions. Then single objects by size, texture, style and background, and what is taken for what.

Leaves out: retrieval and calibration, which `npsiglip.train.measure` measures.
"""

import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np

from npsiglip import NpsiglipError, SigLIP
from npsiglip.world import World, class_captions
from npsiglip.world.captions import NOUNS, NUMBERS, PLACES, with_article
from npsiglip.world.claims import position, relation
from npsiglip.world.languages import LANGUAGES, phrase
from npsiglip.world.vocabulary import CLASSES, GLYPHS, SIZES, TEXTURES

RELATIONS = {"left": "left of", "right": "right of", "above": "above", "below": "below"}
SEED = 3  # not that of the evaluations


def samples(count, fits=lambda scene: True, **settings):
    """The first `count` samples of the test split whose scene fits."""
    world, found, index = World(SEED, split="test", distinct=False, **settings), [], 0
    while len(found) < count:
        sample = world.sample(index)
        found += [sample] if fits(sample.scene) else []
        index += 1
    return found


def named(thing):
    """As in "red circle"."""
    return f"{thing.colour} {thing.shape}"


def a(thing):
    """As in "a red circle"."""
    return with_article(named(thing))


def glyph_caption(glyph, colour):
    """As in "the letter A in red"."""
    return f"the {'number' if glyph.isdigit() else 'letter'} {glyph} in {colour}"


def class_of(scene):
    """The number of a single object's class."""
    return CLASSES.index((scene.things[0].colour, scene.things[0].shape))


def class_question(scene):
    """All classes."""
    return class_captions(), class_of(scene)


def count_question(scene):
    """Two to five of the same."""
    thing = scene.things[0]
    plural = NOUNS[thing.shape][0][1]
    return [f"{word} {thing.colour} {plural}" for word in NUMBERS.values()], len(scene.things) - 2


def relation_question(scene):
    """How one lies to the other."""
    first, second = scene.things
    captions = [f"{a(first)} {words} {a(second)}" for words in RELATIONS.values()]
    return captions, list(RELATIONS).index(relation(first, second))


def binding_question(scene):
    """Which of two colours belongs to which of two shapes."""
    (p, q), (r, s) = ((thing.colour, thing.shape) for thing in scene.things)
    pairs = ((p, q), (r, s)), ((r, q), (p, s))
    return [" and ".join(with_article(f"{colour} {shape}") for colour, shape in pair) for pair in pairs], 0


def glyph_question(scene):
    """Which of 36 letters and digits."""
    thing = scene.things[0]
    return [glyph_caption(glyph, thing.colour) for glyph in GLYPHS], GLYPHS.index(thing.shape)


def size_question(scene):
    """Small, medium or large."""
    thing = scene.things[0]
    return [f"a {size} {named(thing)}" for size in SIZES], SIZES.index(thing.size)


def texture_question(scene):
    """Which of three textures."""
    thing = scene.things[0]
    return [f"a {texture} {named(thing)}" for texture in TEXTURES[1:]], TEXTURES[1:].index(thing.texture)


def place_question(scene):
    """Which of nine places."""
    thing = scene.things[0]
    return [f"{a(thing)} {words[0]}" for words in PLACES.values()], list(PLACES).index(position(thing))


def language_question(name):
    """All classes, in another language."""

    def question(scene):
        thing = scene.things[0]
        captions = []
        for colour, shape in CLASSES:
            other = type(thing)(colour, shape, *(getattr(thing, n) for n in thing.__slots__[2:]))
            captions.append(phrase(LANGUAGES[name], other))
        return captions, class_of(scene)

    return question


SINGLE, PAIR = {"mix": {"single": 1.0}}, {"mix": {"pair": 1.0}}


def differ(scene):
    """Whether two objects share neither colour nor shape."""
    first, second = scene.things
    return first.colour != second.colour and first.shape != second.shape


QUESTIONS = {  # name -> question, which scenes, settings of the world
    "colour and shape, seen combinations": (class_question, None, SINGLE),
    "colour and shape, held-out combinations": (class_question, None, SINGLE | {"unseen": ["combinations"]}),
    "colour and shape, held-out styles": (class_question, None, SINGLE | {"unseen": ["styles"]}),
    **{f"colour and shape, in {name}": (language_question(name), None, SINGLE) for name in LANGUAGES},
    "size": (size_question, None, SINGLE),
    "place": (place_question, lambda scene: position(scene.things[0]) is not None, SINGLE),
    "texture": (texture_question, lambda scene: scene.things[0].texture != "plain", SINGLE),
    "how many, two to five": (count_question, None, {"mix": {"count": 1.0}}),
    "left, right, above or below": (relation_question, None, PAIR),
    "which colour belongs to which shape": (binding_question, differ, PAIR),
    "letter or digit": (glyph_question, None, {"mix": {"glyph": 1.0}}),
}


def answers(model, chosen, question):
    """For each sample: the caption that the model chooses, and the right one, as places in the question's list."""
    asked = [question(sample.scene) for sample in chosen]
    texts = sorted({caption for captions, _ in asked for caption in captions})
    place = {text: i for i, text in enumerate(texts)}
    logits = model([sample.image for sample in chosen], texts).logits_per_image
    given = [int(logits[i, [place[c] for c in captions]].argmax()) for i, (captions, _) in enumerate(asked)]
    return np.array(given), np.array([right for _, right in asked]), len(asked[0][0])


def by_property(chosen, right):
    """Top-1 of single objects by what they look like."""
    lines = []
    properties = {
        "size": lambda scene: scene.things[0].size,
        "texture": lambda scene: scene.things[0].texture,
        "style": lambda scene: scene.things[0].style,
        "shape": lambda scene: scene.things[0].shape,
        "colour": lambda scene: scene.things[0].colour,
        "background": lambda scene: scene.background.pattern,
    }
    for name, of in properties.items():
        values = [of(sample.scene) for sample in chosen]
        shares = {value: float(np.mean(right[[v == value for v in values]])) for value in dict.fromkeys(values)}
        ordered = sorted(shares.items(), key=lambda item: -item[1])
        lines.append(f"| {name} | " + ", ".join(f"{value} {100 * share:.1f}" for value, share in ordered) + " |")
    return lines


def confusions(given, right, most=8):
    """What is taken for what, most often first."""
    names = [f"{colour} {shape}" for colour, shape in CLASSES]
    shapes = Counter((CLASSES[r][1], CLASSES[g][1]) for g, r in zip(given, right, strict=True))
    colours = Counter((CLASSES[r][0], CLASSES[g][0]) for g, r in zip(given, right, strict=True))
    both = Counter((names[r], names[g]) for g, r in zip(given, right, strict=True))
    lines = []
    for title, counter in (("shapes", shapes), ("colours", colours), ("classes", both)):
        wrong = [(pair, n) for pair, n in counter.most_common() if pair[0] != pair[1]][:most]
        lines.append(f"{title}: " + ", ".join(f"{x} for {y} {n}" for (x, y), n in wrong))
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="builtin", help="folder or name (%(default)s)")
    parser.add_argument("--count", type=int, default=2000, help="pictures of each question (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the shares of right answers, too")
    options = parser.parse_args()
    if options.count < 1:
        parser.error(f"--count must be at least 1, got {options.count}")
    try:
        model = SigLIP.from_pretrained(options.model)
    except NpsiglipError as error:
        raise SystemExit(f"error: {error}") from error
    side = model.config.image.image_size  # the world draws at any size
    shares, seen = {}, None
    print("| question | captions | right |\n|---|---|---|")
    for name, (question, fits, settings) in QUESTIONS.items():
        chosen = samples(options.count, fits or (lambda scene: True), image_size=side, **settings)
        given, right, captions = answers(model, chosen, question)
        shares[name] = float(np.mean(given == right))
        print(f"| {name} | {captions} | {100 * shares[name]:.1f} % |", flush=True)
        seen = seen or (chosen, given, right)
    chosen, given, right = seen
    print("\n| single objects by | right, % |\n|---|---|")
    print("\n".join(by_property(chosen, given == right)))
    print("\nTaken for another, " + f"of {len(chosen)}:")
    print("\n".join(confusions(given, right)))
    if options.json:
        options.json.write_text(json.dumps(shares, indent=2) + "\n")


if __name__ == "__main__":
    main()
