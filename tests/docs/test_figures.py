"""The figures are those that the script draws, and the names in them are npsiglip's."""

import re

import pytest
from safetensors import safe_open

from npsiglip import Checkpoint
from tests.docs.markdown import DOCS, load_script
from tests.helpers.golden_data import ROOT

figures = load_script(DOCS / "images" / "make_figures.py").FIGURES


def known_names():
    """Parameters and taps of the tiny model, each with dots around it."""
    with safe_open(ROOT / "golden" / "tiny" / "golden.safetensors", "numpy") as golden:
        taps = [name.removeprefix("taps.") for name in golden.keys()]  # noqa: SIM118
    return [f".{name}." for name in [*Checkpoint.open(ROOT / "golden" / "tiny"), *taps]]


def unknown(drawn, known):
    """The names of a figure that are none."""
    for label in re.findall(r'<text[^>]*class="name"[^>]*>([^<]+)</text>', drawn):
        for name in re.split(r",\s*", label):
            if not any(f".{name.replace('blocks.i', 'blocks.00')}." in whole for whole in known):
                yield name


@pytest.mark.parametrize("stem", figures)
def test_a_figure_is_up_to_date(stem):
    drawn = (DOCS / "images" / f"{stem}.svg").read_text(encoding="utf-8")
    assert drawn == figures[stem]().svg(), "python docs/images/make_figures.py"


@pytest.mark.parametrize("stem", ["two-towers", "block", "map-head"])
def test_names_in_a_figure_are_parameters_or_taps(stem):
    drawn = figures[stem]().svg()
    assert 'class="name"' in drawn
    assert list(unknown(drawn, known_names())) == []


def test_a_wrong_name_is_found():
    drawing = '<text class="name" x="1">attn.q, attn.query</text>'
    assert list(unknown(drawing, known_names())) == ["attn.query"]
