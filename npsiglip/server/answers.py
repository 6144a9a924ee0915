"""What routes share: the engine of the server, and JSON that is made by a thread where it is much."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from fastapi import Request, Response

from npsiglip.server.engine import Engine


def engine_of(request: Request) -> Engine:
    """What computes for this server."""
    engine: Engine = request.app.state.engine
    return engine


def _encode(make: Callable[[], Any]) -> bytes:
    return json.dumps(make(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace")


async def json_response(engine: Engine, make: Callable[[], Any]) -> Response:
    """An answer whose content is made off the event loop."""
    return Response(await engine.in_pool(_encode, make), media_type="application/json")
