"""`npsiglip index`: what it says, what it exits with, and that it is taken with and without a command's name."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from npsiglip import Index
from tests.helpers.collections import content, draw, draw_folder
from tests.helpers.command import assert_refused, invoke, lines_of_json
from tests.helpers.golden_data import TINY


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder of six pictures, and a broken one, in the working directory."""
    monkeypatch.chdir(tmp_path)
    draw_folder(Path("photos"), 6)
    Path("photos/bad.jpg").write_bytes(b"bad")
    return Path("photos")


def index(*args, model=TINY, **options):
    return invoke("index", *args, *(["--model", model] if model else []), **options)


def test_from_a_folder_to_an_index(photos, model):
    result = index("photos", "-i", "idx")
    assert (result.exit_code, result.stdout) == (0, "")
    bad, summary = result.stderr.splitlines()
    assert bad.startswith(f"skipped: '{photos.absolute()}/bad.jpg': is not an image")
    assert re.fullmatch(
        r"6 images in idx: 6 new; skipped 1 that cannot be used, `npsiglip index info --failures -i idx` lists them; "
        r"[\d.,]+ files/s, [\d.e-]+ megapixels/s",
        summary,
    )
    with Index.open("idx") as made:
        np.testing.assert_array_equal(made.vectors, model.encode_image(made.keys))
        assert made.manifest.model == str(TINY)
        assert made.model.dtype == "float32"
    before = content(Path("idx"))
    again = index("photos", "-i", "idx")
    assert again.stderr == (
        "6 images in idx: 0 new, 6 as before; skipped 1 that cannot be used (1 of them known and unchanged), "
        "`npsiglip index info --failures -i idx` lists them, --retry tries them again\n"
    )
    assert content(Path("idx")) == before


def test_the_model_of_the_index_is_taken_where_none_is_named(photos):
    assert index("photos", "-i", "idx", "--dtype", "bfloat16", "--rows", "float16").exit_code == 0
    draw(photos / "new.png", 99)
    result = index("photos", "-i", "idx", model=None)
    assert (result.exit_code, "7 images in idx: 1 new, 6 as before" in result.stderr) == (0, True)
    assert_refused(index("photos", "-i", "idx"), "'bfloat16', now 'float32'")


@pytest.mark.parametrize("words", [["build", "photos"], ["photos"], ["--ignore", "bad*", "photos"], ["./photos"]])
def test_with_and_without_the_name_of_the_command(photos, words):
    assert index(*words, "-i", "idx").exit_code == 0
    assert len(Index.open("idx")) == 6


def test_a_folder_that_is_named_like_a_command(photos):
    photos.rename("info")
    assert index("./info", "-i", "idx").exit_code == 0
    assert len(Index.open("idx")) == 6


def test_where_the_index_is_if_that_is_not_said(photos, monkeypatch):
    assert index("photos").exit_code == 0
    assert len(Index.open()) == 6
    monkeypatch.setenv("NPSIGLIP_INDEX", "elsewhere")
    assert index("photos").exit_code == 0
    assert len(Index.open("elsewhere")) == 6


def test_names_from_standard_input(photos):
    names = b"\0".join(b"photos/even/%03d.png" % i for i in (4, 0))
    assert index("-", "-i", "idx", input=names).exit_code == 0
    assert [Path(key).name for key in Index.open("idx")] == ["004.png", "000.png"]


def test_texts(photos, model):
    Path("texts.txt").write_text("a cat\ntwo dogs\n", encoding="utf-8")
    result = index("texts.txt", "--as", "text", "-i", "idx")
    assert "2 texts in idx: 2 new; " in result.stderr
    np.testing.assert_array_equal(Index.open("idx").vectors, model.encode_text(["a cat", "two dogs"]))


def test_strict_stops_and_says_where(photos):
    assert_refused(index("photos", "-i", "idx", "--strict"), "bad.jpg", "is not an image")


def test_nothing_that_can_be_used_is_an_error(photos):
    Path("broken").mkdir()
    for i in range(25):
        Path(f"broken/{i}.png").write_bytes(b"broken")
    result = index("broken", "-i", "idx")
    assert result.exit_code == 1
    assert result.stderr.count("skipped: '") == 20
    assert "skipped: 5 more\nerror: none of the 25 inputs can be used" in result.stderr
    assert_refused(index("nowhere", "-i", "idx2"), "'nowhere' does not exist")
    assert not Path("idx2").exists()


def test_an_engine(photos, monkeypatch):
    """That it makes the same bytes: tests/collection/test_ray.py."""
    refused = index("photos", "-i", "idx", "--workers", "2")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "--workers says how many processes --engine ray has" in refused.stderr
    monkeypatch.setitem(sys.modules, "ray", None)
    result = index("photos", "-i", "idx", "--engine", "ray", "--workers", "2")
    assert_refused(result, "pip install 'npsiglip[ray]'")


def test_parts_are_merged(photos):
    for i in (1, 2):
        assert index("photos", "-i", "part", "--shard", f"{i}/2").exit_code == 0
    assert index("photos", "-i", "whole").exit_code == 0
    result = index("merge", "part-1-of-2", "part-2-of-2", "-o", "all", model=None)
    assert (result.exit_code, result.stderr) == (0, "6 items in all\n")
    assert content(Path("all"))["vectors-00000.npy"] == content(Path("whole"))["vectors-00000.npy"]
    assert_refused(index("photos", "--shard", "3/2"), "a part is written i/n")
    assert index("merge", "all", "-o", "all", model=None).exit_code == 2


def test_info(photos):
    index("photos", "-i", "idx")
    (facts,) = lines_of_json(index("info", "-i", "idx", "--json", model=None).stdout)
    assert {key: facts[key] for key in ("items", "kind", "failures", "rows", "width", "shards", "dtype")} == {
        "items": 6,
        "kind": "image",
        "failures": 1,
        "rows": "float32",
        "width": 36,
        "shards": 1,
        "dtype": "float32",
    }
    text = index("info", "-i", "idx", model=None).stdout
    assert [line.split()[0] for line in text.splitlines()] == list(facts)
    (failure,) = lines_of_json(index("info", "-i", "idx", "--failures", "--json", model=None).stdout)
    assert failure["key"] == f"{photos.absolute()}/bad.jpg"
    assert index("info", "-i", "idx", "--failures", model=None).stdout == f"{failure['key']}: {failure['reason']}\n"
    assert_refused(index("info", "-i", "none", model=None), "does not exist; make one with `npsiglip index FOLDER")


def test_check(photos):
    index("photos", "-i", "idx")
    result = index("check", "-i", "idx", model=None)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "idx is whole\n")
    Path("idx/vectors-00000.npy").write_bytes(b"damaged")
    result = index("check", "-i", "idx", model=None)
    assert result.exit_code == 1
    assert "vectors-00000.npy is cut short or damaged" in result.stdout
    assert "6 items are lost" in result.stdout
    result = index("check", "-i", "idx", "--repair", model=None)
    assert (result.exit_code, "6 items were forgotten" in result.stderr) == (0, True)
    assert "6 images in idx: 6 new" in index("photos", "-i", "idx").stderr
    assert index("check", "-i", "idx", model=None).exit_code == 0


def test_a_manifest_names_the_model_so_that_it_is_found_from_anywhere(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(TINY.parent)
    assert index(tmp_path / "photos", "-i", tmp_path / "idx", model=TINY.name).exit_code == 0
    assert Index.open(tmp_path / "idx").manifest.model == str(TINY)
