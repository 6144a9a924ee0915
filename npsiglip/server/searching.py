"""Search in the index of the server: words, a picture, both; neighbours; thumbnails."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from npsiglip.errors import InputError
from npsiglip.server.answers import engine_of, json_response
from npsiglip.server.classification import PLAIN
from npsiglip.server.dialects import Refused
from npsiglip.server.engine import Picture, Text
from npsiglip.server.search import SIDES, Collection, small, texts_of
from npsiglip.server.shapes import IndexCard, Number, SearchAnswer, SearchImage, SearchText, Similar

router = APIRouter(tags=["search"])


def _collection(request: Request) -> Collection:
    found: Collection | None = request.app.state.collection
    if found is None:
        raise Refused(404, "this server has no index; start it with --index")
    return found


@router.get("/v1/index", summary="What can be searched", responses={200: {"model": IndexCard}, **PLAIN})
async def index(request: Request) -> IndexCard:
    """The kind of its items, and how many they are."""
    found = _collection(request)
    return IndexCard(
        kind=found.kind,
        count=found.count,
        model=request.app.state.index_model.id,
        calibrated=found.calibration is not None and found.calibration.how != "the model",
    )


@router.post(
    "/v1/search", summary="Find what is like words or a picture", responses={200: {"model": SearchAnswer}, **PLAIN}
)
async def search(request: Request, body: SearchText | SearchImage) -> Response:
    """The best first. Probabilities are those of words with pictures, and of pictures with texts."""
    engine, found = engine_of(request), _collection(request)
    served = request.app.state.index_model
    words, ztxt, zimg = None, None, None
    if isinstance(body, SearchText):
        words = texts_of(body.query, body.template)
        ztxt = (await engine.texts(served, [Text(words, "query")]))[0]
    if body.image is not None:
        zimg = (await engine.images(served, [Picture(body.image, "image")]))[0]

    def run() -> Any:
        try:
            vector, query = found.query(words, ztxt, zimg, (body.text_weight, body.image_weight))
        except InputError as error:
            raise Refused(400, str(error)) from None
        return found.search(vector, body.k, query)

    with engine.worker.admitted(1):
        hits = await engine.worker.call(run)
    return await json_response(engine, lambda: {"object": "list", "kind": found.kind, "data": hits})


@router.post("/v1/similar", summary="More like an item", responses={200: {"model": SearchAnswer}, **PLAIN})
async def similar(request: Request, body: Similar) -> Response:
    """Its nearest neighbours, without itself."""
    engine, found = engine_of(request), _collection(request)
    with engine.worker.admitted(1):
        hits = await engine.worker.call(lambda: found.similar(body.id, body.k))
    return await json_response(engine, lambda: {"object": "list", "kind": found.kind, "data": hits})


@router.get(
    "/v1/thumbnails/{id}",
    summary="A small picture of an item",
    response_class=Response,
    responses={200: {"content": {"image/jpeg": {}}}, **PLAIN},
)
async def thumbnail(
    request: Request,
    id: Annotated[Number, Path()],
    side: Annotated[int, Query(ge=1, le=1024, description="Of pixels; 112, 224 and 448 are made.")] = 224,
) -> Response:
    """JPEG."""
    engine, found = engine_of(request), _collection(request)
    fitting = next((each for each in SIDES if each >= side), SIDES[-1])
    key = ("thumbnail", id, fitting)
    content = engine.cache.get(key)
    if content is None:
        with engine.worker.admitted(1):
            place = await engine.worker.call(lambda: found.key(id))
            content = await engine.in_pool(small, place, fitting)
        engine.cache.put(key, content, len(content))
    return Response(content, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=3600"})
