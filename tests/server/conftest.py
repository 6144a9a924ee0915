"""Fixtures of the server: two models, an index of drawn pictures, a client; left out without the extra `serve`."""

import base64
from importlib.util import find_spec

import pytest

import npsiglip
from tests.helpers.golden_data import ROOT, TINY

NEEDED = ("fastapi", "uvicorn", "prometheus_client")
HAS_CLIENT = find_spec("httpx2") or find_spec("httpx")  # what Starlette's client is made of
collect_ignore_glob = [] if all(map(find_spec, NEEDED)) and HAS_CLIENT else ["test_*.py"]

PICTURES = sorted((ROOT / "docs" / "images").glob("world-*.png"))


@pytest.fixture(scope="session")
def model():
    """The built-in model, as a library."""
    return npsiglip.SigLIP.from_pretrained("builtin")


@pytest.fixture(scope="session")
def index(tmp_path_factory, model):
    """Of the pictures of docs/images."""
    folder = tmp_path_factory.mktemp("index") / "index"
    npsiglip.Index.build([str(path) for path in PICTURES], folder, model).close()
    return folder


@pytest.fixture(scope="session")
def serving(index):
    """A client of a server with both models and the index, in this process."""
    from starlette.testclient import TestClient

    from npsiglip.server.app import create_app
    from npsiglip.server.settings import Settings

    settings = Settings(
        models=("builtin", f"tiny={TINY}"), index=index, allowed_hosts=("testserver",), max_labels=50, max_images=4,
        max_texts=20, max_megapixels=1.0, max_bytes=3_000_000,
    )  # fmt: skip
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture(scope="session")
def circle():
    """A picture in base64."""
    return base64.b64encode((ROOT / "docs/images/world-green-circle.png").read_bytes()).decode()


@pytest.fixture(scope="session")
def ring():
    """Another."""
    return base64.b64encode((ROOT / "docs/images/world-brown-ring.png").read_bytes()).decode()
