"""docs/server.md against a running server: curl, `openai`, `huggingface_hub` and JavaScript say what the page says.

And Infinity's own clients, and requests with every field that they know; and every request that OpenAPI allows, and
many that it does not.
"""

import base64
import contextlib
import io
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from tests.docs.markdown import DOCS, fenced_blocks
from tests.helpers.golden_data import ROOT, TINY
from tests.helpers.serving import server

PAGE = DOCS / "server.md"
BLOCKS = fenced_blocks(PAGE)
PORT = "http://127.0.0.1:7997"
CIRCLE = ROOT / "docs/images/world-green-circle.png"


@pytest.fixture(scope="module")
def address(index):
    with server("--index", index) as started:
        yield started.url


def of(language, address):
    """The blocks of a language for this server, each with the block behind it."""
    for i, block in enumerate(BLOCKS):
        if block.language == language:
            following = BLOCKS[i + 1] if i + 1 < len(BLOCKS) else None
            yield block.text.replace(PORT, address), following


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT).stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_curl(address, model):
    said = [(json.loads(run("bash", "-c", text)), following) for text, following in of("sh", address)]
    rows = np.array([each["embedding"] for each in said[0][0]["data"]], np.float32)
    np.testing.assert_array_equal(rows, model.encode_text(["a green circle", "two red rings"]))
    assert said[1][0] == model.classify(CIRCLE, ["a green circle", "a red circle"])[0]
    shown = json.loads(said[1][1].text)
    assert [each["label"] for each in shown] == [each["label"] for each in said[1][0]]
    assert [each["score"] for each in shown] == pytest.approx([each["score"] for each in said[1][0]], rel=0.02)
    assert said[2][0]["data"][0]["name"] == "world-green-circle.png"


@pytest.mark.skipif(not (find_spec("openai") and find_spec("huggingface_hub")), reason="a client is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_python_clients(address):
    namespace, several = {}, list(of("py", address))
    assert len(several) == 3
    for text, following in several:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.chdir(ROOT):
            exec(text, namespace)
        assert printed.getvalue() == following.text


@pytest.mark.skipif(not find_spec("openai"), reason="openai is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_openai_s_own_errors(address, model):
    import openai

    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        with pytest.raises(openai.NotFoundError, match="there is no model 'gpt'"):
            client.embeddings.create(model="gpt", input="a")
        with pytest.raises(openai.BadRequestError, match="input is empty"):
            client.embeddings.create(model="builtin", input=[])
        found = client.embeddings.create(model="builtin", input="a ring", encoding_format="float").data[0].embedding
        np.testing.assert_array_equal(np.array(found, np.float32), model.encode_text("a ring")[0])
        assert [each.id for each in client.models.list()] == ["builtin"]


@pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")
def test_javascript(address, tmp_path):
    ((text, following),) = of("js", address)
    (tmp_path / "example.mjs").write_text(text)
    assert run("node", str(tmp_path / "example.mjs")) == following.text


def test_what_infinity_s_client_sends(serving, circle):
    """Every field that infinity_client knows, those that have a default included."""
    recorded = {
        "input": [f"data:image/png;base64,{circle}"], "model": "builtin", "encoding_format": "base64", "user": None,
        "dimensions": 0, "modality": "image",
    }  # fmt: skip
    answer = serving.post("/v1/embeddings", json=recorded).json()
    assert set(answer) == {"object", "data", "model", "usage", "id", "created"}
    assert set(answer["data"][0]) == {"object", "embedding", "index"}
    assert set(answer["usage"]) == {"prompt_tokens", "total_tokens"}
    texts = {"input": ["a"], "model": "builtin", "encoding_format": "float", "user": None, "dimensions": 0,
             "modality": "text"}  # fmt: skip
    assert serving.post("/v1/embeddings", json=texts).status_code == 200


@pytest.mark.skipif(not find_spec("infinity_client"), reason="infinity_client is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_infinity_s_clients(address, model):
    """The one made from its OpenAPI document, and the one for pictures; not its list of models.

    That client takes no answer but one with `"owned_by": "infinity"`.
    """
    from infinity_client import Client
    from infinity_client.api.default import embeddings, health
    from infinity_client.models import OpenAIEmbeddingInputImage, OpenAIEmbeddingInputText
    from infinity_client.vision_client import InfinityVisionAPI
    from PIL import Image

    client = Client(base_url=address, raise_on_unexpected_status=True)
    assert health.sync(client=client)["status"] == "ok"
    texts = ["a green circle", "two red rings"]
    found = embeddings.sync(client=client, body=OpenAIEmbeddingInputText(input_=texts))  # names no model
    np.testing.assert_array_equal(np.array([row.embedding for row in found.data], np.float32), model.encode_text(texts))
    uri = f"data:image/png;base64,{base64.b64encode(CIRCLE.read_bytes()).decode()}"
    found = embeddings.sync(client=client, body=OpenAIEmbeddingInputImage(input_=[uri], model="builtin"))
    np.testing.assert_array_equal(np.array(found.data[0].embedding, np.float32), model.encode_image(CIRCLE)[0])

    pictures = InfinityVisionAPI(address, model="builtin")
    grey = Image.new("RGB", (32, 32), (128, 128, 128))  # it sends JPEG, which leaves this as it is
    ((row,), _) = pictures.image_embed("builtin", [grey]).result()
    np.testing.assert_array_equal(row, model.encode_image([grey]))
    (rows, _) = pictures.embed("builtin", texts).result()
    np.testing.assert_array_equal(np.concatenate(rows), model.encode_text(texts))
    pictures.tp.shutdown()
    pictures.session.close()


CONFIGURATION = """
[parameters]
model = "builtin"

[generation]
max-examples = {examples}
deterministic = true
database = "none"

[checks.positive_data_acceptance]
# a picture in base64 and a model's name are texts, and most texts are neither
expected-statuses = ["2xx", "400", "404", "413"]

[checks.negative_data_rejection]
enabled = true
"""


@pytest.mark.slow
@pytest.mark.skipif(not find_spec("schemathesis"), reason="schemathesis is not installed")
def test_requests_made_from_the_openapi_document(index, tmp_path, examples=60):
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION.format(examples=examples))
    with server("--index", index, "-m", "builtin", "-m", f"tiny={TINY}", "--truncate") as started:
        command = [
            "-c",
            "from schemathesis.cli import schemathesis; schemathesis()",
            "run",
            f"{started.url}/openapi.json",
        ]
        found = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, timeout=900)
        assert found.returncode == 0, found.stdout[-6000:] + found.stderr[-2000:]
        assert "No issues found" in found.stdout or "passed" in found.stdout
