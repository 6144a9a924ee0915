"""SigLIP for users: images and texts to embeddings, logits and probabilities, on a CPU.

Source: arXiv:2303.15343; the interface and the names of results follow Hugging Face's `SiglipModel` and its
zero-shot-image-classification pipeline. What other modules do is put together here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from npsiglip import passes
from npsiglip.checkpoint import Checkpoint
from npsiglip.config import SigLIPConfig
from npsiglip.describe import describe_model
from npsiglip.dtypes import check_dtype, choose_dtype
from npsiglip.errors import InputError
from npsiglip.finite import check_embeds, check_logits
from npsiglip.formats.told import Told
from npsiglip.images.files import Decoding
from npsiglip.inputs import Images, Inputs, Texts, attention_mask_of, image_inputs, text_batches, token_ids
from npsiglip.kernels import similarity
from npsiglip.kernels.jit import check_threads, computing
from npsiglip.lazy import Deferred
from npsiglip.outputs import Calibrated, SigLIPOutput, TowerOutput, sigmoid, softmax
from npsiglip.params import Params, check_params
from npsiglip.processors import Processor, default_processor, deferred_processor, deferred_tokenizer
from npsiglip.texts.base import BaseTokenizer
from npsiglip.towers.image import Classifier, ImageTower
from npsiglip.towers.text import TextTower
from npsiglip.trace import Trace
from npsiglip.zero_shot import DEFAULT_TEMPLATE, Score, fill_template, rank

Array = NDArray[np.float32]


class SigLIP:
    """A SigLIP model, ready to run.

    Every result has the same bits for any number of threads, for any batch, and beside any other inputs. Calls from
    several Python threads are safe; they take turns.

    Args:
        config: the shapes.
        params: name -> array, see `npsiglip.params`; taken as float32; views are kept: they must not change.
        processor: for images other than float32 pixels; None: SigLIP's standard one for the image size, or NaFlex's.
        tokenizer: for texts other than ids.
        dtype: what linear layers compute in, see `npsiglip.towers.layers`: "float32", "bfloat16" or "int8"; None:
            float32, or int8 for a quantised checkpoint.
        threads: how many threads to run on; None: Numba's setting (all cores, or NUMBA_NUM_THREADS), but no more than
            the CPUs that this process may use, by its affinity and its container's quota.

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
        processor: Processor | Deferred[Processor] | None = None,
        tokenizer: BaseTokenizer | Deferred[BaseTokenizer | None] | None = None,
        threads: int | None = None,
        dtype: str | None = None,
    ) -> None:
        dtype = choose_dtype(dtype, params)
        threads = check_threads(threads)
        if not isinstance(params, Checkpoint):  # which has been checked
            check_params(params, config)
        self.config = config
        self.dtype = dtype
        self.threads = threads
        self._tokenizer = tokenizer
        self._processor = processor
        if processor is None and config.image:
            self._processor = default_processor(config)
        self._folder = params.folder if isinstance(params, Checkpoint) else None
        with computing(threads):
            self._image = ImageTower(params, config.image, dtype) if config.image else None
            self._text = TextTower(params, config.text, dtype) if config.text else None
            self._classifier = Classifier(params, config, dtype) if config.classifier else None
        self.t_prime = float(np.float32(params["t_prime"])) if "t_prime" in params else None
        self.bias = float(np.float32(params["bias"])) if "bias" in params else None
        self._params = params

    def __reduce__(self) -> tuple[Any, ...]:
        """For `pickle` and `copy`: made anew from the same parameters; a checkpoint is opened again where it is."""
        own = self.__dict__  # what was read or set since, or what has yet to be read
        processor, tokenizer = own.get("processor", self._processor), own.get("tokenizer", self._tokenizer)
        return type(self), (self.config, self._params, processor, tokenizer, self.threads, self.dtype)

    def __repr__(self) -> str:
        source = f"{str(self._params.source)!r}" if isinstance(self._params, Checkpoint) else "in memory"
        return describe_model(self.config, self.dtype, source)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_name: str | Path,
        dtype: str | None = None,
        threads: int | None = None,
        revision: str | None = None,
        *,
        adapter: str | Path | None = None,
        max_megapixels: float | None = None,
        sixteen_bit: str = "clip",
        gelu: str | None = None,
        image_heads: int | None = None,
    ) -> SigLIP:
        """Load a folder in Hugging Face's format: config.json, model.safetensors, spiece.model or tokenizer.json.

        Or load a folder of open_clip (open_clip_config.json, open_clip_model.safetensors) or of timm's image towers. Or
        load big_vision's `.npz`, with the same files for tokenizer and image processor beside it, if there are any.

        The files of tokenizer and image processor are read when a text or an image first needs them: what they lack
        is no error for token ids, pixels, or the other kind of input.

        Args:
            folder_or_name: the folder or the `.npz`; "builtin" for the small model that this package
                brings; or a released model such as "google/siglip-base-patch16-224", or any OWNER/NAME of the Hugging
                Face Hub, which is downloaded if it is not in the Hub's cache on this machine.
            dtype: what linear layers compute in: "float32", "bfloat16" or "int8", whatever float type the weights
                are stored in. None: float32, or int8 for a folder that `npsiglip quantize` wrote.
            threads: see `SigLIP`.
            revision: of a released model: a branch, a tag or a commit's hash; None: "main".
            adapter: the folder of a LoRA adapter of the model, as PEFT saves it, which is merged into it.
            max_megapixels: the largest picture that is decoded, in millions of pixels; None: Pillow's limit (89).
            sixteen_bit: what becomes of grey pictures of 16 bits: "clip" cuts them off at 255, as transformers does;
                "scale" makes 255 of 65535.
            gelu: the form of GELU, whatever the files say: "tanh", SigLIP's, or "erf", which open_clip computes in many
                models; or one for each tower, such as "erf,tanh" (image, text). None: what the files say.
            image_heads: of the image tower, for folders of open_clip and timm whose files do not tell.

        Raises:
            CheckpointError: a file is missing, damaged, or does not fit the others; a model cannot be downloaded.
            InputError: a dtype, a number of threads or another setting that cannot be.
        """
        if not isinstance(folder_or_name, str | PathLike):
            raise InputError(f"a model is a folder, an .npz or a name such as 'builtin'; got {folder_or_name!r}")
        if dtype is not None:
            check_dtype(dtype)
        threads, decoding = check_threads(threads), Decoding(max_megapixels, sixteen_bit)  # before a download
        decoding.check()
        checkpoint = Checkpoint.open(folder_or_name, revision, Told(gelu, image_heads), adapter)
        return cls.from_checkpoint(checkpoint, dtype, threads, **decoding._asdict())

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: Checkpoint,
        dtype: str | None = None,
        threads: int | None = None,
        *,
        max_megapixels: float | None = None,
        sixteen_bit: str = "clip",
    ) -> SigLIP:
        """The model of a checkpoint that is open, with the tokenizer and image processor of its folder.

        Arguments and errors as of `from_pretrained`, which opens the checkpoint first.
        """
        decoding = Decoding(max_megapixels, sixteen_bit)
        decoding.check()
        processor, tokenizer = deferred_processor(checkpoint, decoding), deferred_tokenizer(checkpoint)
        return cls(checkpoint.config, checkpoint, processor, tokenizer, threads, dtype)

    @cached_property
    def tokenizer(self) -> BaseTokenizer | None:
        """For texts other than ids; None without text tower, or where there are no files of a tokenizer.

        Raises:
            CheckpointError: a folder's files of it cannot be used.
        """
        return self._tokenizer.make() if isinstance(self._tokenizer, Deferred) else self._tokenizer

    @cached_property
    def processor(self) -> Processor | None:
        """For images other than pixels; None without image tower.

        Raises:
            CheckpointError: what a folder says of it cannot be used.
        """
        return self._processor.make() if isinstance(self._processor, Deferred) else self._processor

    @property
    def params(self) -> Params:
        """Name -> array, what the model was made of; a `Checkpoint` if it was loaded from files."""
        return self._params

    def encode_image(
        self,
        images: Images,
        normalize: bool = True,
        *,
        interpolate_pos_encoding: bool = False,
        max_num_patches: int | None = None,
    ) -> Array:
        """Images to embeddings, float32 [N, D].

        Args:
            images: one of, or a list or generator of: a path, a PIL image, a uint8 array [H, W, 3], the bytes of an
                image file, a file that is open for reading; or float32 pixels [N, 3, S, S], resized and
                normalised to [-1, 1] already; or, for NaFlex, a `PatchBatch` or a mapping with Hugging Face's keys
                `pixel_values`, `pixel_attention_mask` and `spatial_shapes`.
            normalize: scale each embedding to unit norm.
            interpolate_pos_encoding: pixels may be of any size, and positions are interpolated (bicubic).
            max_num_patches: of an image, for NaFlex; None: the processor's.

        Raises:
            InputError: an image that cannot be used, named by its path or index, or whose embedding is not finite; a
                model without image tower, or whose image tower has no head; an option that this model does not have.
        """
        inputs = self._image_inputs(images, interpolate_pos_encoding, max_num_patches)
        if self.config.image and not self.config.image.head and not self.config.image.mean:
            raise InputError("this image tower has no head and so no embedding: `image_output` gives its tokens")
        return passes.embeddings(self._image_tower(), inputs, self.threads, normalize)

    def encode_text(self, texts: Texts, normalize: bool = True, *, attention_mask: Any = None) -> Array:
        """Texts to embeddings, float32 [N, D].

        Args:
            texts: a str, a list or generator of str, or token ids [N, L], which must be padded as the model was
                trained. A text that is too long loses its end, as in Hugging Face, with one warning
                (`InputWarning`): `model.tokenizer.truncated(texts)` tells which.
            normalize: scale each embedding to unit norm.
            attention_mask: [N, L], 1 for tokens to attend to and 0 for others. SigLIP was trained without any.

        Raises:
            InputError: texts, ids or a mask that cannot be used; a text whose embedding is not finite; no text tower.
        """
        inputs = self._text_inputs(texts, attention_mask)
        return passes.embeddings(self._text_tower(), inputs, self.threads, normalize)

    def image_output(
        self,
        images: Images,
        *,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        interpolate_pos_encoding: bool = False,
        max_num_patches: int | None = None,
    ) -> TowerOutput:
        """The tokens of images, and what is within the tower, as Hugging Face's `SiglipVisionModel` returns them.

        With NaFlex, arrays have room for the image of most patches; the rows of others end in zeros.

        Raises:
            InputError: as `encode_image`; or if anything of what is asked for is not finite, which `trace` shows.
        """
        inputs = self._image_inputs(images, interpolate_pos_encoding, max_num_patches)
        return passes.output(self._image_tower(), inputs, self.threads, output_hidden_states, output_attentions)

    def text_output(
        self,
        texts: Texts,
        *,
        attention_mask: Any = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> TowerOutput:
        """The tokens of texts, and what is within the tower, as Hugging Face's `SiglipTextModel` returns them.

        Raises as `image_output` does.
        """
        inputs = self._text_inputs(texts, attention_mask)
        return passes.output(self._text_tower(), inputs, self.threads, output_hidden_states, output_attentions)

    def class_logits(
        self, images: Images, *, interpolate_pos_encoding: bool = False, max_num_patches: int | None = None
    ) -> Array:
        """Images to logits of the classes that a classifier was trained for, float32 [N, K].

        The classes are `config.classifier.labels`; Hugging Face's `SiglipForImageClassification` gives the same.

        Raises:
            InputError: an image that cannot be used, or whose logits are not finite; or no classifier.
        """
        if self._classifier is None or self.config.classifier is None:
            raise InputError("this checkpoint has no classifier: `classify` with labels of your own is zero-shot")
        inputs = self._image_inputs(images, interpolate_pos_encoding, max_num_patches)
        pooled = self.config.classifier.pooled
        return passes.class_logits(self._image_tower(), self._classifier, pooled, inputs, self.threads)

    def __call__(self, images: Images, texts: Texts) -> SigLIPOutput:
        """Every image against every text."""
        return self.compare(self.encode_image(images), self.encode_text(texts))

    def compare(self, image_embeds: Array, text_embeds: Array) -> SigLIPOutput:
        """Embeddings of images [N, D] against those of texts [K, D], both from `encode_*` with unit norm.

        Raises:
            InputError: a single tower, which has no temperature and bias; other shapes; what is not finite.
        """
        if self.t_prime is None or self.bias is None:
            self._refuse_tower("image or text")
        zimg, ztxt = (np.ascontiguousarray(z, np.float32) for z in (image_embeds, text_embeds))
        if zimg.ndim != 2 or ztxt.ndim != 2 or zimg.shape[1] != ztxt.shape[1]:
            raise InputError(f"embeddings must be [N, D] and [K, D], got {list(zimg.shape)} and {list(ztxt.shape)}")
        check_embeds(image_embeds=zimg, text_embeds=ztxt)
        output = self._compare(zimg, ztxt)
        check_logits(output.logits_per_image)
        return output

    def _compare(self, zimg: Array, ztxt: Array) -> SigLIPOutput:
        logits = np.empty((len(zimg), len(ztxt)), np.float32)
        with computing(self.threads):
            similarity.logits(zimg, ztxt, self.t_prime, self.bias, logits)
        return SigLIPOutput(logits, zimg, ztxt)

    def classify(
        self,
        images: Images,
        labels: Sequence[str] | None = None,
        template: str = DEFAULT_TEMPLATE,
        calibration: Calibrated | None = None,
    ) -> list[list[Score]]:
        """Classification: per image, a list of {"label", "score"} sorted by score.

        Args:
            images: as for `encode_image`; one image gives a list with one element.
            labels: what could be in the image (zero-shot); None: what a checkpoint with a classifier was trained for,
                where scores add up to one if one class is right, and do not if several can be.
            template: the sentence that a label is put into, at its `{}`.
            calibration: of an index (`Index.calibration`), for pictures like its own; None: the model's probabilities.

        Raises:
            InputError: no labels, a template without `{}`, or an image that cannot be used.
        """
        if labels is None and self.config.classifier:
            known, logits = self.config.classifier, self.class_logits(images)
            return [rank(known.labels, row) for row in (sigmoid if known.multi_label else softmax)(logits)]
        if labels is None:
            raise InputError("`labels` are needed: this checkpoint has no classifier that would bring its own")
        output = self(images, fill_template(labels, template))
        return [rank(labels, row) for row in output.calibrated(calibration)]

    def trace(self, images: Images | None = None, texts: Texts | None = None) -> Trace:
        """Every intermediate of the towers that are given input, an ordered mapping of tap name to float32 array.

        The names and shapes are those of the traces of `npsiglip.reference`. All inputs go through in one pass, so
        that memory grows with them: meant for a few images. With NaFlex, their grids must be the same. Unlike results,
        taps may be NaN or infinite: a trace is for finding out where that began.
        """
        if images is None and texts is None:
            raise InputError("`trace` needs images, texts or both")
        trace = Trace()
        if images is not None:
            inputs = self._image_inputs(images, False, None, at_once=True)
            found = passes.embeddings(self._image_tower(), inputs, self.threads, True, trace)
            if "image.pooled" in trace:
                trace["zimg"] = found
        if texts is not None:
            inputs = self._text_inputs(texts, None, at_once=True)
            trace["ztxt"] = passes.embeddings(self._text_tower(), inputs, self.threads, True, trace)
        if images is not None and texts is not None:
            output = self._compare(trace["zimg"], trace["ztxt"])
            trace["logits"], trace["probs"] = output.logits_per_image, output.probs
        return trace

    def check(self, images: Images | None = None, texts: Texts | None = None) -> dict[str, Any]:
        """Results beside those of the float64 reference, tap name -> `npsiglip.verify.checking.Checked`.

        `probs`, `logits`, `zimg`, `ztxt`, `image.pooled` and `text.head`, as far as the inputs go, each with `value`,
        `truth`, `deviation` and `digits`. Slow, and in as much memory as `trace`: meant for a few images.
        """
        from npsiglip.verify.checking import check  # a door for users: nothing here depends on it

        return check(self, images, texts)

    def _image_tower(self) -> ImageTower:
        return self._image or self._refuse_tower("image")

    def _text_tower(self) -> TextTower:
        return self._text or self._refuse_tower("text")

    def _image_inputs(
        self, images: Images, interpolate: bool, max_num_patches: int | None, at_once: bool = False
    ) -> Inputs:
        return image_inputs(
            images, self._image_tower().config, lambda: self.processor, interpolate, max_num_patches, at_once
        )

    def _text_inputs(self, texts: Texts, mask: Any, at_once: bool = False) -> Inputs:
        config = self._text_tower().config
        tokenizer = None if isinstance(texts, np.ndarray) else self.tokenizer
        ids = token_ids(texts, config, tokenizer, self._folder)
        return text_batches(texts, ids, None if mask is None else attention_mask_of(ids, mask), at_once)

    @staticmethod
    def _refuse_tower(tower: str) -> NoReturn:
        raise InputError(f"this checkpoint is a single tower and has no {tower} tower; load one with both")
