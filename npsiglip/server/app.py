"""The application: its models and index, looked at before it starts; its routes; its page.

`prepare` refuses what cannot be served, so that a mistake is told at the start and not by the first request.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import warnings
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from starlette.exceptions import HTTPException

from npsiglip import __version__
from npsiglip.errors import NpsiglipError
from npsiglip.hub.resolve import BUILTIN
from npsiglip.interrupts import deferred
from npsiglip.server import classification, embeddings, searching
from npsiglip.server.batching import Worker
from npsiglip.server.dialects import Refused, error_body, sentence_of
from npsiglip.server.engine import Engine
from npsiglip.server.limits import Guard
from npsiglip.server.metrics import Metrics
from npsiglip.server.models import Models, Served, open_model, parse_names
from npsiglip.server.search import Collection
from npsiglip.server.settings import Settings

log = logging.getLogger("npsiglip.server")
PAGE = Path(__file__).with_name("page")
FILES = {path.name: path for path in sorted(PAGE.iterdir()) if path.suffix in (".html", ".css", ".js", ".svg")}
KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Prepared:
    """What a server has: models that can be loaded, the first of them loaded; the index open.

    Args:
        settings: what it is told.

    Raises:
        CheckpointError: a model that cannot be used.
        InputError: two models of one id; an index that is none, or is of another model.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        known = None
        if settings.index is not None:
            from npsiglip.collection.store import Store

            with contextlib.closing(Store.open(settings.index)) as store:
                known = store.manifest
        names = parse_names(settings.models or ((known.model if known else BUILTIN),))
        served: list[Served] = []
        for key, name in names.items():
            of_index = known is not None and (name == known.model or len(names) == 1)
            told = _loading(known) if of_index else {}
            dtype = settings.dtype or (known.dtype if of_index and known else None)
            served.append(open_model(key, name, dtype, settings.threads, told))
        self.worker = Worker(settings.window, settings.queue, self._count)
        self.collection: Collection | None = None
        try:
            self.models = Models(
                served, self.worker, settings.max_loaded, lambda key: self.metrics.loads.labels(key).inc()
            )
            self.index_model = self._of_index(known, served)
            with ThreadPoolExecutor(1) as other:  # a thread of its own: this one may have a loop that runs
                other.submit(lambda: asyncio.run(self._start())).result()
        except BaseException:
            self.worker.close()
            raise
        self.engine = Engine(settings, self.models, self.worker, self.metrics)

    def _count(self, kind: str, rows: int, seconds: float) -> None:
        self.metrics.kernels.inc(seconds)
        if kind != "call":
            self.metrics.batches.labels(kind).observe(rows)

    @staticmethod
    def _of_index(known: Any, served: list[Served]) -> Served:
        return next((each for each in served if known is not None and each.name == known.model), served[0])

    async def _start(self) -> None:
        """Load the default model, and the index with its own."""
        await self.models.loaded(self.models.default)
        if self.settings.index is None:
            return
        folder, threads = self.settings.index, self.settings.threads
        model = await self.models.loaded(self.index_model)
        self.index_model.pinned = True
        self.collection = await self.worker.call(lambda: Collection(folder, model, threads))

    def close(self) -> None:
        """Finish what is in work."""
        self.engine.close()


def _loading(known: Any) -> dict[str, Any]:
    """What the model of an index has to be told."""
    from npsiglip.collection.index import loading

    return loading(known)


def create_app(settings: Settings | None = None) -> FastAPI:
    """A server as an ASGI application, for `npsiglip serve` and others that run one. One process has one worker.

    Raises:
        NpsiglipError: see `Prepared`.
    """
    with deferred():
        from PIL import Image
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what is too large is refused
    prepared = Prepared(settings or Settings())

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_unload(prepared))
        app.state.ready = True
        try:
            yield
        finally:
            app.state.ready = False
            task.cancel()
            await asyncio.get_running_loop().run_in_executor(None, prepared.close)

    app = FastAPI(
        title="npsiglip",
        version=__version__,
        summary="SigLIP on a CPU: embeddings, zero-shot classification and search.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.engine, app.state.collection = prepared.engine, prepared.collection
    app.state.index_model, app.state.prepared = prepared.index_model, prepared
    app.state.started, app.state.ready = int(time.time()), False
    app.include_router(embeddings.router)
    app.include_router(classification.router)
    app.include_router(searching.router)
    _add_state(app, prepared)
    _add_page(app)
    _add_errors(app)
    app.add_middleware(Guard, settings=prepared.settings, metrics=prepared.metrics)
    return app


async def _unload(prepared: Prepared) -> None:
    seconds = prepared.settings.idle
    while seconds:
        await asyncio.sleep(min(seconds / 4, 30))
        prepared.models.unload_idle(seconds)


def _add_state(app: FastAPI, prepared: Prepared) -> None:
    @app.get("/health", tags=["state"], summary="Whether the process answers")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get(
        "/ready",
        tags=["state"],
        summary="Whether requests can be sent",
        responses={503: {"description": "Not yet, or not any more."}},
    )
    async def ready(request: Request) -> JSONResponse:
        good = bool(request.app.state.ready)
        return JSONResponse({"status": "ready" if good else "stopping"}, 200 if good else 503)

    @app.get("/metrics", tags=["state"], summary="For Prometheus", response_class=Response,
             responses={200: {"content": {"text/plain": {}}}})  # fmt: skip
    async def metrics() -> Response:
        return Response(prepared.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def _add_page(app: FastAPI) -> None:
    def send(name: str) -> FileResponse:
        path = FILES[name]
        return FileResponse(path, media_type=KINDS[path.suffix], headers={"Cache-Control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return send("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> FileResponse:
        return send("docs.html")

    @app.get("/favicon.ico", include_in_schema=False)
    async def icon() -> FileResponse:
        return send("icon.svg")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> FileResponse:
        if name not in FILES:
            raise Refused(404, "there is no such file")
        return send(name)


def _add_errors(app: FastAPI) -> None:
    def answer(request: Request, status: int, message: str, where: str | None = None, code: str | None = None,
               headers: dict[str, str] | None = None) -> JSONResponse:  # fmt: skip
        message = message.encode("utf-8", "replace").decode()  # half a surrogate pair of the request cannot be sent
        where = where.encode("utf-8", "replace").decode() if where else where
        return JSONResponse(error_body(request.url.path, status, message, where, code), status, headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(request, error.status, error.message, error.where, error.code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        message, where = sentence_of(error.errors())
        return answer(request, 400, message, where)

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> JSONResponse:
        path = request.url.path[:100]
        said = {404: f"there is nothing at {path}", 405: f"{path} does not take {request.method}"}
        headers = dict(error.headers or {})
        return answer(request, error.status_code, said.get(error.status_code, str(error.detail)), None, None, headers)

    @app.exception_handler(NpsiglipError)
    async def unusable(request: Request, error: NpsiglipError) -> JSONResponse:
        log.error("a request could not be answered: %s", error)  # which may name folders of this machine
        return answer(request, 409, "what this server has cannot answer that; its log says why")
