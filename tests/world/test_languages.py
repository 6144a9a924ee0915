"""Grammar of the other languages, by examples."""

from random import Random

import pytest

from npsiglip.world import (
    Thing,
)
from npsiglip.world.languages import LANGUAGES, foreign, phrase
from tests.helpers.worlds import at, scene_of

GRAMMAR = {
    "German": (
        ["ein kleiner roter Kreis", "ein kleines blaues Quadrat", "drei kleine rosafarbene Herzen"],
        ["einem roten Kreis", "einem blauen Quadrat"],
    ),
    "French": (
        ["un petit cercle rouge", "un petit carré bleu", "trois petits cœurs roses", "une petite étoile verte"],
        ["un cercle rouge", "un carré bleu"],
    ),
    "Spanish": (
        ["un círculo rojo pequeño", "un cuadrado azul pequeño", "tres corazones rosa pequeños"],
        ["un círculo rojo", "un cuadrado azul"],
    ),
    "Italian": (
        ["un piccolo cerchio rosso", "un piccolo quadrato blu", "tre piccoli cuori rosa"],
        ["un cerchio rosso", "un quadrato blu"],
    ),
}


MORE_GRAMMAR = [
    ("German", "yellow", "cross", "large", 2, "zwei große gelbe Kreuze"),
    ("German", "orange", "star", "medium", 1, "ein mittelgroßer orangefarbener Stern"),
    ("German", "green", "triangle", "large", 5, "fünf große grüne Dreiecke"),
    ("French", "blue", "star", "large", 3, "trois grandes étoiles bleues"),
    ("French", "purple", "moon", "small", 2, "deux petites lunes violettes"),
    ("French", "brown", "cross", "small", 4, "quatre petites croix marron"),
    ("French", "orange", "ring", "medium", 1, "un anneau orange de taille moyenne"),
    ("Spanish", "brown", "star", "small", 4, "cuatro estrellas marrones pequeñas"),
    ("Spanish", "blue", "cross", "large", 2, "dos cruces azules grandes"),
    ("Spanish", "yellow", "moon", "medium", 1, "una luna amarilla mediana"),
    ("Italian", "red", "star", "large", 1, "una grande stella rossa"),
    ("Italian", "yellow", "cross", "small", 2, "due piccole croci gialle"),
    ("Italian", "green", "moon", "medium", 5, "cinque lune verdi di media grandezza"),
    ("Italian", "orange", "ring", "large", 3, "tre grandi anelli arancioni"),
]


def plain_thing(colour, shape, size="small"):
    return Thing(colour, shape, size, "plain", "flat", 0.5, 0.5, 0.3, 0.0, (0, 0, 0))


@pytest.mark.parametrize("name", GRAMMAR)
def test_grammar(name):
    language, (phrases, oblique) = LANGUAGES[name], GRAMMAR[name]
    things = [("red", "circle", 1), ("blue", "square", 1), ("pink", "heart", 3), ("green", "star", 1)]
    for expected, (colour, shape, number) in zip(phrases, things, strict=False):
        assert phrase(language, plain_thing(colour, shape), True, number) == expected
    for expected, (colour, shape, _) in zip(oblique, things, strict=False):
        assert phrase(language, plain_thing(colour, shape), oblique=True) == expected


@pytest.mark.parametrize(("name", "colour", "shape", "size", "number", "expected"), MORE_GRAMMAR)
def test_more_grammar(name, colour, shape, size, number, expected):
    assert phrase(LANGUAGES[name], plain_thing(colour, shape, size), True, number) == expected


def test_foreign_sentences():
    pair = scene_of(at("red", "circle", 0.2, 0.5), at("blue", "square", 0.8, 0.5), kind="pair")
    letter, digit = (
        scene_of(at("green", "A", 0.5, 0.5), kind="glyph"),
        scene_of(at("pink", "7", 0.5, 0.5), kind="glyph"),
    )
    corner = scene_of(at("purple", "star", 0.2, 0.8))
    said = {foreign(Random(i), scene, 0.4)[0] for scene in (pair, letter, digit, corner) for i in range(300)}
    assert said >= {
        *("ein roter Kreis links von einem blauen Quadrat", "ein blaues Quadrat rechts von einem roten Kreis"),
        *("ein roter Kreis und ein blaues Quadrat", "ein kleiner violetter Stern unten links"),
        *("un cercle rouge à gauche d'un carré bleu", "un cercle rouge et un carré bleu"),
        *("un círculo rojo a la izquierda de un cuadrado azul", "un círculo rojo y un cuadrado azul"),
        *("un cerchio rosso a sinistra di un quadrato blu", "un cerchio rosso e un quadrato blu"),
        *("une étoile violette en bas à gauche", "una estrella morada abajo a la izquierda"),
        *("una stella viola in basso a sinistra", "der Buchstabe A in Grün", "die Ziffer 7 in Rosa"),
        *("la lettre A en vert", "le chiffre 7 en rose", "la letra A en verde", "el número 7 en rosa"),
        *("la lettera A in verde", "il numero 7 in rosa"),
    }
