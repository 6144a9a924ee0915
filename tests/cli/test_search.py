"""`npsiglip search`, and what all commands on a collection share: what is shown, written and refused.

Covers cli/collections.py, cli/sheet.py and collection/hits.py as well.
"""

import tarfile

import numpy as np
import pytest
from PIL import Image

from npsiglip import Index
from npsiglip.collection.calibrate import Calibration, write
from npsiglip.collection.manifest import Manifest
from npsiglip.outputs import sigmoid
from tests.helpers.collections import index_of
from tests.helpers.command import assert_refused, invoke, lines_of_json
from tests.helpers.golden_data import TINY


@pytest.fixture
def collection(tmp_path, images, model):
    """Three pictures, and a fourth that is gone."""
    rows = model.encode_image([*images, images[0]])
    return index_of(tmp_path / "index", model, rows, [*(tmp_path / name for name in images), "gone.png"], dead=[3])


def search(collection, *args):
    return invoke("search", "-i", collection, *args)


def expected(model, images, text):
    output = model(images, [text])
    probabilities, cosines = output.probs[:, 0], output.image_embeds @ output.text_embeds[0]
    order = np.argsort(-cosines, kind="stable")
    return order, cosines[order], probabilities[order]


def test_json_is_what_the_model_says(collection, images, model, tmp_path):
    result = search(collection, "a cat", "two dogs", "--json", "-k", 2)
    assert result.exit_code == 0
    lines = lines_of_json(result.stdout)
    assert [line["query"] for line in lines] == ["a cat", "two dogs"]
    for line in lines:
        order, cosines, probabilities = expected(model, images, line["query"])
        found = line["results"]
        assert [each["item"] for each in found] == [str(tmp_path / images[i]) for i in order[:2]]
        assert [each["rank"] for each in found] == [1, 2]
        assert [each["cosine"] for each in found] == pytest.approx(cosines[:2], abs=1e-6)
        assert [each["probability"] for each in found] == pytest.approx(probabilities[:2], rel=1e-4)


def test_a_line_for_each_result(collection, images, model):
    lines = search(collection, "a cat").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3"]
    assert all("%" in line and line.endswith(".png") for line in lines)
    assert search(collection, "a cat", "a dog").stdout.splitlines()[4] == "a dog"


def test_paths_for_other_programs(collection, images, model, tmp_path):
    order, _, _ = expected(model, images, "a cat")
    paths = [str(tmp_path / images[i]) for i in order]
    assert search(collection, "a cat", "--paths").stdout == "".join(f"{path}\n" for path in paths)
    assert search(collection, "a cat", "-0").stdout == "".join(f"{path}\0" for path in paths)


def test_nothing_here_fits(collection):
    result = search(collection, "a cat", "--min-prob", 1, "--json")
    assert "nothing here fits 'a cat': the best is" in result.stderr
    assert lines_of_json(result.stdout) == [{"query": "a cat", "fits": False, "results": []}]
    assert "nothing here fits" not in search(collection, "a cat", "--min-prob", 0).stderr


def test_calibrated_probabilities(collection, model, images):
    write(collection, Calibration(5.0, 1.0, "labelled pairs"), Manifest.read(collection).weights)
    _, cosines, _ = expected(model, images, "a cat")
    line = lines_of_json(search(collection, "a cat", "--json").stdout)[0]
    assert [r["probability"] for r in line["results"]] == pytest.approx(sigmoid(5 * cosines + 1), rel=1e-5)
    (hits,) = Index.open(collection).search("a cat")
    assert [hit.probability for hit in hits] == [r["probability"] for r in line["results"]]
    write(collection, Calibration(5.0, 1.0), "others")
    result = search(collection, "a cat", "--json")
    assert "of other weights" in result.stderr
    assert lines_of_json(result.stdout) != [line]
    (collection / "calibration.json").write_text("[")
    assert_refused(search(collection, "a cat"), "damaged")


def test_pictures_and_sums_have_no_probability(collection, images):
    result = search(collection, images[1], f"a cat + {images[1]}", "--json")
    first, second = lines_of_json(result.stdout)
    assert first["results"][0]["item"].endswith(images[1])
    assert first["results"][0]["cosine"] == pytest.approx(1, abs=1e-6)
    assert first["fits"] is second["fits"] is second["results"][0]["probability"] is None
    (line,) = lines_of_json(search(collection, "a cat - two dogs", "--json").stdout)
    assert line["results"][0]["probability"] is None
    result = search(collection, images[1], "--min-prob", 0.5)
    assert (result.exit_code, "words alone with pictures" in result.stderr) == (2, True)


