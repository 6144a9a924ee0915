"""What requests hold and answers look like: checked by Pydantic, shown by OpenAPI.

Unknown fields are let through, since clients send some of their own (`user`, `options`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from npsiglip.server.settings import LONGEST_TEXT
from npsiglip.zero_shot import DEFAULT_TEMPLATE

IMAGE_HELP = "A picture: base64, a data URI, or, where the server fetches, an https URL."
A_PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAQAAAAECAIAAAAmkwkpAAAAFElEQVR42mOUW2DDAANMDEgANwcAMboBAibRqFoAAAAASUVORK5CYII="
Text = Annotated[str, Field(min_length=1)]
Label = Annotated[str, Field(min_length=1, max_length=LONGEST_TEXT, pattern=r"\S")]
Labels = Annotated[list[Label], Field(min_length=1, examples=[["a green circle", "a red circle"]])]
Template = Annotated[str, Field(max_length=1000, pattern=r"\{\}", description="Has one {} for the label.")]
Picture = Annotated[str, Field(min_length=1, description=IMAGE_HELP, examples=[A_PICTURE])]
ModelName = Annotated[str | None, Field(description="One of /v1/models; none: the first.", examples=["builtin"])]
Count = Annotated[int, Field(ge=1, le=100)]
Number = Annotated[int, Field(ge=0, le=2**53, description="Of an item, as a search gave it.")]


class Strict(BaseModel):
    """Types are what they are: no "5" for 5."""

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


# -- embeddings -------------------------------------------------------------------------------------------------------


class _Embeddings(Strict):
    model: ModelName = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[
        int | None,
        Field(
            ge=0, description="Keep so many and scale to unit norm; 0 or none: all. SigLIP was not trained for fewer."
        ),
    ] = None


class EmbeddingsInput(_Embeddings):
    """As OpenAI and Infinity have it."""

    input: Text | Annotated[list[Text], Field(min_length=1)]
    modality: Annotated[
        Literal["text", "image"] | None,
        Field(description="None: texts, but for data URIs of pictures."),
    ] = None


class ImageUrl(Strict):
    """A picture of a message."""

    url: Picture


class Part(Strict):
    """Of a message."""

    type: Literal["text", "image_url"]
    text: Text | None = None
    image_url: ImageUrl | None = None


class Message(Strict):
    """Of a chat."""

    role: str
    content: Text | Annotated[list[Part], Field(min_length=1)]


class EmbeddingsMessages(_Embeddings):
    """As vLLM has it: the messages hold one text or one picture."""

    messages: Annotated[list[Message], Field(min_length=1)]


class Usage(Strict):
    """Tokens and patches that the model read, padding included."""

    prompt_tokens: int
    total_tokens: int


class Embedding(Strict):
    """One of a list."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(Strict):
    """Embeddings in the order of the input."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    id: str
    created: int


class ModelCard(Strict):
    """A model of the server."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    modalities: list[str]
    dimensions: int
    loaded: bool


class ModelList(Strict):
    """The models of the server."""

    object: Literal["list"]
    data: list[ModelCard]


# -- classification ---------------------------------------------------------------------------------------------------


class TaskParameters(Strict):
    """Of Hugging Face's zero-shot-image-classification."""

    candidate_labels: Labels
    hypothesis_template: Template = DEFAULT_TEMPLATE


class Task(Strict):
    """Hugging Face's zero-shot-image-classification."""

    inputs: Picture
    parameters: TaskParameters


class Score(Strict):
    """A label and its probability."""

    label: str
    score: float


class ImageItem(Strict):
    """A picture to classify."""

    image: Picture


class Classify(Strict):
    """Several pictures and labels."""

    model: ModelName = None
    input: Annotated[list[ImageItem], Field(min_length=1)]
    labels: Labels
    template: Template = DEFAULT_TEMPLATE


class ClassifyEmbeddings(Strict):
    """Pictures that were embedded before, and labels."""

    model: ModelName = None
    embeddings: Annotated[list[list[float]], Field(min_length=1, description="[N, D], of unit norm.")]
    labels: Labels
    template: Template = DEFAULT_TEMPLATE


class Classified(Strict):
    """One picture."""

    object: Literal["classification"]
    index: int
    prediction: str
    score: float
    predictions: list[Score]


class ClassifyAnswer(Strict):
    """Pictures in the order of the input, labels by their probabilities."""

    model: str
    data: list[Classified]
    usage: Usage


class Compare(Strict):
    """One picture, and labels for several models."""

    image: Picture
    labels: Labels | Annotated[dict[str, Labels], Field(min_length=1, max_length=20)]
    template: Template | Annotated[dict[str, Template], Field(min_length=1)] = DEFAULT_TEMPLATE
    models: Annotated[list[str] | None, Field(min_length=1, description="None: all of the server.")] = None


# -- search -----------------------------------------------------------------------------------------------------------


class _Search(Strict):
    k: Count = 10
    image_weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    text_weight: Annotated[float, Field(gt=0, le=100)] = 1.0
    template: Template | None = None


class SearchText(_Search):
    """By words, perhaps with a picture."""

    query: Label
    image: Picture | None = None


class SearchImage(_Search):
    """By a picture."""

    image: Picture


class Similar(Strict):
    """To an item of the index."""

    id: Number
    k: Count = 10


class Found(Strict):
    """An item of the index."""

    id: int
    rank: int
    cosine: float
    probability: float | None
    name: str
    thumbnail: str | None
    width: int | None
    height: int | None


class SearchAnswer(Strict):
    """What was found, the best first."""

    object: Literal["list"]
    kind: str
    data: list[Found]


class IndexCard(Strict):
    """The index of the server."""

    kind: str
    count: int
    model: str
    calibrated: bool


class Plain(Strict):
    """An error."""

    detail: str


class OpenAIError(Strict):
    """An error in OpenAI's shape."""

    error: dict[str, Any]


class TaskError(Strict):
    """An error in Hugging Face's shape."""

    error: str
