"""Pictures in the terminal: not where there is none; needs textual-image, skipped without."""

import io
import sys

import pytest
from PIL import Image
from rich.console import Console

from npsiglip.cli import preview as module
from npsiglip.cli.preview import check_preview, preview
from npsiglip.collection.hits import Hit
from npsiglip.errors import InputError
from tests.helpers.collections import index_of
from tests.helpers.command import invoke


@pytest.fixture
def terminal(monkeypatch):
    """Of 80 columns, in colours."""
    console = Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=80)
    monkeypatch.setattr(module, "out", lambda: console)
    return console


def test_off_where_there_is_no_terminal(tmp_path, images, model):
    """Not even the library is needed."""
    index = index_of(tmp_path / "index", model, model.encode_image(images), [tmp_path / name for name in images])
    with_it = invoke("search", "-i", index, "a cat", "--preview")
    assert with_it.exit_code == 0
    assert with_it.stdout == invoke("search", "-i", index, "a cat").stdout


def test_a_library_that_is_missing(terminal, monkeypatch):
    assert not check_preview(False)
    monkeypatch.setitem(sys.modules, "textual_image.renderable", None)
    with pytest.raises(InputError, match=r"pip install 'npsiglip\[preview\]'"):
        check_preview(True)


def test_pictures_beside_each_other(terminal, tmp_path, monkeypatch):
    """As half blocks, in their colours; what is gone is grey."""
    renderable = pytest.importorskip("textual_image.renderable")
    monkeypatch.setattr(renderable, "Image", renderable.HalfcellImage)
    hits = []
    for color in ("red", "lime", "blue"):
        Image.new("RGB", (40, 40), color).save(tmp_path / f"{color}.png")
        hits.append(Hit(str(tmp_path / f"{color}.png"), 0.5, None))
    assert check_preview(True)
    preview([*hits, Hit("gone.png", 0.1, None)])
    shown = terminal.file.getvalue()
    blocks = shown.split("4 ")
    for color in ("255;0;0", "0;255;0", "0;0;255", "187;187;187"):
        assert color in shown
    assert "187;187;187" not in blocks[0]  # three in a row
