"""`/v1/embeddings` and `/v1/models`, as OpenAI, Infinity and vLLM have them."""

from __future__ import annotations

import base64
import time
import uuid
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from npsiglip.server.answers import engine_of, json_response
from npsiglip.server.dialects import Refused
from npsiglip.server.engine import Engine, Picture, Text
from npsiglip.server.models import Served
from npsiglip.server.pictures import is_data_uri
from npsiglip.server.shapes import (
    EmbeddingsAnswer,
    EmbeddingsInput,
    EmbeddingsMessages,
    ModelCard,
    ModelList,
    OpenAIError,
    Part,
)

ERRORS: dict[int | str, dict[str, Any]] = {"4XX": {"model": OpenAIError, "description": "One sentence."}}
router = APIRouter(tags=["OpenAI, Infinity, vLLM"])


def shortened(rows: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """The first `dimensions` numbers of rows [N, D], scaled to unit norm; all for None and 0.

    Raises:
        Refused: 400, more than there are; a row of which nothing is left.
    """
    if not dimensions or dimensions == rows.shape[1]:
        return rows
    if dimensions > rows.shape[1]:
        raise Refused(400, f"dimensions: {dimensions} is more than the model's {rows.shape[1]}", "dimensions")
    cut = rows[:, :dimensions].astype(np.float64)
    norms = np.linalg.norm(cut, axis=1, keepdims=True)
    if (norms == 0).any():
        raise Refused(400, f"dimensions: nothing is left of an embedding in {dimensions}", "dimensions")
    found: NDArray[np.float32] = (cut / norms).astype(np.float32)
    return found


def _items(body: EmbeddingsInput | EmbeddingsMessages) -> list[Picture | Text]:
    if isinstance(body, EmbeddingsInput):
        several = [body.input] if isinstance(body.input, str) else body.input
        places = ["input"] if isinstance(body.input, str) else [f"input[{i}]" for i in range(len(several))]
        found: list[Picture | Text] = []
        for value, where in zip(several, places, strict=True):
            picture = body.modality == "image" or (body.modality is None and is_data_uri(value))
            found.append(Picture(value, where) if picture else Text(value, where))
        return found
    parts: list[Picture | Text] = []
    for i, message in enumerate(body.messages):
        content = [Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content
        for j, part in enumerate(content):
            where = f"messages[{i}].content[{j}]"
            if part.type == "text" and part.text is not None:
                parts.append(Text(part.text, where))
            elif part.type == "image_url" and part.image_url is not None:
                parts.append(Picture(part.image_url.url, f"{where}.image_url.url"))
            else:
                raise Refused(400, f"{where} is of type {part.type!r} and has no {part.type!r}", where)
    if len(parts) != 1:
        raise Refused(
            400,
            f"messages hold {len(parts)} texts and pictures; expected one: SigLIP embeds each by itself",
            "messages",
        )
    return parts


async def embedded(engine: Engine, served: Served, items: list[Picture | Text]) -> NDArray[np.float32]:
    """Embeddings [N, D] of pictures and texts, in their order."""
    pictures = [item for item in items if isinstance(item, Picture)]
    texts = [item for item in items if isinstance(item, Text)]
    zimg = iter(await engine.images(served, pictures)) if pictures else iter(())
    ztxt = iter(await engine.texts(served, texts)) if texts else iter(())
    return np.stack([next(zimg if isinstance(item, Picture) else ztxt) for item in items])


def tokens_of(served: Served, pictures: int, texts: int) -> int:
    """How many tokens a model reads of so many pictures and texts, padding included."""
    image, text = served.config.image, served.config.text
    return pictures * (image.seq_len if image else 0) + texts * (text.seq_len if text else 0)


@router.post("/embeddings", include_in_schema=False)  # where Infinity has it
@router.post(
    "/v1/embeddings",
    summary="Embed texts or pictures",
    responses={200: {"model": EmbeddingsAnswer}, **ERRORS},
)
async def embeddings(request: Request, body: EmbeddingsInput | EmbeddingsMessages) -> Response:
    """Vectors of unit norm, in the order of the input; the same bits whatever else is asked at the time."""
    engine = engine_of(request)
    served = engine.models.find(body.model)
    items = _items(body)
    rows = shortened(await embedded(engine, served, items), body.dimensions)
    pictures = sum(isinstance(item, Picture) for item in items)
    tokens = tokens_of(served, pictures, len(items) - pictures)

    def answer() -> Any:
        vectors: list[Any] = (
            [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in rows]
            if body.encoding_format == "base64"
            else rows.tolist()
        )
        return {
            "object": "list",
            "data": [{"object": "embedding", "index": i, "embedding": each} for i, each in enumerate(vectors)],
            "model": served.id,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
            "id": f"embd-{uuid.uuid4().hex}",
            "created": int(time.time()),
        }

    return await json_response(engine, answer)


def _card(served: Served, started: int) -> ModelCard:
    modalities = [name for name, tower in (("text", served.config.text), ("image", served.config.image)) if tower]
    return ModelCard(
        id=served.id,
        object="model",
        created=started,
        owned_by="npsiglip",
        modalities=modalities,
        dimensions=served.width,
        loaded=served.model is not None,
    )


@router.get("/models", include_in_schema=False)
@router.get("/v1/models", summary="The models of this server", responses={200: {"model": ModelList}, **ERRORS})
async def models(request: Request) -> ModelList:
    """The first is the default."""
    engine = engine_of(request)
    cards = [_card(each, request.app.state.started) for each in engine.models.by_id.values()]
    return ModelList(object="list", data=cards)


@router.get("/v1/models/{model:path}", summary="One model", responses={200: {"model": ModelCard}, **ERRORS})
async def model(request: Request, model: str) -> ModelCard:
    """By its id."""
    return _card(engine_of(request).models.find(model), request.app.state.started)
