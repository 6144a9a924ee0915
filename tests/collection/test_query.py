"""The language of queries, its errors, and the vectors that become of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from npsiglip.collection.query import Query, Term, embed, parse
from npsiglip.errors import InputError


def terms(text):
    return [(term.weight, term.value) for term in parse(text).terms]


@pytest.fixture
def me(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (9, 9), "red").save("me.jpg")
    return "./me.jpg"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("beach", [(1, "beach")]),
        ("  a dog  on grass ", [(1, "a dog  on grass")]),
        ("horse + stripes - zebra", [(1, "horse"), (1, "stripes"), (-1, "zebra")]),
        ("2:beach - .5:crowd", [(2, "beach"), (-0.5, "crowd")]),
        ("2.5: beach", [(2.5, "beach")]),
        ("a t-shirt - a C++ book", [(1, "a t-shirt"), (-1, "a C++ book")]),
        ("- crowd + beach", [(-1, "crowd"), (1, "beach")]),
        ("+ beach", [(1, "beach")]),
        ("-40 degrees", [(1, "-40 degrees")]),
        ('"rock + roll" - pop', [(1, "rock + roll"), (-1, "pop")]),
        ("3:'2:1' + x", [(3, "2:1"), (1, "x")]),
        ("'me.jpg'", [(1, "me.jpg")]),
        ("a dog's bone - the cat's", [(1, "a dog's bone"), (-1, "the cat's")]),
        ("'tis a dog", [(1, "'tis a dog")]),
        ("'a' and 'b' - c", [(1, "'a' and 'b'"), (-1, "c")]),
        ("a sign \"stop\"", [(1, 'a sign "stop"')]),
        ("at 12 o'clock", [(1, "at 12 o'clock")]),
        ("犬 - 猫", [(1, "犬"), (-1, "猫")]),
    ],
)  # fmt: skip
def test_words(text, expected):
    assert terms(text) == expected
    assert not any(term.picture for term in parse(text).terms)


def test_pictures(me, tmp_path):
    found = parse("2:beach + ./me.jpg - crowd")
    assert found.terms == (Term(2, "beach", False), Term(1, "me.jpg", True), Term(-1, "crowd", False))
    assert parse("me.jpg").terms == (Term(1, "me.jpg", True),)
    assert parse(str(tmp_path / "me.jpg")).terms[0].picture
    assert parse("'me.jpg'").terms == (Term(1, "me.jpg", False),)


@pytest.mark.parametrize(
    ("text", "of_images", "of_texts"),
    [("a dog", True, False), ("me.jpg", False, True), ("a dog - grass", False, False), ("me.jpg + a", False, False)],
)
def test_what_a_model_has_probabilities_of(me, text, of_images, of_texts):
    assert parse(text).has_probability("image") == of_images
    assert parse(text).has_probability("text") == of_texts


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("beach +", "needs words or a picture"),
        ("beach + - crowd", "needs words or a picture"),
        ("-", "needs words or a picture"),
        ("- crowd", "a photo - crowd"),
        ("- crowd - cars", "only says"),
        ("0:beach", "above 0"),
        ('"beach', "not closed"),
        ("./you.jpg", "does not exist"),
        ("beach - you.png", "does not exist"),
        ("./", "is a folder"),
        ("https://example.org/me.jpg", "not fetched"),
        ("~nobody/me.jpg", "does not exist"),
        ("./" + 3000 * "x", "does not exist"),
        ("./a\0b.jpg", "does not exist"),
    ],
)
def test_refusals(me, text, message):
    with pytest.raises(InputError, match=message):
        parse(text)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9), st.text("ab -+:'x", min_size=1)), min_size=1))
def test_what_is_quoted_comes_back(parts):
    parts = [(True, 1, "z"), *((s, w, v.strip()) for s, w, v in parts if v.strip())]
    text = " ".join(f'{"+" if plus else "-"} {weight}:"{value}"' for plus, weight, value in parts)
    assert terms(text) == [(weight if plus else -weight, value) for plus, weight, value in parts]


class Tokenizer:
    seq_len = 5

    def truncated(self, texts):
        return [len(text) > 5 for text in texts]


class Model:
    """Vectors by the length of words, and another one for every picture."""

    tokenizer = Tokenizer()

    def encode_text(self, texts):
        self.texts = texts
        return np.eye(8, dtype=np.float32)[[len(text) for text in texts]]

    def encode_image(self, images):
        return np.eye(8, dtype=np.float32)[[7 for _ in images]]


def test_sums_are_unit_vectors(me):
    model = Model()
    found = embed(model, [parse("a"), parse("2:a - bb + ./me.jpg"), parse("- bb + a")])
    assert model.texts == ["a", "bb"]
    expected = np.zeros((3, 8))
    expected[0, 1], expected[1, [1, 2, 7]], expected[2, [1, 2]] = 1, [2, -1, 1], [1, -1]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-7)


def test_of_no_direction_and_too_long():
    with pytest.raises(InputError, match="cancel"):
        embed(Model(), [parse("a - b")])
    with pytest.raises(InputError, match="more than the 5 tokens"):
        embed(Model(), [parse("a - letters")])


def test_a_model(me, tiny_folder):
    from npsiglip import SigLIP

    model = SigLIP.from_pretrained(tiny_folder)
    found = embed(model, [parse("a cat"), parse("./me.jpg"), parse("a cat + ./me.jpg")])
    np.testing.assert_array_equal(found[:2], [model.encode_text("a cat")[0], model.encode_image("me.jpg")[0]])
    total = found[0].astype(np.float64) + found[1]
    np.testing.assert_allclose(found[2], total / np.linalg.norm(total), atol=1e-7)
    with pytest.raises(InputError, match="tokens that the model reads"):
        embed(model, [Query("", (Term(1.0, "word " * 200, False),))])
