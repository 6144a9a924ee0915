"""`npsiglip serve`: what is told at the start, and the end."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest
import typer

from npsiglip.cli import app
from tests.helpers.command import assert_refused, invoke
from tests.helpers.golden_data import TINY
from tests.helpers.serving import server

has_server = pytest.mark.skipif(
    not all(map(find_spec, ("fastapi", "uvicorn", "prometheus_client"))), reason="the extra `serve` is not installed"
)


def post(url, body, timeout=30):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.loads(answer.read())


def test_every_option_is_a_variable_too():
    command = typer.main.get_command(app).commands["serve"]
    named = {option.name: option.envvar for option in command.params if option.name != "help"}
    assert len(named) > 20
    assert all(str(variable).startswith("NPSIGLIP_") for variable in named.values())
    assert len(set(map(str, named.values()))) == len(named)


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(invoke("serve", "--port", port), f"port {port} of 127.0.0.1 cannot be used", "--port")


def test_a_host_that_is_none():
    assert_refused(invoke("serve", "--port", 0, "--host", "256.0.0.1"), "--host 256.0.0.1 cannot be used")


@pytest.mark.parametrize(("option", "value"), [("--timeout", "nan"), ("--cache", "inf"), ("--max-megabytes", "inf")])
def test_a_limit_that_is_none(option, value):
    assert_refused(invoke("serve", "--port", 0, option, value), f"{option} must be a number, got {value}")


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_is_not_a_server_without_a_key(monkeypatch, empty):
    monkeypatch.setenv("NPSIGLIP_API_KEY", empty)
    assert_refused(invoke("serve", "--port", 0, "--timeout", 0), "NPSIGLIP_API_KEY is empty")


def test_the_extra_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "uvicorn", None)
    assert_refused(invoke("serve", "--port", 0), "pip install 'npsiglip[serve]'")


@has_server
def test_a_model_or_an_index_that_cannot_be_used(tmp_path):
    assert_refused(invoke("serve", "--port", 0, "-m", tmp_path / "none"), "none")
    assert_refused(invoke("serve", "--port", 0, "-i", tmp_path), "no index")
    assert_refused(invoke("serve", "--port", 0, "--timeout", 0), "timeout")


@has_server
def test_from_variables_to_an_orderly_end():
    """Two models and a key by variables; and a request that is in work when the end comes is answered."""
    with server(NPSIGLIP_MODEL=f"builtin tiny={TINY}", NPSIGLIP_API_KEY="secret", NPSIGLIP_WINDOW="700") as started:
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(f"{started.url}/v1/models")
        assert error.value.code == 401
        error.value.close()
        found = []

        def ask():
            request = urllib.request.Request(
                f"{started.url}/v1/embeddings", b'{"input": "a", "model": "tiny"}',
                {"Content-Type": "application/json", "Authorization": "Bearer secret"},
            )  # fmt: skip
            with urllib.request.urlopen(request, timeout=60) as answer:
                found.append(json.loads(answer.read())["model"])

        thread = threading.Thread(target=ask)
        thread.start()
        time.sleep(0.35)  # the worker waits for company
        started.process.terminate()
        thread.join(60)
        assert found == ["tiny"]
        assert started.process.wait(60) in (0, -15)
    assert "Traceback" not in "".join(started.said)
