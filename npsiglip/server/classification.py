"""Zero-shot classification: Hugging Face's task, several pictures and labels, embeddings; and models compared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request, Response
from numpy.typing import NDArray

from npsiglip.comparison.compare import Comparison, filled_sets, scores_of
from npsiglip.comparison.scores import Scores
from npsiglip.errors import InputError
from npsiglip.server.answers import engine_of, json_response
from npsiglip.server.dialects import Refused
from npsiglip.server.embeddings import tokens_of
from npsiglip.server.engine import Engine, Picture, Text
from npsiglip.server.models import Served
from npsiglip.server.shapes import (
    Classify,
    ClassifyAnswer,
    ClassifyEmbeddings,
    Compare,
    Plain,
    Score,
    Task,
    TaskError,
)
from npsiglip.zero_shot import fill_template, rank

PLAIN: dict[int | str, dict[str, Any]] = {"4XX": {"model": Plain, "description": "One sentence."}}
TASK: dict[int | str, dict[str, Any]] = {"4XX": {"model": TaskError, "description": "One sentence."}}
router = APIRouter(tags=["classification"])


async def _labels(
    engine: Engine, served: Served, labels: Sequence[str], template: str, where: str
) -> NDArray[np.float32]:
    """Embeddings [K, D] of labels in a template."""
    most = engine.settings.max_labels
    if len(labels) > most:
        raise Refused(400, f"{where}: {len(labels)} labels are more than the {most} that a request may have", where)
    try:
        texts = fill_template(labels, template)
    except InputError as error:
        raise Refused(400, f"{where}: {error}", where) from None  # Hugging Face's name of the template is another
    return await engine.texts(served, [Text(text, f"{where}[{i}]") for i, text in enumerate(texts)])


def _check_towers(served: Served) -> None:
    if not (served.config.image and served.config.text):
        raise Refused(400, f"model: {served.id!r} is a single tower, and classifies nothing", "model")


async def _task(request: Request, name: str | None, body: Task) -> Response:
    engine = engine_of(request)
    served = engine.models.find(name)
    _check_towers(served)
    parameters = body.parameters
    ztxt = await _labels(
        engine, served, parameters.candidate_labels, parameters.hypothesis_template, "parameters.candidate_labels"
    )
    zimg = await engine.images(served, [Picture(body.inputs, "inputs")])
    probs = (await engine.compare(served, zimg, ztxt)).probs[0]
    return await json_response(engine, lambda: rank(parameters.candidate_labels, probs))


@router.post(
    "/zero-shot-image-classification",
    summary="Hugging Face's task, by the default model",
    responses={200: {"model": list[Score]}, **TASK},
)
async def zero_shot(request: Request, body: Task) -> Response:
    """Labels with their probabilities, the largest first. They do not add up to one."""
    return await _task(request, None, body)


@router.post(
    "/hf/{model:path}",
    summary="Hugging Face's task, by a model",
    responses={200: {"model": list[Score]}, **TASK},
)
async def zero_shot_of(request: Request, model: str, body: Task) -> Response:
    """As `/zero-shot-image-classification`."""
    return await _task(request, model, body)


async def _classified(
    engine: Engine, served: Served, zimg: NDArray[np.float32], labels: list[str], template: str, pictures: int
) -> Response:
    ztxt = await _labels(engine, served, labels, template, "labels")
    probs = (await engine.compare(served, zimg, ztxt)).probs
    tokens = tokens_of(served, pictures, len(labels))

    def answer() -> Any:
        ranked = [rank(labels, row) for row in probs]
        return {
            "model": served.id,
            "data": [
                {
                    "object": "classification",
                    "index": i,
                    "prediction": scores[0]["label"],
                    "score": scores[0]["score"],
                    "predictions": scores,
                }
                for i, scores in enumerate(ranked)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    return await json_response(engine, answer)


@router.post("/v1/classify", summary="Classify several pictures", responses={200: {"model": ClassifyAnswer}, **PLAIN})
async def classify(request: Request, body: Classify) -> Response:
    """Each picture with all labels. A score is the probability of its label alone: scores do not add up to one."""
    engine = engine_of(request)
    served = engine.models.find(body.model)
    _check_towers(served)
    pictures = [Picture(item.image, f"input[{i}].image") for i, item in enumerate(body.input)]
    zimg = await engine.images(served, pictures)
    return await _classified(engine, served, zimg, body.labels, body.template, len(pictures))


@router.post(
    "/v1/classify_from_embeddings",
    summary="Classify pictures that were embedded before",
    responses={200: {"model": ClassifyAnswer}, **PLAIN},
)
async def classify_from_embeddings(request: Request, body: ClassifyEmbeddings) -> Response:
    """As `/v1/classify`, with what `/v1/embeddings` gave for the pictures."""
    engine = engine_of(request)
    served = engine.models.find(body.model)
    _check_towers(served)
    rows, labels, limits = len(body.embeddings), len(body.labels), engine.settings
    if rows > limits.max_texts:
        raise Refused(400, f"embeddings: {rows} are more than the {limits.max_texts} of a request", "embeddings")
    if rows * labels > limits.max_images * limits.max_labels:  # each is a score of the answer
        raise Refused(400, f"embeddings: {rows} with {labels} labels are too much to answer; send fewer", "embeddings")
    for i, row in enumerate(body.embeddings):
        where = f"embeddings[{i}]"
        if len(row) != served.width:
            raise Refused(400, f"{where} has {len(row)} numbers; expected the model's {served.width}", where)
        norm = float(np.linalg.norm(np.asarray(row, np.float64)))
        if not abs(norm - 1) <= 1e-3:
            raise Refused(400, f"{where} has the norm {norm:.4g}; expected 1, as /v1/embeddings gives it", where)
    zimg = np.asarray(body.embeddings, np.float32)
    return await _classified(engine, served, zimg, body.labels, body.template, 0)


@router.post("/v1/compare", summary="Several models side by side", responses={200: {}, **PLAIN})
async def compare(request: Request, body: Compare) -> Response:
    """One picture and one list of labels, or one in several languages, in the same template for every model."""
    engine = engine_of(request)
    named = body.models if body.models is not None else list(engine.models.by_id)
    several = list({served.id: served for served in map(engine.models.find, named)}.values())
    try:
        sets = filled_sets(body.labels, body.template)
    except InputError as error:
        raise Refused(400, f"labels: {error}", "labels") from None
    found: dict[str, dict[str, Scores]] = {name: {} for name in sets}
    if sum(len(labels) for labels, _ in sets.values()) > engine.settings.max_labels:
        raise Refused(400, f"labels: more than the {engine.settings.max_labels} that a request may have", "labels")
    for served in several:
        _check_towers(served)
        zimg = await engine.images(served, [Picture(body.image, "image")])
        for name, (labels, texts) in sets.items():
            where = f"labels.{name}" if name else "labels"
            ztxt = await engine.texts(served, [Text(text, f"{where}[{i}]") for i, text in enumerate(texts)])
            found[name][served.id] = scores_of(served.id, labels, await engine.compare(served, zimg, ztxt))
    return await json_response(engine, Comparison(found).to_dict)
