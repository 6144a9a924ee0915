"""SigLIP for users: images and texts to embeddings, logits and probabilities, on a CPU.

Source: arXiv:2303.15343; the interface and the names of results follow Hugging Face's `SiglipModel` and its
zero-shot-image-classification pipeline. Checkpoints, tokenizer, image processing and kernels live in modules of
their own; here they are put together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from npsiglip import engine
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from npsiglip.errors import InputError
from npsiglip.image import ImageProcessor, check_pixels, flatten_images
from npsiglip.kernels import similarity
from npsiglip.kernels.jit import RUN_LOCK, max_threads, thread_count
from npsiglip.layers import DTYPES
from npsiglip.params import Params, check_params
from npsiglip.quantized import DTYPE as QUANTIZED
from npsiglip.tokenizer import Tokenizer
from npsiglip.trace import FORGET, Forget, Trace
from npsiglip.zero_shot import DEFAULT_TEMPLATE, Score, fill_template, rank

Array = NDArray[np.float32]
Images = Any  # a path, a PIL image, a uint8 array, a list of these, or float32 pixels [N, 3, H, W]
Texts = str | Sequence[str] | NDArray[np.integer]

# Inputs go through a tower in passes of about so many tokens: enough to use every weight often, few enough that the
# activations stay in the cache. Results do not depend on it.
TOKENS_PER_PASS = 800


def inputs_per_pass(length: int) -> int:
    """How many images or texts of `length` tokens go through a tower at once."""
    return max(1, TOKENS_PER_PASS // length)


@dataclass(frozen=True)
class SigLIPOutput:
    """Images against texts; the fields have the names that Hugging Face's `SiglipOutput` gives them."""

    logits_per_image: Array
    """[N, K]: t zimg ztxt^T + bias."""
    image_embeds: Array
    """[N, D], unit norm."""
    text_embeds: Array
    """[K, D], unit norm."""

    @property
    def logits_per_text(self) -> Array:
        """[K, N], the transpose of `logits_per_image`."""
        return self.logits_per_image.T

    @property
    def probs(self) -> Array:
        """[N, K]: sigmoid of the logits, the probability of each pair on its own; rows do not sum to one."""
        e = np.exp(-np.abs(self.logits_per_image.astype(np.float64)))
        return (np.where(self.logits_per_image >= 0, 1.0, e) / (1.0 + e)).astype(np.float32)


