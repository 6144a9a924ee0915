"""Models of other libraries, servers and files; the libraries themselves where they are installed."""

import http.server
import json
import sys
import threading
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
import pytest

import npsiglip
from npsiglip import InputError
from npsiglip.comparison import adapters
from npsiglip.comparison.adapters import encoder
from tests.helpers.golden_data import ROOT

CIRCLE = ROOT / "docs/images/world-green-circle.png"
LABELS = ["a green circle", "a red ring"]


def save(path, **values):
    np.savez(path, **values)
    return f"file:{path}"


def test_embeddings_in_a_file(tmp_path):
    zimg, ztxt = np.array([3.0, 4.0]), np.array([[1.0, 0.0], [0.0, 2.0]])
    found = npsiglip.compare(CIRCLE, LABELS, [
        save(tmp_path / "a.npz", image=zimg, texts=ztxt),
        save(tmp_path / "b.npz", image=zimg, texts=ztxt, scale=10.0),
        save(tmp_path / "c.npz", image=zimg, texts=ztxt, scale=10.0, bias=-5.0),
    ])  # fmt: skip
    a, b, c = found.scores[""].values()
    assert (a.kind, b.kind, c.kind) == ("cosine", "softmax", "sigmoid")
    np.testing.assert_allclose(a.cosine, [0.6, 0.8])
    np.testing.assert_allclose(c.logit, [1.0, 3.0])
    assert a.model == "file:a.npz"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"image": [1.0]}, "expected `image`"),
        ({"image": [1.0, 0.0], "texts": [[1.0, 0.0]]}, r"must be \[D\] and \[2, D\]"),
        ({"image": [0.0, 0.0], "texts": [[1.0, 0.0]] * 2}, "zero or not finite"),
        ({"image": [1.0, np.nan], "texts": [[1.0, 0.0]] * 2}, "zero or not finite"),
        ({"image": [1.0], "texts": [[1.0]] * 2, "scale": np.inf}, "must be finite"),
        ({"image": [1.0], "texts": [[1.0]] * 2, "kind": "other"}, "kind"),
    ],
)
def test_bad_files(tmp_path, values, sentence):
    with pytest.raises(InputError, match=sentence):
        npsiglip.compare(CIRCLE, LABELS, [save(tmp_path / "a.npz", **values)])


def test_no_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        encoder(f"file:{tmp_path}/none.npz")


@pytest.fixture
def server():
    """Answers with what is set, in another order than it was asked."""

    class Handler(http.server.BaseHTTPRequestHandler):
        answer = None
        asked: ClassVar[list] = []

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            Handler.asked.append((self.path, body, self.headers.get("Authorization")))
            rows = [[1.0, float(i)] for i in range(len(body["input"]))]
            data = [{"index": i, "embedding": row} for i, row in enumerate(rows)][::-1]
            content = json.dumps({"data": data}).encode() if Handler.answer is None else Handler.answer
            self.send_response(200 if Handler.answer is None else 400)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args):
            pass

    Handler.asked = []
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{found.server_port}/v1", Handler
    found.shutdown()
    thread.join()
    found.server_close()


def test_a_server(server, monkeypatch):
    url, handler = server
    monkeypatch.setenv("NPSIGLIP_COMPARE_KEY", "secret")
    found = npsiglip.compare(CIRCLE, LABELS, [f"{url}#m"])
    (scores,) = found.scores[""].values()
    assert scores.kind == "cosine"
    np.testing.assert_allclose(scores.cosine, [1.0, 0.5**0.5])
    (path, image, key), (_, texts, _) = handler.asked
    assert (path, key, image["model"], image["modality"]) == ("/v1/embeddings", "Bearer secret", "m", "image")
    assert image["input"][0].startswith("data:image/png;base64,")
    assert texts["input"] == [f"This is a photo of {label}." for label in LABELS]


