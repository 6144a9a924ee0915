"""`npsiglip explain`: the page is written, and what cannot be is refused by name."""

from tests.helpers.command import assert_refused, invoke
from tests.helpers.explain import PICTURE, data_of
from tests.helpers.golden_data import ROOT


def test_a_page_without_the_model(tmp_path):
    page, folder = tmp_path / "page.html", ROOT / "npsiglip" / "data" / "builtin"
    options = ("--template", "a red {}", "--no-live", "-o", page, "--model", folder)
    done = invoke("explain", PICTURE, "-l", "ring", "-l", "star", *options)
    assert done.exit_code == 0, done.output
    data = data_of(page.read_text(encoding="utf-8"))
    assert (data["labels"], data["texts"][0]["text"], data["model"]) == (["ring", "star"], "a red ring", "builtin")
    assert page.stat().st_size < 0.95e6 and "live" not in data  # 0.92 MB: the maps of 6 + 4 blocks of 6 and 4 heads
    assert str(ROOT) not in page.read_text(encoding="utf-8")


def test_what_is_refused(tmp_path):
    given = ("--model", "builtin", "-o", tmp_path / "page.html")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    assert_refused(invoke("explain", broken, "-l", "a", *given), "broken.png")
    assert_refused(invoke("explain", tmp_path / "nothing.png", "-l", "a", *given), "nothing.png")
    assert_refused(invoke("explain", PICTURE, "-l", "word " * 50, *given), "longer than the", "--truncate")
    assert_refused(invoke("explain", PICTURE, "-l", " ", *given), "at least one letter")
    assert_refused(invoke("explain", PICTURE, "-l", "a", "--run", tmp_path, *given), "metrics.jsonl")
    assert_refused(invoke("explain", PICTURE, "-l", "a", "--model", "builtin", "-o", tmp_path / "no" / "p.html"), "no")
    assert invoke("explain", PICTURE, *given).exit_code == 2
    assert invoke("explain", PICTURE, *["-l", "a"] * 9, *given).exit_code == 2
    assert not (tmp_path / "page.html").exists()
