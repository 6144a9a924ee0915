"""Trains the SentencePiece model of the tiny golden checkpoint: `python golden/make_spiece.py`.

The settings are those of the vocabularies that SigLIP uses (T5's: unigram, `<pad>` 0, `</s>` 1, `<unk>` 2, no
`<s>`, nmt_nfkc normalisation, byte fallback, a dummy prefix), the size is not: 1000 pieces instead of 32,000. The
corpus is made here, from word lists, by a seeded generator, so the script needs no download and always writes the
same bytes for the same version of sentencepiece.
"""

import io
import random
from pathlib import Path

VOCAB_SIZE = 1000
SEED = 20230327
CAPTIONS = 6000


def _words(text: str) -> list[str]:
    return text.split()


COLOURS = _words("red orange yellow green blue purple pink brown black white grey silver golden striped spotted")
OBJECTS = _words(
    "ball bicycle boat book bottle bowl box bridge bus camera car castle chair clock cup door drum fork guitar hat "
    "house kettle key kite lamp laptop lighthouse map mirror piano picture plate shoe spoon table telephone tent "
    "tower train tree truck umbrella vase violin wheel window"
)
ANIMALS = _words(
    "ant bear bee bird butterfly camel cat chicken cow crab deer dog dolphin donkey duck eagle elephant fish fox "
    "frog giraffe goat goose hedgehog horse kangaroo lion lizard monkey mouse octopus owl panda parrot penguin pig "
    "rabbit shark sheep snail snake spider squirrel tiger turtle whale wolf zebra"
)
PLACES = _words(
    "beach bridge city coast desert field forest garden harbour hill island kitchen lake library market meadow "
    "mountain museum park playground river road roof room school station street studio valley village"
)
FOODS = _words(
    "apple bagel banana bread broccoli butter cake carrot cheese cherry chocolate coffee cookie corn cucumber egg "
    "grape hamburger honey lemon lettuce mango melon mushroom noodle onion pancake pasta peach pear pepper pizza "
    "potato pretzel pumpkin rice salad salt sandwich soup strawberry tea toast tomato walnut"
)
PEOPLE = _words(
    "actor artist baker boy carpenter child cook dancer doctor driver farmer fisherman girl grandmother guitarist "
    "king man musician nurse painter photographer pilot queen sailor scientist soldier student surfer teacher woman"
)
ACTIONS = _words(
    "baking building buying carrying catching cleaning climbing cooking cutting drawing drinking eating feeding "
    "fixing holding kicking painting playing pulling pushing reading riding selling throwing washing watching"
)
ADJECTIVES = _words("big small tiny huge old new young happy sleepy wet dusty shiny broken wooden beautiful ugly")
VERBS = _words("sitting standing sleeping lying running jumping hiding waiting resting looking")
PREPOSITIONS = _words("on under behind beside above near in front of inside next to")
TIMES = (
    "at night",
    "at noon",
    "at sunset",
    "in summer",
    "in the morning",
    "in the rain",
    "in the snow",
    "in winter",
)
TEMPLATES = (
    "a photo of a {adjective} {thing}",
    "a photo of {number} {thing}s",
    "This is a photo of {colour} {thing}s.",
    "a picture of the {thing} {preposition} the {object}",
    "the {colour} {animal} is {verb} {preposition} the {object}",
    "a {adjective}, {colour} {animal} {verb} in the {place} {time}",
    "A view of the {place} {time}.",
    "a {person} {action} a {thing2} in the {place}",
    "The {person} and the {person2} are {action} {number} {food}s with {food2}.",
    "a plate of {food}s, {food2} & {food3}: 100% {adjective}",
    "an old drawing of a {thing}; it hangs in the {place}",
    "What is the {animal} doing {preposition} the {object}?",
    "Look! {number} {colour} {animal}s and a {object}...",
    "the {animal}'s {object} (made in {number})",
    '{colour}-{colour2} {object}: "{adjective} {place}"',
)
NUMBERS = _words("one two three four five six seven 2 3 8 10 42 1999 2023")
OTHER_LANGUAGES = (
    "ein Foto von einer kleinen Katze auf dem Tisch",
    "Der grüne Vogel fliegt über die Brücke in Zürich.",
    "Schöne Grüße aus dem großen Garten hinter dem Haus",
    "una foto de un perro negro en la montaña",
    "El niño pequeño come una manzana roja, ¿verdad?",
    "¡Qué bonito es el pájaro amarillo de la señora!",
    "μια φωτογραφία μιας γάτας στο τραπέζι",
    "ο μεγάλος σκύλος και ο μικρός ελέφαντας στους δρόμους της πόλης",
    "фотография красной машины на улице",
    "большая собака сидит под старым деревом",
    "masanın üstünde küçük bir kedinin fotoğrafı",
    "İstanbul'da yağmurlu bir gün, ışıklı sokaklar",
    "猫の写真です。テーブルの上に赤いりんごがあります。",
    "公園で子供たちが遊んでいる写真",
    "一张小猫的照片",
    "红色的汽车停在房子前面。",
    "صورة قطة صغيرة على الطاولة",
    "سيارة حمراء أمام البيت القديم",
)


def _caption(rng: random.Random) -> str:
    return rng.choice(TEMPLATES).format(
        action=rng.choice(ACTIONS),
        adjective=rng.choice(ADJECTIVES),
        animal=rng.choice(ANIMALS),
        colour=rng.choice(COLOURS),
        colour2=rng.choice(COLOURS),
        food=rng.choice(FOODS),
        food2=rng.choice(FOODS),
        food3=rng.choice(FOODS),
        number=rng.choice(NUMBERS),
        object=rng.choice(OBJECTS),
        person=rng.choice(PEOPLE),
        person2=rng.choice(PEOPLE),
        place=rng.choice(PLACES),
        preposition=rng.choice(PREPOSITIONS),
        thing=rng.choice(ANIMALS + OBJECTS),
        thing2=rng.choice(FOODS + OBJECTS),
        time=rng.choice(TIMES),
        verb=rng.choice(VERBS),
    )


def corpus() -> list[str]:
    """The training sentences: captions made from the word lists, and each sentence of another language 20 times."""
    rng = random.Random(SEED)
    return [_caption(rng) for _ in range(CAPTIONS)] + list(OTHER_LANGUAGES) * 20


def train(**overrides: object) -> bytes:
    """The bytes of a SentencePiece model with T5's settings; `overrides` replace trainer options."""
    import sentencepiece

    written = io.BytesIO()
    options: dict[str, object] = {
        "model_type": "unigram",
        "vocab_size": VOCAB_SIZE,
        "pad_id": 0,
        "eos_id": 1,
        "unk_id": 2,
        "bos_id": -1,
        "normalization_rule_name": "nmt_nfkc",
        "byte_fallback": True,
        "character_coverage": 0.9998,  # the rarest characters must go through the byte pieces
        "num_threads": 1,
        "shuffle_input_sentence": False,
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=written, **(options | overrides)
    )
    return written.getvalue()


def main() -> None:
    """Writes golden/tiny/spiece.model."""
    target = Path(__file__).parent / "tiny" / "spiece.model"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(train())
    print(f"{target.name}: {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
