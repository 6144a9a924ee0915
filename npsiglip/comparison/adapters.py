"""Models for a comparison: this project's own, and others through the libraries that own them, imported only then.

    builtin, siglip-base-patch16-224, a folder      this project's models
    clip:openai/clip-vit-base-patch32               transformers' CLIP
    st:clip-ViT-B-32-multilingual-v1                sentence-transformers; st:TEXTS|IMAGES if two models share a space
    open_clip:nllb-clip-base-siglip/v1              open_clip's, NAME/PRETRAINED
    https://host/v1#model                           any server with /v1/embeddings that takes pictures as data URIs
    file:vectors.npz                                embeddings made elsewhere: `image` [D], `texts` [K, D], perhaps
                                                    `scale` and `bias` and `kind`

The extra `compare` has the libraries. Dimensions: K texts, D width.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import urllib.error
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from npsiglip.comparison.scores import COSINE, KINDS, SIGMOID, SOFTMAX
from npsiglip.errors import InputError
from npsiglip.extras import library
from npsiglip.images.decode import to_rgb
from npsiglip.model import SigLIP
from npsiglip.outputs import SigLIPOutput

Floats = NDArray[np.floating[Any]]
SECONDS = 60.0  # that a server may take


class Said(NamedTuple):
    """Of a picture and texts: cosines [K], and logits [K] if the model has them."""

    cosine: Floats
    logit: Floats | None


class Encoder(Protocol):
    """A model in a comparison."""

    @property
    def name(self) -> str:
        """As it is shown."""

    @property
    def kind(self) -> str:
        """Of its scores: "sigmoid", "softmax" or "cosine"."""

    def scores(self, image: Any, texts: Sequence[str]) -> Said:
        """Of one picture and K texts.

        Raises:
            InputError: a picture or texts that cannot be used.
        """


def said_of(output: SigLIPOutput) -> Said:
    """What one of this project's models says of one picture."""
    cosines = output.text_embeds.astype(np.float64) @ output.image_embeds[0].astype(np.float64)
    return Said(cosines, output.logits_per_image[0])


class Native:
    """A model of this project."""

    kind = SIGMOID

    def __init__(self, model: SigLIP, name: str | None = None) -> None:
        self.model, self.name = model, name or repr(model)

    def scores(self, image: Any, texts: Sequence[str]) -> Said:
        """See `Encoder`."""
        return said_of(self.model(image, list(texts)))


class Vectors:
    """A model that is known by its embeddings: cosines, and logits if it has a scale.

    Args:
        name: as it is shown.
        kind: of its scores.
        scale, bias: of logits; no scale for kind "cosine".
    """

    def __init__(self, name: str, kind: str, scale: float | None = None, bias: float = 0.0) -> None:
        if kind not in KINDS or (scale is None) != (kind == COSINE):
            raise InputError(
                f"{name}: kind {SIGMOID!r} and {SOFTMAX!r} have a scale, {COSINE!r} has none; got {kind!r}"
            )
        self.name, self.kind, self.scale, self.bias = name, kind, scale, bias

    def embed(self, image: Any, texts: Sequence[str]) -> tuple[Any, Any]:
        """Of the picture [D], and of texts [K, D]; of any norm."""
        raise NotImplementedError

    def scores(self, image: Any, texts: Sequence[str]) -> Said:
        """See `Encoder`."""
        zimg, ztxt = (np.asarray(z, np.float64) for z in self.embed(image, texts))
        if zimg.ndim != 1 or ztxt.shape != (len(texts), len(zimg)):
            raise InputError(
                f"{self.name}: embeddings must be [D] and [{len(texts)}, D], got {list(zimg.shape)} and "
                f"{list(ztxt.shape)}"
            )
        norms = np.linalg.norm(ztxt, axis=1), np.linalg.norm(zimg)
        if not all(np.isfinite(norm).all() and (np.asarray(norm) > 0).all() for norm in norms):
            raise InputError(f"{self.name}: an embedding is zero or not finite")
        cosines = ztxt @ zimg / (norms[0] * norms[1])
        return Said(cosines, None if self.scale is None else cosines * self.scale + self.bias)


class Clip(Vectors):
    """transformers' CLIP: a softmax."""

    def __init__(self, name: str) -> None:
        transformers = library("transformers", "compare", f"clip:{name}")
        self._torch = library("torch", "compare", f"clip:{name}")
        try:
            self._model = transformers.CLIPModel.from_pretrained(name).eval()
            self._processor = transformers.CLIPProcessor.from_pretrained(name)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"clip:{name} cannot be loaded by transformers: {str(error).splitlines()[0]}") from None
        super().__init__(f"clip:{Path(name).name}", SOFTMAX, float(self._model.logit_scale.detach().exp()))

    def embed(self, image: Any, texts: Sequence[str]) -> tuple[Any, Any]:
        """See `Vectors`."""
        inputs = self._processor(
            text=list(texts), images=to_rgb(image, "the image"), return_tensors="pt", padding=True, truncation=True
        )
        with self._torch.no_grad():
            output = self._model(**inputs)
        return output.image_embeds[0].numpy(), output.text_embeds.numpy()


class SentenceTransformer(Vectors):
    """sentence-transformers' CLIP models: cosines."""

    def __init__(self, name: str) -> None:
        sentences = library("sentence_transformers", "compare", f"st:{name}")
        texts, _, images = name.partition("|")
        if not images:  # its multilingual CLIP has texts alone, in the space of this one
            images = "clip-ViT-B-32" if "multilingual" in texts else texts
        try:
            self._texts = sentences.SentenceTransformer(texts)
            self._images = self._texts if images == texts else sentences.SentenceTransformer(images)
        except (OSError, ValueError) as error:
            raise InputError(f"st:{name} cannot be loaded: {str(error).splitlines()[0]}") from None
        super().__init__(f"st:{Path(texts).name}", COSINE)

    def embed(self, image: Any, texts: Sequence[str]) -> tuple[Any, Any]:
        """See `Vectors`."""
        return self._images.encode([to_rgb(image, "the image")])[0], self._texts.encode(list(texts))


