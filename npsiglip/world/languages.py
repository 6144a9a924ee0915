"""Captions in German, French, Spanish and Italian: fewer things are said than in English, in grammar that holds.

A noun has a gender, a colour one form for each gender and number; a size goes before or behind the noun as the
language has it. Left out: textures, backgrounds, synonyms.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from npsiglip.world.claims import (
    BITS,
    COUNT,
    RELATIONS,
    Claims,
    ordered,
    position,
    position_bits,
    relation,
    thing_key,
)
from npsiglip.world.sampling import pick
from npsiglip.world.scene import Scene, Thing

Forms = tuple[str, str, str, str]  # masculine, other gender (feminine; neuter in German), then both in the plural


@dataclass(frozen=True)
class Language:
    """The words of one language; keys are those of the vocabulary."""

    nouns: Mapping[str, tuple[str, str, bool]]  # singular, plural, whether it is not masculine
    articles: tuple[str, str]
    colours: Mapping[str, Forms]
    colour_first: bool
    sizes: Mapping[str, Forms]
    sizes_first: frozenset[str]
    numbers: tuple[str, str, str, str]  # 2 to 5
    places: Mapping[tuple[str, str], str]
    relations: Mapping[str, str]
    conjunction: str
    letter: str
    digit: str
    names: Mapping[str, str] = field(default_factory=dict)  # colours as nouns, where they are not the masculine form
    # behind a relation, where the language changes them
    oblique_article: str = ""
    oblique: Mapping[str, str] = field(default_factory=dict)


def _places(left: str, right: str, top: str, bottom: str, middle: str, corner: str) -> dict[tuple[str, str], str]:
    """`corner` joins {down} and {across}."""
    across, down = {"left": left, "right": right}, {"top": top, "bottom": bottom}
    places = {("middle", "level"): middle}
    places |= {(key, "level"): words for key, words in across.items()}
    places |= {("middle", key): words for key, words in down.items()}
    corners = {(a, d): corner.format(across=across[a], down=down[d]) for a in across for d in down}
    return places | corners


def _same(word: str) -> Forms:
    return word, word, word, word


def _german(stem: str) -> Forms:
    return f"{stem}er", f"{stem}es", f"{stem}e", f"{stem}e"


def _french(word: str) -> Forms:
    feminine = word if word.endswith("e") else f"{word}te" if word == "violet" else f"{word}e"
    return word, feminine, f"{word}s", f"{feminine}s"


def _spanish(word: str) -> Forms:
    if word.endswith("o"):
        return word, f"{word[:-1]}a", f"{word}s", f"{word[:-1]}as"
    many = f"{word}s" if word.endswith("e") else "marrones" if word == "marrón" else f"{word}es"
    return word, word, many, many


def _italian(word: str) -> Forms:
    if word.endswith("e"):
        return word, word, f"{word[:-1]}i", f"{word[:-1]}i"
    return word, f"{word[:-1]}a", f"{word[:-1]}i", f"{word[:-1]}e"


_GERMAN_STEMS: Final = {
    "red": "rot",
    "orange": "orangefarben",
    "yellow": "gelb",
    "green": "grün",
    "blue": "blau",
    "purple": "violett",
    "pink": "rosafarben",
    "brown": "braun",
}

LANGUAGES: Final = {
    "German": Language(
        nouns={
            "circle": ("Kreis", "Kreise", False),
            "square": ("Quadrat", "Quadrate", True),
            "triangle": ("Dreieck", "Dreiecke", True),
            "star": ("Stern", "Sterne", False),
            "heart": ("Herz", "Herzen", True),
            "cross": ("Kreuz", "Kreuze", True),
            "ring": ("Ring", "Ringe", False),
            "moon": ("Mond", "Monde", False),
        },
        articles=("ein", "ein"),
        colours={colour: _german(stem) for colour, stem in _GERMAN_STEMS.items()},
        colour_first=True,
        sizes={"small": _german("klein"), "medium": _german("mittelgroß"), "large": _german("groß")},
        sizes_first=frozenset(("small", "medium", "large")),
        numbers=("zwei", "drei", "vier", "fünf"),
        places=_places("links", "rechts", "oben", "unten", "in der Mitte", "{down} {across}"),
        relations={"left": "links von", "right": "rechts von", "above": "über", "below": "unter"},
        conjunction="und",
        letter="der Buchstabe {g} in {c}",
        digit="die Ziffer {g} in {c}",
        names={
            "red": "Rot",
            "orange": "Orange",
            "yellow": "Gelb",
            "green": "Grün",
            "blue": "Blau",
            "purple": "Violett",
            "pink": "Rosa",
            "brown": "Braun",
        },
        oblique_article="einem",
        oblique={colour: f"{stem}en" for colour, stem in _GERMAN_STEMS.items()},
    ),
    "French": Language(
        nouns={
            "circle": ("cercle", "cercles", False),
            "square": ("carré", "carrés", False),
            "triangle": ("triangle", "triangles", False),
            "star": ("étoile", "étoiles", True),
            "heart": ("cœur", "cœurs", False),
            "cross": ("croix", "croix", True),
            "ring": ("anneau", "anneaux", False),
            "moon": ("lune", "lunes", True),
        },
        articles=("un", "une"),
        colours={
            "red": _french("rouge"),
            "orange": _same("orange"),
            "yellow": _french("jaune"),
            "green": _french("vert"),
            "blue": _french("bleu"),
            "purple": _french("violet"),
            "pink": _french("rose"),
            "brown": _same("marron"),
        },
        colour_first=False,
        sizes={"small": _french("petit"), "medium": _same("de taille moyenne"), "large": _french("grand")},
        sizes_first=frozenset(("small", "large")),
        numbers=("deux", "trois", "quatre", "cinq"),
        places=_places("à gauche", "à droite", "en haut", "en bas", "au milieu", "{down} {across}"),
        relations={
            "left": "à gauche d'",
            "right": "à droite d'",
            "above": "au-dessus d'",
            "below": "au-dessous d'",
        },
        conjunction="et",
        letter="la lettre {g} en {c}",
        digit="le chiffre {g} en {c}",
    ),
    "Spanish": Language(
        nouns={
            "circle": ("círculo", "círculos", False),
            "square": ("cuadrado", "cuadrados", False),
            "triangle": ("triángulo", "triángulos", False),
            "star": ("estrella", "estrellas", True),
            "heart": ("corazón", "corazones", False),
            "cross": ("cruz", "cruces", True),
            "ring": ("anillo", "anillos", False),
            "moon": ("luna", "lunas", True),
        },
        articles=("un", "una"),
        colours={
            "red": _spanish("rojo"),
            "orange": _same("naranja"),
            "yellow": _spanish("amarillo"),
            "green": _spanish("verde"),
            "blue": _spanish("azul"),
            "purple": _spanish("morado"),
            "pink": _same("rosa"),
            "brown": _spanish("marrón"),
        },
        colour_first=False,
        sizes={"small": _spanish("pequeño"), "medium": _spanish("mediano"), "large": _spanish("grande")},
        sizes_first=frozenset(),
        numbers=("dos", "tres", "cuatro", "cinco"),
        places=_places("a la izquierda", "a la derecha", "arriba", "abajo", "en el centro", "{down} {across}"),
        relations={
            "left": "a la izquierda de",
            "right": "a la derecha de",
            "above": "encima de",
            "below": "debajo de",
        },
        conjunction="y",
        letter="la letra {g} en {c}",
        digit="el número {g} en {c}",
    ),
    "Italian": Language(
        nouns={
            "circle": ("cerchio", "cerchi", False),
            "square": ("quadrato", "quadrati", False),
            "triangle": ("triangolo", "triangoli", False),
            "star": ("stella", "stelle", True),
            "heart": ("cuore", "cuori", False),
            "cross": ("croce", "croci", True),
            "ring": ("anello", "anelli", False),
            "moon": ("luna", "lune", True),
        },
        articles=("un", "una"),
        colours={
            "red": _italian("rosso"),
            "orange": _italian("arancione"),
            "yellow": _italian("giallo"),
            "green": _italian("verde"),
            "blue": _same("blu"),
            "purple": _same("viola"),
            "pink": _same("rosa"),
            "brown": _italian("marrone"),
        },
        colour_first=False,
        sizes={"small": _italian("piccolo"), "medium": _same("di media grandezza"), "large": _italian("grande")},
        sizes_first=frozenset(("small", "large")),
        numbers=("due", "tre", "quattro", "cinque"),
        places=_places("a sinistra", "a destra", "in alto", "in basso", "al centro", "{down} {across}"),
        relations={"left": "a sinistra di", "right": "a destra di", "above": "sopra", "below": "sotto"},
        conjunction="e",
        letter="la lettera {g} in {c}",
        digit="il numero {g} in {c}",
    ),
}
_ALL: Final = tuple(LANGUAGES.values())


def phrase(language: Language, thing: Thing, size: bool = False, number: int = 1, oblique: bool = False) -> str:
    """As in "a small red circle", "two red circles" and, behind a relation, "(left of) a red circle"."""
    one, many, other_gender = language.nouns[thing.shape]
    form = 2 * (number > 1) + other_gender
    head = language.numbers[number - 2] if number > 1 else language.articles[other_gender]
    colour, noun = language.colours[thing.colour][form], many if number > 1 else one
    if oblique and language.oblique:
        head, colour = language.oblique_article, language.oblique[thing.colour]
    words = [colour, noun] if language.colour_first else [noun, colour]
    if size and not (oblique and language.oblique):
        words.insert(0 if thing.size in language.sizes_first else len(words), language.sizes[thing.size][form])
    return " ".join((head, *words))


def _after(relation_words: str, words: str) -> str:
    return relation_words + words if relation_words.endswith("'") else f"{relation_words} {words}"


def foreign(rng: Random, scene: Scene, plain: float) -> tuple[str, Claims]:
    """A caption in one of the languages, each as likely, and what it claims."""
    language, thing = pick(rng, _ALL), scene.things[0]
    key = thing_key(thing)
    if scene.kind == "glyph":
        words = language.digit if thing.shape.isdigit() else language.letter
        name = language.names.get(thing.colour, language.colours[thing.colour][0])
        return words.replace("{g}", thing.shape).replace("{c}", name), Claims(((key, 0),))
    size = rng.random() >= plain + 0.2
    if scene.kind == "count":
        n = len(scene.things)
        bits = BITS[thing.size] if size else 0
        return phrase(language, thing, size, n), Claims(((key, bits),), 0, COUNT[n])
    if scene.kind == "pair":
        first, second = scene.things if rng.random() < 0.5 else scene.things[::-1]
        how, related = relation(first, second), rng.random() < 0.5
        words = phrase(language, first)
        if related:
            words += " " + _after(language.relations[how], phrase(language, second, oblique=True))
        else:
            words += f" {language.conjunction} {phrase(language, second)}"
        things = (thing_key(first), 0), (thing_key(second), 0)
        return words, ordered(*things, RELATIONS[how] if related else 0, 0)
    words, bits, place = phrase(language, thing, size), BITS[thing.size] if size else 0, position(thing)
    if place and rng.random() >= plain + 0.2:
        words, bits = f"{words} {language.places[place]}", bits | position_bits(place)
    return words, Claims(((key, bits),))