def check_dtype(dtype: str) -> None:
    """Refuse what kernels do not compute in.

    Raises:
        InputError: another name than those of `DTYPES`.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype!r}")


def _choose_dtype(dtype: str | None, params: Params) -> str:
    """What to compute in: as asked, or else what the weights are quantised to, or float32.

    Raises:
        InputError: an unknown dtype, or another than that of quantised weights.
    """
    if dtype is not None:
        check_dtype(dtype)
    if not isinstance(params, Checkpoint) or not params.quantized:
        return dtype or "float32"
    if dtype not in (None, QUANTIZED):
        raise InputError(
            f"{params.folder} holds weights quantised to {QUANTIZED}, which cannot be computed with in {dtype}: leave "
            f"dtype out, or load the original model in {dtype}"
        )
    return QUANTIZED


def _as_it_is(batch: Any, first: int) -> Any:
    return batch


class SigLIP:
    """A SigLIP model, ready to run.

    Every result has the same bits for any number of threads, for any batch, and beside any other inputs. Calls from
    several Python threads are safe; they take turns.

    Args:
        config: the shapes.
        params: name -> array, see `npsiglip.params`; taken as float32. They must not change while the model is in
            use: views of them are kept.
        processor: for images other than float32 pixels; None: SigLIP's standard one for the config's image size.
        tokenizer: for texts other than ids.
        dtype: what linear layers compute in, see `npsiglip.layers`: "float32", "bfloat16" or "int8"; None: float32,
            or int8 for a quantised checkpoint.
        threads: how many threads to run on; None: Numba's setting (all cores, or NUMBA_NUM_THREADS).

    Raises:
        InputError: an unknown dtype, or another than int8 for a quantised checkpoint; more threads than Numba has, or
            fewer than one; parameters missing, not finite, or of another shape.
        CheckpointError: values of a checkpoint are not finite; of those that are first used by a later call, that
            call tells.
    """

    def __init__(
        self,
        config: SigLIPConfig,
        params: Params,
        processor: ImageProcessor | None = None,
        tokenizer: Tokenizer | None = None,
        threads: int | None = None,
        dtype: str | None = None,
    ) -> None:
        dtype = _choose_dtype(dtype, params)
        if threads is not None and not 1 <= threads <= max_threads():
            raise InputError(
                f"threads must be from 1 to {max_threads()} here (NUMBA_NUM_THREADS, or the number of cores), "
                f"got {threads}"
            )
        if not isinstance(params, Checkpoint):  # which has been checked
            check_params(params, config)
        self.config = config
        self.dtype = dtype
        self.threads = threads
        self.tokenizer = tokenizer
        self.processor = processor
        if processor is None and config.image:
            self.processor = ImageProcessor(config.image.image_size, config.image.image_size)
        with RUN_LOCK, thread_count(threads):
            self._image = engine.ImageTower(params, config.image, dtype) if config.image else None
            self._text = engine.TextTower(params, config.text, dtype) if config.text else None
        self.t_prime = float(np.float32(params["t_prime"])) if "t_prime" in params else None
        self.bias = float(np.float32(params["bias"])) if "bias" in params else None

    @classmethod
    def from_pretrained(
        cls, folder_or_name: str | Path, dtype: str | None = None, threads: int | None = None
    ) -> SigLIP:
        """Load a folder in Hugging Face's format: config.json, model.safetensors, spiece.model.

        Args:
            folder_or_name: the folder, or "builtin" for the small model of drawn shapes that this package brings.
            dtype: what linear layers compute in: "float32", "bfloat16" or "int8", whatever float type the weights
                are stored in. None: float32, or int8 for a folder that `npsiglip quantize` wrote.
            threads: see `SigLIP`.

        Raises:
            CheckpointError: a file is missing, damaged, or does not fit the others.
            InputError: an unknown dtype, another than int8 for a quantised folder, or a number of threads that
                cannot be.
        """
        if dtype is not None:
            check_dtype(dtype)
        checkpoint = Checkpoint.open(folder_or_name)
        config = checkpoint.config
        processor = tokenizer = None
        if config.image:
            processor = ImageProcessor.from_folder(checkpoint.folder, config.image.image_size)
        if config.text:
            tokenizer = Tokenizer.from_folder(checkpoint.folder, config.text.seq_len)
        return cls(config, checkpoint, processor, tokenizer, threads, dtype)

    def encode_image(self, images: Images, normalize: bool = True) -> Array:
        """Images to embeddings, float32 [N, D].

        Args:
            images: one of, or a list of: a path, a PIL image, a uint8 array [H, W, 3]; or float32 pixels
                [N, 3, S, S], resized and normalised to [-1, 1] already.
            normalize: scale each embedding to unit norm.

        Raises:
            InputError: an image that cannot be used, named by its path or index; or a model without image tower.
        """
        return self._encode_image(images, normalize, FORGET)

    def encode_text(self, texts: Texts, normalize: bool = True) -> Array:
        """Texts to embeddings, float32 [N, D].

        Args:
            texts: a str, a list of str, or token ids [N, L], which must be padded as the model was trained. A text
                that is too long loses its end, as in Hugging Face: `model.tokenizer.truncated(texts)` tells.
            normalize: scale each embedding to unit norm.

        Raises:
            InputError: texts or ids that cannot be used; or a model without text tower.
        """
        return self._encode_text(texts, normalize, FORGET)

    def __call__(self, images: Images, texts: Texts) -> SigLIPOutput:
        """Every image against every text."""
        return self.compare(self.encode_image(images), self.encode_text(texts))

    def compare(self, image_embeds: Array, text_embeds: Array) -> SigLIPOutput:
        """Embeddings of images [N, D] against those of texts [K, D], both from `encode_*` with unit norm.

        Raises:
            InputError: a single tower, which has no temperature and bias; or other shapes.
        """
        if self.t_prime is None or self.bias is None:
            self._refuse_tower("image or text")
        zimg, ztxt = (np.ascontiguousarray(z, np.float32) for z in (image_embeds, text_embeds))
        if zimg.ndim != 2 or ztxt.ndim != 2 or zimg.shape[1] != ztxt.shape[1]:
            raise InputError(f"embeddings must be [N, D] and [K, D], got {list(zimg.shape)} and {list(ztxt.shape)}")
        logits = np.empty((len(zimg), len(ztxt)), np.float32)
        with RUN_LOCK, thread_count(self.threads):
            similarity.logits(zimg, ztxt, self.t_prime, self.bias, logits)
        return SigLIPOutput(logits, zimg, ztxt)

    def classify(self, images: Images, labels: Sequence[str], template: str = DEFAULT_TEMPLATE) -> list[list[Score]]:
        """Zero-shot classification: per image, a list of {"label", "score"} sorted by score.

        Args:
            images: as for `encode_image`; one image gives a list with one element.
            labels: what could be in the image.
            template: the sentence that a label is put into, at its `{}`.

        Raises:
            InputError: no labels, a template without `{}`, or an image that cannot be used.
        """
        texts = fill_template(labels, template)
        return [rank(labels, probs) for probs in self(images, texts).probs]

    def trace(self, images: Images | None = None, texts: Texts | None = None) -> Trace:
        """Every intermediate of the towers that are given input, an ordered mapping of tap name to float32 array.

        The names and shapes are those of the traces of `npsiglip.reference`. All inputs go through in one pass, so
        that memory grows with them: meant for a few images.
        """
        if images is None and texts is None:
            raise InputError("`trace` needs images, texts or both")
        trace = Trace()
        if images is not None:
            trace["zimg"] = self._encode_image(images, True, trace)
        if texts is not None:
            trace["ztxt"] = self._encode_text(texts, True, trace)
        if images is not None and texts is not None:
            output = self.compare(trace["zimg"], trace["ztxt"])
            trace["logits"], trace["probs"] = output.logits_per_image, output.probs
        return trace

    def _encode_image(self, images: Images, normalize: bool, trace: Forget) -> Array:
        tower, processor, config = self._image, self.processor, self.config.image
        if tower is None or processor is None or config is None:
            self._refuse_tower("image")
        items: Any
        if isinstance(images, np.ndarray) and images.ndim == 4 and np.issubdtype(images.dtype, np.floating):
            items = check_pixels(images, config.image_size)
            prepare: Callable[[Any, int], Any] = _as_it_is
        else:
            items = list(flatten_images(images))
            if not items:
                raise InputError("`images` is empty; expected at least one image")

            def prepare(batch: Any, first: int) -> Any:
                return processor(batch, first if len(items) > 1 else None)

        return self._in_passes(tower, items, prepare, config.seq_len, normalize, trace)

    def _encode_text(self, texts: Texts, normalize: bool, trace: Forget) -> Array:
        if self._text is None:
            self._refuse_tower("text")
        ids = self._ids(texts)
        return self._in_passes(self._text, ids, _as_it_is, ids.shape[1], normalize, trace)

    def _in_passes(
        self,
        tower: engine.ImageTower | engine.TextTower,
        items: Any,
        prepare: Callable[[Any, int], Any],
        length: int,
        normalize: bool,
        trace: Forget,
    ) -> Array:
        """Send items of `length` tokens through a tower, a few at a time, or all at once for a trace."""
        n = len(items)
        passes = 1 if isinstance(trace, Trace) else -(-n // inputs_per_pass(length))
        step = max(1, -(-n // max(1, passes)))  # equal ones
        parts = []
        for start in range(0, n, step):
            batch = prepare(items[start : start + step], start)
            with RUN_LOCK, thread_count(self.threads):
                part = tower(batch, trace)
                if normalize:
                    similarity.l2_normalize(part, part)
            parts.append(part)
        if isinstance(trace, Trace):
            engine.shape_taps(trace, tower.name, n)
        return np.concatenate(parts)

    def _ids(self, texts: Texts) -> NDArray[np.int64]:
        """Token ids [N, L], from texts or as given."""
        assert self.config.text is not None
        seq_len, vocab_size = self.config.text.seq_len, self.config.text.vocab_size
        if not isinstance(texts, np.ndarray):
            if self.tokenizer is None:
                raise InputError("this model has no tokenizer: pass token ids [N, L]")
            ids = self.tokenizer(texts)
        elif np.issubdtype(texts.dtype, np.integer) and texts.ndim == 2 and len(texts):
            ids = texts.astype(np.int64)
        else:
            raise InputError(
                f"`texts` must be a str, a list of str, or whole-number ids [N, {seq_len}]; "
                f"got an array of {texts.dtype} {list(texts.shape)}"
            )
        if not 1 <= ids.shape[1] <= seq_len:
            raise InputError(f"ids must have 1 to {seq_len} columns, the model's positions; got {ids.shape[1]}")
        if ids.min() < 0 or ids.max() >= vocab_size:
            raise InputError(
                f"ids must be from 0 to {vocab_size - 1}; got {ids.min()} to {ids.max()}: "
                "does the tokenizer belong to this model?"
            )
        return ids

    @staticmethod
    def _refuse_tower(tower: str) -> NoReturn:
        raise InputError(f"this checkpoint is a single tower and has no {tower} tower; load one with both")