class OpenClip(Vectors):
    """open_clip's models: a sigmoid where the model has a bias, as NLLB-CLIP-SigLIP, else a softmax."""

    def __init__(self, name: str) -> None:
        open_clip = library("open_clip", "compare", f"open_clip:{name}")
        self._torch = library("torch", "compare", f"open_clip:{name}")
        architecture, _, pretrained = (
            name.partition("/") if not name.startswith(("hf-hub:", "local-dir:")) else (name, "", "")
        )
        try:
            self._model, _, self._preprocess = open_clip.create_model_and_transforms(
                architecture, pretrained=pretrained or None
            )
            self._tokenizer = open_clip.get_tokenizer(architecture)
        except (OSError, ValueError, RuntimeError, KeyError) as error:
            raise InputError(f"open_clip:{name} cannot be loaded: {str(error).splitlines()[0]}") from None
        self._model.eval()
        bias = getattr(self._model, "logit_bias", None)
        super().__init__(
            f"open_clip:{Path(name).name if not pretrained else name}",
            SOFTMAX if bias is None else SIGMOID,
            float(self._model.logit_scale.detach().exp()),
            0.0 if bias is None else float(bias.detach()),
        )

    def embed(self, image: Any, texts: Sequence[str]) -> tuple[Any, Any]:
        """See `Vectors`."""
        with self._torch.no_grad():
            zimg = self._model.encode_image(self._preprocess(to_rgb(image, "the image")).unsqueeze(0))[0]
            return zimg.float().numpy(), self._model.encode_text(self._tokenizer(list(texts))).float().numpy()


class _Here(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: the API key is for the server that was named."""

    def redirect_request(self, *args: Any) -> None:
        """None: the redirect is an error."""


class Server(Vectors):
    """A server with `/v1/embeddings`; NPSIGLIP_COMPARE_KEY is sent as its API key. Cosines."""

    def __init__(self, url: str) -> None:
        self._url, _, self._model = url.partition("#")
        super().__init__(url.split("://", 1)[1], COSINE)

    def _ask(self, values: list[str], modality: str) -> list[Any]:
        body = {"input": values, "modality": modality, "encoding_format": "float"}
        if self._model:
            body["model"] = self._model
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("NPSIGLIP_COMPARE_KEY"):
            headers["Authorization"] = f"Bearer {key}"
        address = f"{self._url.rstrip('/').removesuffix('/embeddings')}/embeddings"
        request = urllib.request.Request(address, json.dumps(body).encode(), headers)
        try:
            with urllib.request.build_opener(_Here).open(request, timeout=SECONDS) as answer:
                data = json.loads(answer.read())["data"]
            return [each["embedding"] for each in sorted(data, key=lambda each: each["index"])]
        except urllib.error.HTTPError as error:
            said = error.read(300).decode("utf-8", "replace")
            raise InputError(f"{self.name}: the server answered {error.code}: {said}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.name}: no embeddings came from {address} ({error})") from None

    def embed(self, image: Any, texts: Sequence[str]) -> tuple[Any, Any]:
        """See `Vectors`."""
        file = io.BytesIO()
        to_rgb(image, "the image").save(file, "PNG")
        uri = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        try:
            image_row, text_rows = self._ask([uri], "image")[0], self._ask(list(texts), "text")
            return np.asarray(image_row, np.float64), np.asarray(text_rows, np.float64)
        except InputError:
            raise
        except (ValueError, IndexError, TypeError):
            raise InputError(f"{self.name}: what the server sent are not embeddings") from None


class File(Vectors):
    """Embeddings made elsewhere, of this picture and of these texts in their order."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                values = {name: stored[name] for name in stored.files}
        except (OSError, ValueError, EOFError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"file:{path} cannot be read ({error}); expected an .npz with `image` and `texts`"
            ) from None
        if not {"image", "texts"} <= set(values):
            raise InputError(
                f"file:{path} has {', '.join(values) or 'nothing'}; expected `image` [D] and `texts` [K, D]"
            )
        self._image, self._texts = values["image"], values["texts"]
        scale = float(values["scale"]) if "scale" in values else None
        bias = float(values["bias"]) if "bias" in values else 0.0
        kind = str(values["kind"]) if "kind" in values else COSINE if scale is None else SIGMOID if bias else SOFTMAX
        if not math.isfinite(bias) or (scale is not None and not math.isfinite(scale)):
            raise InputError(f"file:{path}: scale and bias must be finite")
        super().__init__(f"file:{path.name}", kind, scale, bias)

    def embed(self, image: Any, texts: Sequence[str]) -> tuple[Any, Any]:
        """See `Vectors`."""
        return self._image, self._texts


def encoder(model: str | Path) -> Encoder:
    """A model by its name, see above.

    Raises:
        InputError: a library that is missing, a file or a model that cannot be used.
        CheckpointError: one of this project's that cannot be loaded.
    """
    text = os.fspath(model)
    kinds: dict[str, Any] = {"clip": Clip, "st": SentenceTransformer, "open_clip": OpenClip}
    prefix, colon, rest = text.partition(":")
    if text.startswith(("http://", "https://")):
        return Server(text)
    if colon and prefix == "file":
        return File(Path(rest))
    if colon and prefix in kinds:
        found: Encoder = kinds[prefix](rest)
        return found
    return Native(SigLIP.from_pretrained(model), Path(text).name)
