"""`npsiglip.compare`: the same picture, labels and template for every model."""

import numpy as np
import pytest

import npsiglip
from npsiglip import InputError
from npsiglip.comparison.adapters import Native, Vectors
from tests.helpers.golden_data import ROOT, TINY

CIRCLE = ROOT / "docs/images/world-green-circle.png"
LABELS = ["a green circle", "a red ring", "a blue square"]


class Fake(Vectors):
    """Knows what it was asked."""

    def embed(self, image, texts):
        self.asked = list(texts)
        return np.array([1.0, 0.0]), np.array([[1.0, i] for i in range(len(texts))])


@pytest.fixture(scope="module")
def builtin():
    return npsiglip.SigLIP.from_pretrained("builtin")


def test_our_models_have_the_bits_of_the_library(builtin):
    found = npsiglip.compare(CIRCLE, LABELS, ["builtin", TINY])
    output = builtin(CIRCLE, [f"This is a photo of {label}." for label in LABELS])
    scores = found.scores[""]["builtin"]
    np.testing.assert_array_equal(scores.sigmoid, output.probs[0])
    np.testing.assert_array_equal(scores.logit, output.logits_per_image[0])
    np.testing.assert_allclose(scores.cosine, output.image_embeds[0] @ output.text_embeds.T, atol=1e-6)
    assert found.models == ["builtin", TINY.name]


def test_every_model_is_given_the_same_texts(builtin):
    softmax, cosine = Fake("clip", "softmax", 2.0), Fake("st", "cosine")
    found = npsiglip.compare(CIRCLE, LABELS, [Native(builtin, "b"), softmax, cosine], "a drawing of {}")
    assert softmax.asked == cosine.asked == [f"a drawing of {label}" for label in LABELS]
    assert found.scores[""]["clip"].sigmoid is None
    assert found.scores[""]["st"].softmax is None
    assert len(found.between_models()) == 3


def test_several_languages():
    labels = {"en": ["a circle", "a ring"], "de": ["ein Kreis", "ein Ring"]}
    model = Fake("st", "cosine")
    found = npsiglip.compare(CIRCLE, labels, [model], {"en": "a photo of {}", "de": "ein Foto von {}"})
    assert model.asked == [
        "a photo of a circle",
        "a photo of a ring",
        "ein Foto von ein Kreis",
        "ein Foto von ein Ring",
    ]
    for name, first in (
        ("en", 0),
        ("de", 2),
    ):  # of text i of all, the fake model says this:
        right = [1 / np.sqrt(1 + i**2) for i in (first, first + 1)]
        np.testing.assert_allclose(found.scores[name]["st"].cosine, right, rtol=1e-12)
    (between,) = found.between_sets("st")
    assert (between.first, between.second) == ("en", "de")
    assert found.to_dict()["languages"][0]["agreement"][0]["same_best"] is True


@pytest.mark.parametrize(
    ("labels", "models", "template", "sentence"),
    [
        ([], ["builtin"], "{}", "empty"),
        ({}, ["builtin"], "{}", "no labels"),
        ({"en": ["a"], "de": ["a", "b"]}, ["builtin"], "{}", "as many in each"),
        ({"en": ["a"]}, ["builtin"], {"de": "{}"}, "no template"),
        (["a"], [], "{}", "no models"),
        (["a"], [Fake("x", "cosine"), Fake("x", "cosine")], "{}", "given twice"),
        (["a"], ["builtin"], "x", "exactly one {}"),
    ],
)
def test_bad_input(labels, models, template, sentence):
    with pytest.raises(InputError, match=sentence):
        npsiglip.compare(CIRCLE, labels, models, template)
