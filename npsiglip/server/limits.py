"""What stands before every route: sizes, times, keys, the Host header, clients that go away, headers of answers."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from npsiglip.server.dialects import Refused, error_body
from npsiglip.server.metrics import Metrics
from npsiglip.server.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("npsiglip.server")
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
}
FOR_DATA = "default-src 'none'; frame-ancestors 'none'"
FOR_PAGES = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
OPEN = ("/health", "/ready", "/", "/docs", "/openapi.json", "/favicon.ico")  # of no secrets: liveness, the page's files
BODIES = 8  # of the largest size are held at once


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


class Guard:
    """An ASGI application around another.

    Args:
        app: what answers.
        settings: the limits.
        metrics: where requests are counted.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self.app, self.settings, self.metrics = app, settings, metrics
        self.open = self.held = 0
        self._keys = [_digest(key) for key in settings.api_keys]
        metrics.watch("requests_open", "Requests that are open.", lambda: self.open)
        metrics.watch("body_bytes", "Bytes of requests that are held.", lambda: self.held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        self.open += 1
        size = [0]
        start = time.perf_counter()
        try:
            self._check(scope)
            body = await self._body(scope, receive, size)
            start = time.perf_counter()
            await self._run(scope, body, receive, answer)
        except Refused as refused:
            await answer.refuse(refused)
        except _Gone:
            self.metrics.cancelled.inc()
        finally:
            self.open -= 1
            self.held -= size[0]
            route = getattr(scope.get("route"), "path", "none")
            self.metrics.requests.labels(route, str(answer.status or "gone")).inc()
            if answer.status == 200:
                self.metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _check(self, scope: Scope) -> None:
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        known = self.settings.known_hosts
        host = headers.get("host", "").lower()
        name = host[1 : host.find("]")] if host.startswith("[") else host.partition(":")[0]
        if known is not None and name not in known:
            raise Refused(421, "the Host header names another server than this one; allow the name with --allowed-host")
        path = scope["path"]
        if self._keys and path not in OPEN and not path.startswith("/page/"):
            given = headers.get("authorization", "")
            given = given[7:] if given[:7].lower() == "bearer " else headers.get("x-api-key", "")
            digest, right = _digest(given.strip()), False
            for key in self._keys:  # all of them, so that the time says nothing
                right |= hmac.compare_digest(digest, key)
            if not right:
                what = "the API key is wrong" if given else "an API key is needed, as `Authorization: Bearer KEY`"
                raise Refused(401, what, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})
        if self.open > self.settings.requests and path not in ("/health", "/ready", "/metrics"):
            raise Refused(
                429,
                f"{self.settings.requests} requests are open already; try again in 1 s",
                code="too_many_requests",
                headers={"Retry-After": "1"},
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.settings.max_bytes:
            raise self._too_large()
        has_body = length not in ("", "0") or "transfer-encoding" in headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if scope["method"] == "POST" and has_body and kind != "application/json":
            raise Refused(415, "the request's content type must be application/json")

    def _too_large(self) -> Refused:
        return Refused(413, f"the request has more than the {self.settings.max_bytes} bytes that are taken")

    async def _body(self, scope: Scope, receive: Receive, size: list[int]) -> bytes:
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self.settings.body_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    part = message.get("body", b"")
                    parts.append(part)
                    size[0] += len(part)
                    self.held += len(part)
                    if size[0] > self.settings.max_bytes:
                        raise self._too_large()
                    if self.held > BODIES * self.settings.max_bytes:
                        raise Refused(
                            429, "too many large requests are open; try again in 1 s", headers={"Retry-After": "1"}
                        )
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Refused(
                408,
                f"the request did not come within {self.settings.body_timeout:g} s",
                headers={"Connection": "close"},
            ) from None

    async def _run(self, scope: Scope, body: bytes, receive: Receive, answer: _Answer) -> None:
        """The application, until it is done, the time is over or the client is gone."""
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # the client is watched here
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        running = asyncio.ensure_future(self.app(scope, replay, answer))
        watching = asyncio.ensure_future(watch())
        try:
            done, _ = await asyncio.wait(
                (running, watching), timeout=self.settings.timeout, return_when=asyncio.FIRST_COMPLETED
            )
            if running in done:
                if error := running.exception():
                    raise error
            elif not done:
                raise Refused(
                    408, f"the answer was not ready within {self.settings.timeout:g} s; ask for less at once",
                    code="timeout",
                )  # fmt: skip
            elif not answer.status:
                raise _Gone
            else:
                await asyncio.wait((running,))
        except (Refused, _Gone):
            raise
        except Exception as error:
            log.error("a request failed: %s", type(error).__name__, exc_info=error)
            raise Refused(500, "the server made a mistake, which its log has") from None
        finally:
            for task in (running, watching):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await task


class _Gone(Exception):
    """The client went away."""


class _Answer:
    """Sends, adds headers, and knows the status."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self.send, self.status = scope, send, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [(name.lower(), value) for name, value in message.get("headers", [])]
            had = {name for name, _ in headers}
            page = any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers)
            for name, value in (
                *ALWAYS.items(),
                ("content-security-policy", FOR_PAGES if page else FOR_DATA),
                ("cache-control", "no-store"),
            ):
                if name.encode() not in had:
                    headers.append((name.encode(), value.encode()))
            message = {**message, "headers": headers}
        await self.send(message)

    async def refuse(self, refused: Refused) -> None:
        """Answer with an error, unless an answer has begun."""
        if self.status:
            return
        body = error_body(self.scope["path"], refused.status, refused.message, refused.where, refused.code)
        content = json.dumps(body).encode()
        headers = {"content-type": "application/json", "content-length": str(len(content)), **refused.headers}
        await self(
            {
                "type": "http.response.start",
                "status": refused.status,
                "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
            }
        )
        await self({"type": "http.response.body", "body": content})