def test_texts(tmp_path, model, images):
    """Pictures find texts with a probability, texts find texts without."""
    texts = ["a cat", "two dogs", "a bird", "x"]
    collection = index_of(tmp_path / "texts", model, model.encode_text(texts), texts, kind="text")
    by_text, by_picture = lines_of_json(search(collection, "a bird", images[0], "--json").stdout)
    assert by_text["results"][0] == {"rank": 1, "item": "a bird", "probability": None, "cosine": pytest.approx(1)}
    assert all(0 < each["probability"] < 1 for each in by_picture["results"])
    assert_refused_sheet = search(collection, "a bird", "--sheet", "x.png")
    assert "ends in .html" in assert_refused_sheet.stderr


def test_a_sentence_for_words(collection, model):
    line = lines_of_json(search(collection, "cat", "--template", "a {}", "--json").stdout)[0]
    other = lines_of_json(search(collection, "a cat", "--json").stdout)[0]
    assert line == other | {"query": "cat"}
    assert_refused(search(collection, "cat", "--template", "a"), "exactly one {}")


def test_sheets(collection, tmp_path, images):
    (tmp_path / images[2]).unlink()  # gone since it was embedded
    Image.new("RGB", (50, 50), (250, 3, 7)).save(tmp_path / images[0])
    assert search(collection, "a <cat>", "a dog", "--sheet", "s.png").exit_code == 0
    with Image.open("s.png") as picture:
        assert picture.width == 5 * 234 + 10
        colours = {colour: count for count, colour in picture.convert("RGB").getcolors(1 << 24)}
    assert colours[250, 3, 7] == 2 * 50 * 50
    assert colours[187, 187, 187] >= 2 * 224 * 224  # the one that is gone, and edges of letters
    assert search(collection, "a <cat>", "--sheet", "s.html").exit_code == 0
    page = (tmp_path / "s.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 3
    assert "a &lt;cat&gt;" in page
    assert "http" not in page


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--", "- cat"], "only says"),
        ([" "], "empty"),
        (["./missing.png"], "does not exist"),
        (["word " * 300], "tokens that the model reads"),
        (["a - a"], "cancel"),
        (["a", "--sheet", "x.gif"], "ends in .png or .html"),
        (["a", "--sheet", "missing/x.png"], "cannot be written"),
        (["a", "--open"], "--sheet"),
    ],
)
def test_refusals(collection, args, message):
    assert_refused(search(collection, *args), message)


def test_an_empty_index_another_model_and_another_dtype(collection, tmp_path, model):
    assert_refused(search(collection, "a", "--model", "builtin"), "the model is another (weights")
    assert_refused(search(collection, "a", "--dtype", "int8"), "(dtype: float32, now int8)")
    empty = index_of(tmp_path / "empty", model, np.ones((2, 4), np.float32), "ab", dead=[0, 1])
    assert_refused(search(empty, "a"), "nothing is in the index")


def test_an_index_that_is_none():
    assert_refused(invoke("search", "a", "-i", "nowhere"), "'nowhere' does not exist")


def test_from_a_folder_to_answers(tmp_path, images, model):
    index = tmp_path / "new"
    assert invoke("index", *images, "-i", index, "--model", TINY).exit_code == 0
    result = invoke("search", "-i", index, "a cat", "--json")
    assert result.exit_code == 0
    (line,) = lines_of_json(result.stdout)
    order, cosines, _ = expected(model, images, "a cat")
    assert [each["item"] for each in line["results"]] == [str(tmp_path / images[i]) for i in order]
    assert [each["cosine"] for each in line["results"]] == pytest.approx(cosines, abs=1e-6)
    similar = invoke("similar", images[0], "-i", index, "--paths").stdout.split()
    assert len(similar) == len(images) - 1
    assert str(tmp_path / images[0]) not in similar
    assert invoke("dedupe", "-i", index, "--json").exit_code == 0
    assert_refused(invoke("search", "-i", tmp_path / "nowhere", "a cat"), "nowhere")


@pytest.mark.parametrize(
    "command", [("search", "a"), ("similar", "a.png"), ("dedupe",), ("calibrate", "--estimate", "a")]
)
def test_the_folder_of_the_index_may_stand_in_a_variable(command, monkeypatch):
    monkeypatch.setenv("NPSIGLIP_INDEX", "elsewhere")
    result = invoke(*command)
    assert result.exit_code == 1
    assert "'elsewhere' does not exist" in result.stderr


def test_a_sheet_shows_members_of_tars(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (50, 50), (250, 3, 7)).save("red.png")
    with tarfile.open("t.tar", "w") as tar:
        tar.add("red.png", "it.png")
    assert invoke("index", "t.tar", "-i", "tarred", "--model", TINY).exit_code == 0
    assert search("tarred", "a", "--sheet", "s.png").exit_code == 0
    with Image.open("s.png") as picture:
        assert (2500, (250, 3, 7)) in picture.convert("RGB").getcolors(1 << 24)
