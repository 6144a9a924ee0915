"""The page of a report: whole, fetching nothing, with everything in it that was found, and nothing that can act."""

import base64
import io
import re
from functools import partial
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from npsiglip.verify import compare
from npsiglip.verify.golden import write_trace
from npsiglip.verify.html import Heat, _figure, chart, error_at, heats, page, picture
from npsiglip.verify.operations import IDS, PIXELS
from tests.helpers import planted
from tests.helpers.command import run
from tests.helpers.golden_data import TINY
from tests.helpers.planted import truth_of

VOID = {"meta", "img", "br"}


candidate = partial(planted.candidate, TINY)


class Whole(HTMLParser):
    """Every tag that is opened is closed, in order; collects addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.tags = [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("mistake", [None, "quick_gelu", "padding_masked", "logit_bias_missing", "positions_shifted"])
def test_it_is_whole_and_fetches_nothing(golden, mistake):
    taps = candidate(mistake)
    report = compare(taps, golden)
    text = page(report, taps, golden)
    read = Whole(text)
    assert read.open == []
    assert all(address.startswith("data:image/png;base64,") for address in read.addresses)
    assert "script" not in read.tags
    assert "url(" not in text
    assert "@import" not in text
    assert len(read.addresses) >= (1 if mistake else 0)


def test_it_says_what_the_report_says(golden):
    taps = candidate("quick_gelu")
    report = compare(taps, golden)._replace(repeat="npsiglip verify port.npz picture.png")
    text = page(report, taps, golden)
    for words in ("image.blocks.00.mlp.gelu", "<code>quick_gelu</code>", "x sigmoid(1.702 x) for GELU", report.repeat):
        assert words in text
    assert text.count("<tr class=bad>") == sum(tap.diverges for tap in report.taps)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_what_comes_from_a_candidate_is_escaped(golden):
    bad = "<script>alert(1)</script>"
    taps = {**candidate(), bad: np.zeros(3)}
    report = compare(taps, golden)._replace(repeat=f'npsiglip verify "{bad}"')
    assert bad in report.coverage.unknown
    text = page(report, taps, golden)
    assert bad not in text
    assert text.count("&lt;script&gt;alert(1)&lt;/script&gt;") == 2


def test_nothing_to_tell_is_a_page_too(golden):
    report = compare({"<b>": np.zeros(3)}, golden)
    text = page(report, {"<b>": np.zeros(3)}, golden)
    assert "Cannot tell" in text
    assert "<b>" not in text
    assert Whole(text).open == []


def test_the_chart_has_a_dot_a_tap_where_its_error_is(golden):
    report = compare(candidate("quick_gelu"), golden)
    svg = ElementTree.fromstring(chart(report))
    dots = svg.findall("circle")
    assert len(dots) == len(report.taps)
    height = {tap.tap: float(dot.get("cy")) for tap, dot in zip(report.taps, dots, strict=True)}
    assert min(height, key=height.get) == max(report.taps, key=lambda tap: tap.added).tap
    red = [dot.find("title").text.split(":")[0] for dot in dots if dot.get("fill") == "var(--bad)"]
    assert red == [tap.tap for tap in report.taps if tap.diverges]
    across = [float(dot.get("cx")) for dot in dots]
    assert across == sorted(across)
    _, _, width, tall = map(float, svg.get("viewBox").split())
    assert all(0 < x < width for x in across)
    assert all(0 < y < tall for y in height.values())


def test_errors_that_are_not_finite_are_drawn(golden):
    taps = candidate()
    taps["image.blocks.01.mlp.gelu"][0, 3, 5] = np.inf
    report = compare(taps, golden)
    text = page(report, taps, golden)
    assert "1 of 2,600 values are not finite" in text
    assert "nan" not in chart(report)
    assert Whole(text).open == []


def test_the_error_is_what_was_added(golden):
    taps = candidate()
    taps["image.blocks.01.ln2"][:, 3, 7] += 0.5
    error = error_at("image.blocks.01.ln2", taps, golden, "auto", "float32")
    assert error[:, 3, 7] == pytest.approx(0.5, abs=1e-5)  # what float32 rounds at values near one
    rest = np.array(error)
    rest[:, 3, 7] = 0
    assert np.abs(rest).max() < 1e-5
    tokens, patches = heats("image.blocks.01.ln2", error, golden)
    assert np.unravel_index(tokens.values.argmax(), tokens.values.shape) == (3, 7)
    assert (tokens.rows, tokens.columns) == ("tokens", "channels")
    rows, columns = patches.values.shape
    assert np.unravel_index(patches.values.argmax(), patches.values.shape) == (3 // columns, 3 % columns)
    assert rows * columns == error.shape[1]


def test_heads_are_seen(golden):
    error = np.zeros((2, 25, 36))
    heads = golden.config.image.num_heads
    width = 36 // heads
    error[:, 4, width : 2 * width] = 1  # head 1
    by_head = next(heat for heat in heats("image.blocks.00.attn.v", error, golden) if heat.rows == "heads")
    assert np.unravel_index(by_head.values.argmax(), by_head.values.shape) == (1, 4)


def test_pixels_and_ids_have_pictures(golden):
    truth, _ = truth_of(TINY)
    pixels, ids = truth.inputs[PIXELS].astype(np.float32), np.array(truth.inputs[IDS])
    shifted = pixels.copy()
    shifted[..., 2, 3] += 0.25
    ids[1, 0] += 1
    shown = {PIXELS: shifted, IDS: ids}
    (heat,) = heats(PIXELS, error_at(PIXELS, shown, golden, "auto", "float32"), golden)
    assert heat.values[2, 3] == pytest.approx(0.25)
    assert np.count_nonzero(heat.values) == 1
    (heat,) = heats(IDS, error_at(IDS, shown, golden, "auto", "float32"), golden)
    assert np.argwhere(heat.values).tolist() == [[1, 0]]


def test_the_command_writes_it(tmp_path, golden):
    taps = candidate("relu")
    save_file({name: np.asarray(value, np.float32) for name, value in taps.items()}, tmp_path / "port.safetensors")
    write_trace(tmp_path / "golden.npz", golden)
    written = tmp_path / "report.html"
    done = run("verify", tmp_path / "port.safetensors", "--golden", tmp_path / "golden.npz", "--html", written)
    assert done.exit_code == 1, done.output
    text = written.read_text(encoding="utf-8")
    assert "<code>relu</code>" in text
    assert f"<pre>npsiglip verify {tmp_path / 'port.safetensors'} --golden" in text
    assert text.count("data:image/png") >= 1


def test_a_picture_is_redder_where_more_is():
    values = np.array([[1.0, 1e-2, 1e-4, 0.0], [np.inf, np.nan, 1e-9, 0.1]])
    shade = np.asarray(Image.open(io.BytesIO(picture(values))))[..., 3]
    assert shade[0].tolist() == [255, 128, 0, 0]
    assert shade[1, :3].tolist() == [255, 255, 0]


def test_large_tensors_become_pictures_of_a_size_to_look_at(golden):
    taps = {"image.blocks.00.attn.probs": candidate("attention_scale_missing")["image.blocks.00.attn.probs"]}
    text = page(compare(taps, golden), taps, golden)
    assert re.search(r'alt="\d+ heads down, 25 queries across"', text)
    data = re.search(r"base64,([^\"]+)", _figure(Heat(np.ones((1001, 1603)), "tokens", "channels")))[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (535, 334)
