"""What stands before every route: keys, hosts, sizes, times, headers; and what a server counts.

Covers server/app.py, server/settings.py and server/metrics.py as well.
"""

import asyncio
import json
import threading
from dataclasses import replace

import pytest
from starlette.testclient import TestClient

from npsiglip.errors import InputError
from npsiglip.server.app import create_app
from npsiglip.server.limits import Guard
from npsiglip.server.metrics import Metrics
from npsiglip.server.settings import Settings

OURS = Settings(allowed_hosts=("testserver",))


@pytest.fixture(scope="module")
def locked():
    with TestClient(create_app(replace(OURS, api_keys=("secret-1", "sécret-2")))) as client:
        yield client


def test_a_key_is_needed_but_for_the_state_and_the_page(locked):
    for path in ("/health", "/ready", "/", "/docs", "/openapi.json"):
        assert locked.get(path).status_code == 200, path
    for path in ("/v1/models", "/metrics", "/v1/index", "/nothing"):
        answer = locked.get(path)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "API key is needed" in locked.get("/v1/models").json()["error"]["message"]
    assert locked.get("/v1/models").json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("given", ["Bearer secret", "Bearer secret-11", "Bearer ", "Basic secret-1", "bearer SECRET-1"])
def test_a_wrong_key(locked, given):
    assert locked.get("/v1/models", headers={"Authorization": given}).status_code == 401


def test_right_keys(locked):
    for headers in (
        {"Authorization": "Bearer secret-1"},
        {"Authorization": "bearer secret-1"},
        {"X-API-Key": "secret-1"},
    ):
        assert locked.get("/v1/models", headers=headers).status_code == 200


def test_all_keys_are_compared_whatever_the_first_said(locked, monkeypatch):
    from npsiglip.server import limits

    seen = []
    real = limits.hmac.compare_digest
    monkeypatch.setattr(limits.hmac, "compare_digest", lambda a, b: seen.append(1) or real(a, b))
    locked.get("/v1/models", headers={"Authorization": "Bearer secret-1"})
    assert len(seen) == 2


def test_a_strange_host_is_refused(serving):
    """A page whose name points to this server from one moment to the next."""
    for host in ("evil.com", "testserver.evil.com", "", "[::2]"):
        assert serving.get("/v1/models", headers={"Host": host}).status_code == 421
    for host in ("localhost:7997", "127.0.0.1", "[::1]:80", "TESTSERVER"):
        assert serving.get("/v1/models", headers={"Host": host}).status_code == 200
    assert Settings(host="0.0.0.0").known_hosts is None


def test_headers_of_every_answer(serving):
    for path in ("/v1/models", "/nothing", "/", "/page/icon.svg"):
        headers = serving.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["content-security-policy"].startswith("default-src 'none'")
        assert "unsafe" not in headers["content-security-policy"]
    assert serving.get("/v1/models").headers["cache-control"] == "no-store"


def test_bytes(serving):
    body = b'{"input": "' + b"a" * 3_000_000 + b'"}'
    headers = {"content-type": "application/json"}
    answer = serving.post("/v1/embeddings", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "invalid_request_error")
    answer = serving.post("/v1/embeddings", content=iter([body[:9], body[9:]]), headers=headers)  # no length is told
    assert answer.status_code == 413


def run_guard(app, messages, settings=OURS, path="/v1/embeddings"):
    """What a guard sends, for a client that sends these messages; a number is a pause, and at the end it waits."""
    sent, left = [], list(messages)

    async def receive():
        while left and isinstance(left[0], float):
            await asyncio.sleep(left.pop(0))
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    async def send(message):
        sent.append(message)

    metrics = Metrics()
    guard = Guard(app, settings, metrics)
    scope = {"type": "http", "method": "POST", "path": path,
             "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")]}  # fmt: skip
    asyncio.run(guard(scope, receive, send))
    assert (guard.open, guard.held) == (0, 0)
    body = b"".join(message.get("body", b"") for message in sent)
    return (sent[0]["status"] if sent else None), (json.loads(body) if body else None), metrics


def part(body=b"", more=False):
    return {"type": "http.request", "body": body, "more_body": more}


async def answers(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def test_a_slow_client_is_not_waited_for():
    status, body, _ = run_guard(answers, [part(b"{", True), 5.0], replace(OURS, body_timeout=0.1))
    assert status == 408
    assert "did not come within 0.1 s" in body["error"]["message"]


def test_an_answer_that_takes_too_long():
    async def slow(scope, receive, send):
        await asyncio.sleep(5)

    status, body, _ = run_guard(slow, [part(b"{}")], replace(OURS, timeout=0.1))
    assert (status, body["error"]["code"]) == (408, "timeout")


def test_a_client_that_goes_away_cancels_its_request():
    seen = []

    async def waits(scope, receive, send):
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    status, _, metrics = run_guard(waits, [part(b"{}"), 0.05, {"type": "http.disconnect"}])
    assert (status, seen) == (None, ["cancelled"])
    assert b"npsiglip_cancelled_total 1.0" in metrics.text()
    assert run_guard(waits, [part(b"{", True), {"type": "http.disconnect"}])[0] is None


def test_a_mistake_of_the_server_tells_nothing():
    async def broken(scope, receive, send):
        raise RuntimeError("/secret/path")

    status, body, _ = run_guard(broken, [part(b"{}")])
    assert status == 500
    assert "secret" not in json.dumps(body)


def test_a_full_queue_is_429_with_retry_after(circle):
    with TestClient(create_app(replace(OURS, queue=1))) as client:
        engine = client.app.state.engine
        gate = threading.Event()
        original = engine.worker.admitted

        def held(rows):
            gate.set()
            return original(rows)

        engine.worker.taken = 1  # a request is in work
        answer = client.post("/v1/embeddings", json={"input": "a"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "queue_full")
        assert int(answer.headers["retry-after"]) >= 1
        engine.worker.taken = 0
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200


def test_too_many_open_requests(serving):
    guard = Guard(answers, replace(OURS, requests=1), Metrics())
    guard.open = 1
    sent = []

    async def send(message):
        sent.append(message)

    async def main():
        scope = {"type": "http", "method": "GET", "path": "/v1/models", "headers": [(b"host", b"localhost")]}
        await guard(scope, None, send)

    asyncio.run(main())
    assert sent[0]["status"] == 429
    assert (b"retry-after", b"1") in sent[0]["headers"]


def test_metrics_count(serving):
    serving.post("/v1/embeddings", json={"input": "counted", "model": "tiny"})
    serving.post("/v1/embeddings", json={"input": "counted"})
    serving.post("/v1/embeddings", json={"input": "counted"})
    text = serving.get("/metrics").text
    assert 'npsiglip_requests_total{route="/v1/embeddings",status="200"}' in text
    for name in (
        "npsiglip_batch_size_count",
        "npsiglip_cache_total",
        "npsiglip_models_loaded 2.0",
        "npsiglip_queue_rows",
    ):
        assert name in text


@pytest.mark.parametrize(
    "change", [{"queue": 0}, {"timeout": 0}, {"max_bytes": -1}, {"api_keys": (" ",)}, {"idle": -1}]
)
def test_settings_that_cannot_be(change):
    with pytest.raises(InputError):
        Settings(**change)
