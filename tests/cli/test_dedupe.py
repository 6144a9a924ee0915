"""`npsiglip dedupe` and `npsiglip similar`: groups of what is nearly equal, and neighbours.

Covers cli/similar.py as well.
"""

import numpy as np
import pytest

from tests.helpers.arrays import normal
from tests.helpers.collections import index_of
from tests.helpers.command import assert_refused, invoke, lines_of_json


@pytest.fixture
def rows():
    x = normal(0, 8, 16)
    x[5] = x[1] + 0.01 * normal(1, 16)
    x[6] = x[2]
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture
def folder(tmp_path, model, rows):
    return index_of(tmp_path / "index", model, rows, [f"/p/{i}.png" for i in range(8)], dead=[6])


def test_groups(folder, rows):
    result = invoke("dedupe", "-i", folder, "--json")
    found = [{"item": "/p/1.png", "cosine": 1.0}, {"item": "/p/5.png", "cosine": rows[1] @ rows[5]}]
    assert lines_of_json(result.stdout) == [
        {"group": [each | {"cosine": pytest.approx(each["cosine"])} for each in found]}
    ]
    assert "1 groups of 2 items; nothing was deleted" in result.stderr
    lines = invoke("dedupe", "-i", folder).stdout.splitlines()
    assert [line.split()[1] for line in lines] == ["/p/1.png", "/p/5.png"]
    everything = invoke("dedupe", "-i", folder, "--cosine", -0.9).stdout.splitlines()
    assert [line.split()[1] for line in everything] == [f"/p/{i}.png" for i in (0, 1, 2, 3, 4, 5, 7)]


def test_no_such_cosine(folder):
    assert_refused(invoke("dedupe", "-i", folder, "--cosine", 2), "a cosine is")


def test_a_sheet_of_groups(folder):
    assert invoke("dedupe", "-i", folder, "--sheet", folder / "s.html").exit_code == 0
    assert "group 1" in (folder / "s.html").read_text()


def test_neighbours_of_what_is_in_the_index(folder, rows):
    result = invoke("similar", "/p/1.png", "-i", folder, "--json", "-k", 3)
    (line,) = lines_of_json(result.stdout)
    cosines = rows @ rows[1]
    cosines[[1, 6]] = -2
    assert [each["item"] for each in line["results"]] == [f"/p/{i}.png" for i in np.argsort(-cosines)[:3]]
    assert line["results"][0]["probability"] is None
    assert invoke("similar", "/p/1.png", "-i", folder, "--paths", "-k", 1).stdout == "/p/5.png\n"


def test_neighbours_of_another_picture(tmp_path, images, model):
    folder = index_of(tmp_path / "index", model, model.encode_image(images[:2]), images[:2])
    result = invoke("similar", images[2], "-i", folder, "--json")
    (line,) = lines_of_json(result.stdout)
    cosines = model.encode_image(images[:2]) @ model.encode_image(images[2])[0]
    assert [each["cosine"] for each in line["results"]] == pytest.approx(sorted(cosines, reverse=True), abs=1e-6)
    assert_refused(invoke("similar", "missing.png", "-i", folder), "missing.png")


def test_a_picture_that_is_gone_joins_no_two(tmp_path, model):
    """Neither alike without it: cosines of 0.98 with what is gone, 0.92 with each other."""
    angle = np.arccos(0.98)
    turned = np.zeros((3, 16), np.float32)
    turned[:, 0], turned[:, 1] = np.cos([0, angle, 2 * angle]), np.sin([0, angle, 2 * angle])
    folder = index_of(tmp_path / "turned", model, turned, ["/a.png", "/b.png", "/c.png"])
    assert len(lines_of_json(invoke("dedupe", "-i", folder, "--json").stdout)) == 1
    folder = index_of(tmp_path / "gone", model, turned, ["/a.png", "/b.png", "/c.png"], dead=[1])
    assert invoke("dedupe", "-i", folder, "--json").stdout == ""
