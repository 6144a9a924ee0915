"""`/v1/embeddings` in the shapes of OpenAI, Infinity and vLLM: the library's bits, and errors in OpenAI's shape.

Covers server/shapes.py, server/answers.py and server/pictures.py as well.
"""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.golden_data import ROOT

CIRCLE = ROOT / "docs/images/world-green-circle.png"


def rows(answer):
    assert answer.status_code == 200, answer.text
    return np.array([each["embedding"] for each in answer.json()["data"]], np.float32)


def picture(size=(8, 8), kind="PNG", **options):
    file = io.BytesIO()
    Image.new("RGB", size).save(file, kind, **options)
    return base64.b64encode(file.getvalue()).decode()


def ask(serving, **body):
    return serving.post("/v1/embeddings", json=body)


def test_texts_have_the_bits_of_the_library(serving, model):
    texts = ["a green circle", "two red rings", "a green circle"]
    answer = ask(serving, model="builtin", input=texts)
    np.testing.assert_array_equal(rows(answer), model.encode_text(texts))
    said = answer.json()
    assert (said["object"], said["model"]) == ("list", "builtin")
    assert [each["index"] for each in said["data"]] == [0, 1, 2]
    assert said["usage"]["prompt_tokens"] == 3 * model.config.text.seq_len
    np.testing.assert_array_equal(rows(ask(serving, input=texts[1])), model.encode_text(texts[1]))


def test_pictures_have_the_bits_of_the_library(serving, model, circle):
    uri = f"data:image/png;base64,{circle}"
    right = model.encode_image(CIRCLE)
    np.testing.assert_array_equal(rows(ask(serving, input=[uri])), right)
    np.testing.assert_array_equal(rows(ask(serving, input=[uri], modality="image")), right)
    np.testing.assert_array_equal(rows(ask(serving, input=circle, modality="image")), right)
    mixed = rows(ask(serving, input=["a ring", uri]))
    np.testing.assert_array_equal(mixed, np.concatenate([model.encode_text("a ring"), right]))


def test_base64_is_the_same_numbers(serving, model):
    answer = ask(serving, input="a ring", encoding_format="base64")
    found = np.frombuffer(base64.b64decode(answer.json()["data"][0]["embedding"]), "<f4")
    np.testing.assert_array_equal(found, model.encode_text("a ring")[0])


def test_dimensions_are_cut_and_scaled(serving, model):
    whole = model.encode_text("a ring").astype(np.float64)
    found = rows(ask(serving, input="a ring", dimensions=16))
    np.testing.assert_allclose(found, whole[:, :16] / np.linalg.norm(whole[:, :16]), rtol=1e-6)
    np.testing.assert_array_equal(rows(ask(serving, input="a ring", dimensions=0)), whole.astype(np.float32))


def test_messages_as_vllm_has_them(serving, model, circle):
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{circle}"}}
    answer = ask(serving, messages=[{"role": "user", "content": [part]}])
    np.testing.assert_array_equal(rows(answer), model.encode_image(CIRCLE))
    answer = ask(serving, messages=[{"role": "user", "content": "a ring"}])
    np.testing.assert_array_equal(rows(answer), model.encode_text("a ring"))
    both = [part, {"type": "text", "text": "a ring"}]
    answer = ask(serving, messages=[{"role": "user", "content": both}])
    assert answer.status_code == 400
    assert "expected one" in answer.json()["error"]["message"]


def test_models_are_listed_without_paths(serving):
    listed = serving.get("/v1/models").json()["data"]
    assert [each["id"] for each in listed] == ["builtin", "tiny"]
    assert listed[0]["modalities"] == ["text", "image"]
    assert serving.get("/v1/models/tiny").json()["id"] == "tiny"
    assert serving.get("/v1/models/none").json()["error"]["code"] == "model_not_found"


GIF = picture(kind="GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), "red")])
BAD = {
    "nothing": ({}, 400, "input is missing"),
    "an empty list": ({"input": []}, 400, "input is empty"),
    "an empty text": ({"input": [""]}, 400, "input[0] is empty"),
    "a number": ({"input": 5}, 400, "input: expected a text or a list"),
    "token ids": ({"input": [[1, 2]]}, 400, "input[0]: expected a text"),
    "an unknown model": ({"input": "a", "model": " builtin"}, 404, "there is no model ' builtin' here"),
    "a model that is a number": ({"input": "a", "model": 5}, 400, "model: expected a text"),
    "a format": ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format: input should be 'float' or"),
    "dimensions": ({"input": "a", "dimensions": 1000}, 400, "more than the model's 192"),
    "dimensions below zero": ({"input": "a", "dimensions": -1}, 400, "dimensions: input should be greater than"),
    "dimensions as a text": ({"input": "a", "dimensions": "5"}, 400, "dimensions: expected a whole number"),
    "too many texts": ({"input": ["a"] * 21}, 400, "21 texts are more than the 20"),
    "too many images": ({"input": ["AAAA"] * 5, "modality": "image"}, 400, "5 images are more than the 4"),
    "a text that is too long": ({"input": ["a", "green circle " * 50]}, 400, "input[1] is longer than the 24 tokens"),
    "half a character": ({"input": "\ud800"}, 400, "input: "),
    "broken base64": ({"input": ["!!!!"], "modality": "image"}, 400, "input[0] is not base64"),
    "not an image": ({"input": ["AAAA"], "modality": "image"}, 400, "input[0] is not an image"),
    "a data URI of text": ({"input": ["data:text/plain;base64,AAAA"], "modality": "image"}, 400, "of 'text/plain'"),
    "a data URI without base64": ({"input": ["data:image/png,AAAA"]}, 400, "without base64"),
    "half an image": ({"input": [picture()[:60]], "modality": "image"}, 400, "input[0] cannot be decoded"),
    "too many pixels": ({"input": [picture((2000, 600))], "modality": "image"}, 413, "2000 x 600 pixels"),
    "an animation": ({"input": [GIF], "modality": "image"}, 400, "input[0] is an animation"),
    "a URL": ({"input": ["https://example.org/a.png"], "modality": "image"}, 400, "this server fetches none"),
    "a path": ({"input": ["/etc/passwd"], "modality": "image"}, 400, "input[0] is not "),
    "a role alone": ({"messages": [{"role": "user"}]}, 400, "messages[0].content is missing"),
    "a part without its picture": (
        {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "has no 'image_url'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_get_one_sentence_in_openai_s_shape(serving, name):
    body, status, sentence = BAD[name]
    answer = serving.post("/v1/embeddings", content=json.dumps(body), headers={"content-type": "application/json"})
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert sentence in error["message"]
    assert "\n" not in error["message"] and "npsiglip/" not in error["message"]


def test_json_that_is_none(serving):
    answer = serving.post("/v1/embeddings", content="{", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "not JSON" in answer.json()["error"]["message"]
    assert serving.post("/v1/embeddings", content="{}").status_code == 415
    answer = serving.post("/v1/embeddings", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "the request has no body; expected JSON")


def test_where_infinity_has_it_and_the_model_that_its_clients_name_if_none_is_named(serving):
    answer = serving.post("/embeddings", json={"input": "a", "model": "default/not-specified"})
    assert (answer.status_code, answer.json()["model"]) == (200, "builtin")
    assert serving.get("/models").json() == serving.get("/v1/models").json()
    assert serving.post("/embeddings", json={"input": ""}).json()["error"]["param"] == "input"