def test_a_server_that_refuses_or_says_nonsense(server):
    url, handler = server
    handler.answer = b'{"error": "no such model"}'
    with pytest.raises(InputError, match=r"answered 400: .*no such model"):
        npsiglip.compare(CIRCLE, LABELS, [url])
    with pytest.raises(InputError, match="no embeddings came"):
        npsiglip.compare(CIRCLE, LABELS, ["http://127.0.0.1:9/v1"])


@pytest.mark.parametrize(("name", "library"), [("clip:x", "transformers"), ("st:x", "sentence_transformers"),
                                               ("open_clip:x", "open_clip")])  # fmt: skip
def test_a_library_that_is_missing_is_told(monkeypatch, name, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(InputError, match=rf"needs {library}, .*: pip install 'npsiglip\[compare\]'"):
        encoder(name)


def test_sentence_transformers_multilingual_clip_has_its_pictures_from_another_model(monkeypatch):
    made = []

    class SentenceTransformer:
        def __init__(self, name):
            made.append(name)

        def encode(self, inputs):
            return np.ones((len(inputs), 2))

    library = type("library", (), {"SentenceTransformer": SentenceTransformer})
    monkeypatch.setattr(adapters, "library", lambda *args: library)
    found = npsiglip.compare(CIRCLE, LABELS, ["st:clip-ViT-B-32-multilingual-v1"])
    assert made == ["clip-ViT-B-32-multilingual-v1", "clip-ViT-B-32"]
    assert next(iter(found.scores[""].values())).kind == "cosine"


@pytest.mark.skipif(not (find_spec("torch") and find_spec("transformers")), reason="transformers is not installed")
def test_clip_of_transformers(tmp_path):
    import torch
    import transformers

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    letters = "abcdefghijklmnopqrstuvwxyz."
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    vocabulary = {word: i for i, word in enumerate(words)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": len(vocabulary), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1},
        vision_config={**small, "image_size": 32, "patch_size": 16}, projection_dim=8,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    tokenizer = transformers.CLIPTokenizer(str(tmp_path / "vocab.json"), str(tmp_path / "merges.txt"))
    images = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.CLIPProcessor(images, tokenizer)
    processor.save_pretrained(tmp_path)
    model = transformers.CLIPModel.from_pretrained(tmp_path).eval()
    (scores,) = npsiglip.compare(CIRCLE, LABELS, [f"clip:{tmp_path}"]).scores[""].values()
    from PIL import Image

    inputs = processor(text=[f"This is a photo of {label}." for label in LABELS], return_tensors="pt", padding=True,
                       images=Image.open(CIRCLE).convert("RGB"))  # fmt: skip
    with torch.no_grad():
        right = model(**inputs).logits_per_image[0].numpy()
    assert scores.kind == "softmax"
    np.testing.assert_allclose(scores.logit, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("content", [b"PK nonsense", b"PK\x03\x04 nonsense", b"nonsense", b""])
def test_files_that_are_no_npz(tmp_path, content):
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match="cannot be read"):
        encoder(f"file:{tmp_path / 'a.npz'}")


def test_a_bare_array_is_no_npz(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(InputError, match="cannot be read"):
        encoder(f"file:{tmp_path / 'a.npy'}")


def test_no_redirect_is_followed_with_the_key(monkeypatch):
    seen = []

    class Elsewhere(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append((self.path, self.headers.get("Authorization")))
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            self.send_error(404)

        def log_message(self, *args):
            pass

    monkeypatch.setenv("NPSIGLIP_COMPARE_KEY", "secret")
    with http.server.HTTPServer(("127.0.0.1", 0), Elsewhere) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        try:
            with pytest.raises(InputError, match="302"):
                npsiglip.compare(CIRCLE, LABELS, [f"http://127.0.0.1:{made.server_port}/v1"])
        finally:
            made.shutdown()
            thread.join()
    assert seen == [("/v1/embeddings", "Bearer secret")]
