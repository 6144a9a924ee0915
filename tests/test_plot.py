"""Figures hold the arrays that they were given, are written, and say what cannot be drawn."""

import io
import sys

import numpy as np
import pytest

from npsiglip import plot
from npsiglip.errors import InputError
from npsiglip.reference.loss import sigmoid_block

pytest.importorskip("matplotlib")
RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)


def attention_of(*shape):
    x = RNG.random(shape)
    return x / x.sum(axis=-1, keepdims=True)


FIGURES = {
    "pixels": (PICTURE, PICTURE[::-1]),
    "patches": (RNG.normal(size=(16, 20)), RNG.normal(size=(48, 20)), 4, PICTURE),
    "positions": (RNG.normal(size=(16, 20)), 3),
    "attention": (attention_of(3, 16, 16), 5, PICTURE),
    "probe": (attention_of(3, 16), PICTURE),
    "shares": (RNG.normal(size=16), RNG.normal(size=16)),
    "stream": (RNG.normal(size=(4, 16, 20)),),
    "text": (["a", "red", "ring"], [0.1, 4.0, -1.0]),
    "probabilities": (["a", "b"], [0.1, -0.2], 30.0, -6.0),
    "loss": (RNG.normal(size=(5, 5)),),
    "precision": (["a", "b"], {"float32": [1e-7, 2e-7], "int8": [1e-2, 2e-2]}),
    "training": ([[10, 5.0], [20, 3.0]], {0: attention_of(16), 20: attention_of(16)}, PICTURE),
}


def test_every_function_is_here():
    assert sorted(FIGURES) == sorted(plot.__all__)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_can_be_written(name):
    figure = getattr(plot, name)(*FIGURES[name])
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    assert file.getvalue().startswith(b"\x89PNG") and len(file.getvalue()) > 1500
    assert "matplotlib.pyplot" not in sys.modules or figure.canvas.manager is None


def test_maps_hold_what_was_given():
    probs = FIGURES["attention"][0]
    figure = plot.attention(probs, 5)
    for ax, values in zip(figure.axes, probs[:, 5], strict=True):
        np.testing.assert_array_equal(ax.images[-1].get_array().ravel(), values)


def test_lines_and_cells():
    points = np.array([[10, 5.0], [20, 3.0]])
    np.testing.assert_array_equal(plot.training(points).axes[0].lines[0].get_xydata(), points)
    z = FIGURES["loss"][0]
    figure = plot.loss(z)
    eye = np.eye(5)
    expected = sigmoid_block(eye, z.T, 0.0, 0.0, True, 5)[0]  # logits of unit vectors along the axes are z itself
    np.testing.assert_allclose(figure.axes[0].images[0].get_array().sum(), expected, rtol=1e-12)
    assert plot.shares(np.arange(4.0), -np.arange(4.0)).get_suptitle().endswith("they disagree")


@pytest.mark.parametrize(
    ("name", "arguments", "phrase"),
    [
        ("probe", (np.ones(4),), "must have 2 axes"),
        ("probe", (np.ones((2, 5)),), "no square"),
        ("loss", (np.ones((2, 3)),), r"must be \[N, N\]"),
        ("pixels", (PICTURE, PICTURE[1:]), "one shape"),
        ("patches", (np.ones((16, 20)), np.ones((47, 20)), 4), r"must be \[48, 20\]"),
    ],
)
def test_what_cannot_be_drawn(name, arguments, phrase):
    with pytest.raises(InputError, match=phrase):
        getattr(plot, name)(*arguments)


def test_without_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=r"npsiglip\[viz\]"):
        plot.positions(np.ones((4, 4)), 0)
