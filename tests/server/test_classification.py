"""Zero-shot classification over HTTP: the library's bits, in several shapes."""

import numpy as np
import pytest

import npsiglip
from tests.helpers.golden_data import ROOT, TINY

FILES = [ROOT / "docs/images/world-green-circle.png", ROOT / "docs/images/world-brown-ring.png"]
LABELS = ["a green circle", "a brown ring", "a blue square"]


def task(serving, circle, path="/zero-shot-image-classification", **parameters):
    return serving.post(path, json={"inputs": circle, "parameters": {"candidate_labels": LABELS, **parameters}})


def test_hugging_face_s_task(serving, model, circle):
    right = model.classify(FILES[0], LABELS)[0]
    assert task(serving, circle).json() == right
    assert task(serving, f"data:image/png;base64,{circle}").json() == right
    assert task(serving, circle, "/hf/builtin").json() == right
    assert task(serving, circle, hypothesis_template="{}").json() == model.classify(FILES[0], LABELS, "{}")[0]
    tiny = npsiglip.SigLIP.from_pretrained(TINY)
    assert task(serving, circle, "/hf/tiny").json() == tiny.classify(FILES[0], LABELS)[0]


def test_several_pictures(serving, model, circle, ring):
    body = {"model": "builtin", "input": [{"image": circle}, {"image": ring}], "labels": LABELS}
    data = serving.post("/v1/classify", json=body).json()["data"]
    right = model.classify(FILES, LABELS)
    assert [each["predictions"] for each in data] == right
    assert [each["prediction"] for each in data] == ["a green circle", "a brown ring"]
    assert [each["score"] for each in data] == [scores[0]["score"] for scores in right]


def test_from_embeddings_that_were_there(serving, model, circle):
    uri = f"data:image/png;base64,{circle}"
    vector = serving.post("/v1/embeddings", json={"input": [uri]}).json()["data"][0]["embedding"]
    answer = serving.post("/v1/classify_from_embeddings", json={"embeddings": [vector], "labels": LABELS})
    assert answer.json()["data"][0]["predictions"] == model.classify(FILES[0], LABELS)[0]


def test_compare_has_every_model_in_its_own_columns(serving, model, circle):
    body = {"image": circle, "labels": {"en": ["a green circle", "a brown ring"], "de": ["ein Kreis", "ein Ring"]}}
    found = serving.post("/v1/compare", json=body).json()
    assert [each["name"] for each in found["sets"]] == ["en", "de"]
    first = found["sets"][0]["models"][0]
    output = model(FILES[0], [f"This is a photo of {label}." for label in body["labels"]["en"]])
    assert (first["model"], first["kind"]) == ("builtin", "sigmoid")
    np.testing.assert_array_equal([row["sigmoid"] for row in first["scores"]], output.probs[0])
    np.testing.assert_array_equal([row["logit"] for row in first["scores"]], output.logits_per_image[0])
    assert [each["model"] for each in found["sets"][0]["models"]] == ["builtin", "tiny"]
    assert [each["model"] for each in found["languages"]] == ["builtin", "tiny"]


LONE = [0.0] * 191 + [1.0]
BAD = {
    "no labels": ("/v1/classify", {"labels": []}, "labels is empty"),
    "a blank label": ("/v1/classify", {"labels": ["a", " "]}, "labels[1] needs a letter"),
    "too many labels": ("/v1/classify", {"labels": ["a"] * 51}, "51 labels are more than the 50"),
    "labels as a text": ("/v1/classify", {"labels": "a, b"}, "labels: expected a list"),
    "a template": ("/v1/classify", {"template": "a photo"}, "template must have exactly one {}"),
    "two places in a template": ("/v1/classify", {"template": "{} {}"}, "the template must have exactly one {}"),
    "no pictures": ("/v1/classify", {"input": []}, "input is empty"),
    "a text to classify": ("/v1/classify", {"input": [{"text": "a"}]}, "input[0].image is missing"),
    "a bad picture": ("/v1/classify", {"input": [{"image": "AAAA"}]}, "input[0].image is not an image"),
    "another width": ("/v1/classify_from_embeddings", {"embeddings": [[1.0, 0.0]]}, "embeddings[0] has 2 numbers"),
    "another norm": (
        "/v1/classify_from_embeddings",
        {"embeddings": [LONE, [2 * x for x in LONE]]},
        "embeddings[1] has the",
    ),
    "sets of two sizes": ("/v1/compare", {"labels": {"en": ["a"], "de": ["a", "b"]}}, "as many in each"),
    "a template that is not there": ("/v1/compare", {"labels": {"en": ["a"]}, "template": {"de": "{}"}}, "no template"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_one_sentence(serving, circle, name):
    path, change, sentence = BAD[name]
    good = {"labels": ["a"], "input": [{"image": circle}], "embeddings": [LONE], "image": circle}
    assert serving.post(path, json=good).status_code == 200
    answer = serving.post(path, json=good | change)
    assert answer.status_code == 400
    assert set(answer.json()) == {"detail"}
    assert sentence in answer.json()["detail"]


def test_bad_tasks_get_one_sentence_in_hugging_face_s_shape(serving, circle):
    for body, sentence in (
        ({"inputs": "AAAA", "parameters": {"candidate_labels": ["a"]}}, "inputs is not an image"),
        ({"inputs": circle}, "parameters is missing"),
        ({"inputs": circle, "parameters": {"candidate_labels": []}}, "parameters.candidate_labels is empty"),
        ({"inputs": circle, "parameters": {"candidate_labels": ["a"], "hypothesis_template": "x"}}, "exactly one {}"),
    ):
        answer = serving.post("/zero-shot-image-classification", json=body)
        assert answer.status_code == 400
        assert set(answer.json()) == {"error"}
        assert sentence in answer.json()["error"]
    assert "no model 'none'" in task(serving, circle, "/hf/none").json()["error"]


def test_embeddings_that_are_too_many_for_an_answer(serving):
    row = [1.0] + [0.0] * 191
    for rows, labels in ((21, 1), (5, 41)):  # of 20 texts; of 4 images with 50 labels
        body = {"embeddings": [row] * rows, "labels": [f"a {i}" for i in range(labels)]}
        answer = serving.post("/v1/classify_from_embeddings", json=body)
        assert answer.status_code == 400 and answer.json()["detail"].startswith(f"embeddings: {rows} ")


def test_half_a_surrogate_pair_in_the_name_of_labels(serving, circle):
    content = b'{"image": "%s", "labels": {"\\ud800": ["a"], "b": ["a", "c"]}}' % circle.encode()
    answer = serving.post("/v1/compare", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and "as many in each" in answer.json()["detail"]
