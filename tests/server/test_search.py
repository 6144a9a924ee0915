"""Search in the index of a server: the library's hits, no paths, thumbnails. Covers server/searching.py as well."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import npsiglip
from npsiglip.collection import exact
from npsiglip.errors import InputError
from tests.helpers.golden_data import ROOT
from tests.server.conftest import PICTURES

CIRCLE = ROOT / "docs/images/world-green-circle.png"


@pytest.fixture(scope="module")
def opened(index, model):
    with npsiglip.Index.open(index, model) as found:
        yield found


def ask(serving, path="/v1/search", **body):
    answer = serving.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def assert_same(found, right):
    assert [each["name"] for each in found] == [hit.key.rsplit("/", 1)[1] for hit in right]
    np.testing.assert_array_equal([each["cosine"] for each in found], [hit.cosine for hit in right])
    assert [each["probability"] for each in found] == [hit.probability for hit in right]
    assert [each["rank"] for each in found] == list(range(1, len(right) + 1))


def test_words_a_picture_and_both(serving, opened, circle):
    assert_same(ask(serving, query="a green circle", k=5), opened.search("a green circle", 5)[0])
    assert_same(ask(serving, image=circle, k=3), opened.search(str(CIRCLE), 3)[0])
    both = ask(serving, query="a ring", image=circle, text_weight=2.0)
    assert_same(both, opened.search(f"2:'a ring' + {CIRCLE}")[0])
    assert both[0]["probability"] is None
    assert_same(
        ask(serving, query="a ring", template="This is a photo of {}."), opened.search("This is a photo of a ring.")[0]
    )


def test_words_that_look_like_a_path_are_words(serving, opened):
    found = ask(serving, query="/etc/passwd", k=1)
    assert_same(found, opened.search("'/etc/passwd'", 1)[0])
    assert_same(ask(serving, query="a + b - c", k=2), opened.search("'a + b - c'", 2)[0])


def test_more_like_this(serving, opened):
    first = ask(serving, query="a green circle", k=1)[0]
    assert_same(ask(serving, "/v1/similar", id=first["id"], k=4), opened.similar(str(CIRCLE), 4))


def test_thumbnails(serving):
    first = ask(serving, query="a green circle", k=1)[0]
    answer = serving.get(first["thumbnail"], params={"side": 100})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert max(Image.open(io.BytesIO(answer.content)).size) <= 112
    for bad in ("/v1/thumbnails/999", "/v1/thumbnails/-1", "/v1/thumbnails/x"):
        assert serving.get(bad).status_code in (400, 404)


def test_no_path_of_the_machine_is_told(serving, circle):
    told = [serving.get(path) for path in ("/v1/index", "/v1/models", "/metrics", "/openapi.json")]
    for answer in (*told, serving.post("/v1/search", json={"query": "a", "k": 100})):
        assert answer.status_code == 200
        assert str(ROOT) not in answer.text and "/tmp" not in answer.text
    assert serving.get("/v1/index").json() == {
        "kind": "image", "count": len(PICTURES), "model": "builtin", "calibrated": False
    }  # fmt: skip


def test_an_error_of_the_index_tells_no_path(serving, monkeypatch):
    def damaged(*arguments, **options):
        raise InputError(f"the database of the index {str(ROOT)!r} cannot be read")

    for name, path, body in (("search", "/v1/search", {"query": "a"}), ("similar", "/v1/similar", {"id": 1})):
        monkeypatch.setattr(exact, name, damaged)
        answer = serving.post(path, json=body)
        assert answer.status_code == 409
        assert answer.json() == {"detail": "what this server has cannot answer that; its log says why"}


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("/v1/search", {}, "is missing"),
        ("/v1/search", {"query": ""}, "query"),
        ("/v1/search", {"query": "a", "k": 0}, "k: input should be greater"),
        ("/v1/search", {"query": "a", "template": "x"}, "template must have exactly one {}"),
        ("/v1/search", {"image": "AAAA"}, "image is not an image"),
        ("/v1/similar", {"id": 999}, "there is no item 999"),
        ("/v1/similar", {"id": "1"}, "id: expected a whole number"),
    ],
)
def test_bad_requests_get_one_sentence(serving, path, body, sentence):
    answer = serving.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404)
    assert sentence in answer.json()["detail"]


def test_an_index_that_another_process_changes(serving, monkeypatch):
    store, ask = serving.app.state.collection.index.store, {"query": "a green circle", "k": 2}
    before = serving.post("/v1/search", json=ask).json()
    with monkeypatch.context() as changed:
        changed.setattr(store, "shards", list)
        assert serving.post("/v1/search", json=ask).json() == before
        assert serving.post("/v1/similar", json={"id": 0}).status_code == 200
    monkeypatch.setattr(store, "items", lambda numbers, shards: iter([None] * len(numbers)))
    assert serving.post("/v1/search", json=ask).json()["data"] == []
    assert serving.post("/v1/similar", json={"id": 0}).status_code == 404
