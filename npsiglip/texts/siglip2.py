"""Text to ids for SigLIP 2: `Siglip2Tokenizer` gives the ids of transformers 5.x's class of that name, always padded.

Source of truth: transformers 5.23, `models/siglip2/tokenization_siglip2.py` and the classes under it, as it loads for
model_type "siglip2". The vocabulary is Gemma's, of 256,000 pieces. The steps, for one text:

1. added tokens (`<eos>`, `<start_of_turn>`, runs of newlines ...), spelt exactly so, split the text into segments;
2. each segment is lowered, letter by letter, and each space of it becomes "▁"; nothing else changes;
3. BPE cuts the segment into pieces, and spells what has none in bytes;
4. `<eos>` (1) closes the ids, even if the text ends with one, and `<pad>` (0) fills the row: the last position, which
   the text tower pools, is padding for all but the longest texts.

Releases differ on the lower case: transformers 4.x never lowers, and 5.23 does for model_type "siglip2" only, although
SigLIP 2's models of one size, whose type is "siglip", were trained on lowered text as well. Here all are lowered;
`lower=False` gives the ids of transformers' `GemmaTokenizer`. docs/divergences.md has examples.

The vocabulary is read from tokenizer.json through the tokenizers library, or from tokenizer.model through
sentencepiece. They give the same ids but for added tokens in upper case ("<TABLE>"), since sentencepiece, as the
authors use it, finds those again in what was lowered; and, without a tokenizer_config.json that lists added tokens, for
runs of spaces some of which are spelt "▁". Left out: text pairs, attention masks (the models were trained without),
added tokens that the vocabulary does not have. Both libraries are imported when they are first used.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from npsiglip.errors import CheckpointError, NpsiglipError
from npsiglip.interrupts import deferred
from npsiglip.texts.base import (
    SPACE,
    BaseTokenizer,
    added_tokens,
    named_tokens,
    read_sentencepiece,
    read_settings,
    read_vocabulary,
)

JSON_FILE, MODEL_FILE = "tokenizer.json", "tokenizer.model"
CLASSES = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")

# Settings of tokenizer_config.json that change ids, with the values that this module computes with. Releases disagree
# on whether those of bos and eos are heeded.
_SUPPORTED_SETTINGS: dict[str, tuple[object, ...]] = {
    "tokenizer_class": (*CLASSES, None),
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "split_special_tokens": (False, None),
    "add_bos_token": (False, None),
    "add_eos_token": (True, None),
    "sp_model_kwargs": ({}, None),
}
_TOKENS = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
_PAD_ID, _EOS_ID = 0, 1


class _Vocabulary(Protocol):
    size: int

    def id_of(self, piece: str) -> int | None: ...

    def piece(self, i: int) -> str: ...

    def ids(self, text: str) -> list[int]: ...


@contextlib.contextmanager
def _used(path: Path) -> Iterator[None]:
    """Around the tokenizers library, which raises nothing narrower than Exception, and panics beyond that.

    Raises:
        CheckpointError: for either.
    """
    try:
        yield
    except NpsiglipError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"{path} cannot be read by the tokenizers library ({error}): download it again, or update the library"
        ) from None


class _Json:
    """tokenizer.json, through the tokenizers library."""

    def __init__(self, path: Path, special: Iterable[str], lower: bool) -> None:
        with deferred():
            from tokenizers import AddedToken, Tokenizer, models, normalizers

        data = read_vocabulary(path, "a vocabulary for the tokenizers library")
        self._path = path
        with _used(path):
            self._tokenizer = Tokenizer.from_buffer(data)
        model = self._tokenizer.model
        if not isinstance(model, models.BPE) or not model.byte_fallback:
            raise CheckpointError(
                f"{path} holds a {type(model).__name__} vocabulary, expected BPE that falls back to bytes, as SigLIP "
                f"2's: use the {JSON_FILE} that belongs to the checkpoint"
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        with _used(path):
            closing = self._tokenizer.encode("").ids
        if closing != [_EOS_ID]:
            raise CheckpointError(
                f"{path} adds the ids {closing} to a text (post_processor), expected {[_EOS_ID]}, `<eos>` at its end: "
                "this is Gemma's and not SigLIP 2's, use the one that belongs to the checkpoint"
            )
        self._tokenizer.add_special_tokens(
            [AddedToken(token, normalized=False) for token in special if self.id_of(token) is not None]
        )
        spaces = normalizers.Replace(" ", SPACE)
        self._tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), spaces]) if lower else spaces
        self.size = max(self._tokenizer.get_vocab().values()) + 1  # pieces may share an id: "\t" and its byte do

    def id_of(self, piece: str) -> int | None:
        return self._tokenizer.token_to_id(piece)

    def piece(self, i: int) -> str:
        return self._tokenizer.id_to_token(i) or ""

    def ids(self, text: str) -> list[int]:
        with _used(self._path):
            return self._tokenizer.encode(text, add_special_tokens=False).ids


class _SentencePiece:
    """tokenizer.model, through sentencepiece."""

    def __init__(self, path: Path, special: Iterable[str], lower: bool) -> None:
        with deferred():
            from tokenizers.normalizers import Lowercase

        self._model = read_sentencepiece(path)
        self.size: int = self._model.get_piece_size()
        self._special = {token: i for token in special if (i := self.id_of(token)) is not None}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")").split
        self._lowered = Lowercase().normalize_str if lower else str

    def id_of(self, piece: str) -> int | None:
        i: int = self._model.piece_to_id(piece)
        return i if self._model.id_to_piece(i) == piece else None  # an unknown piece gets the id of <unk>

    def piece(self, i: int) -> str:
        piece: str = self._model.id_to_piece(i)
        return piece

    def ids(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self._split(text):
            if part in self._special:
                ids.append(self._special[part])
            elif part:
                ids += self._model.encode(self._lowered(part))
        return ids


class Siglip2Tokenizer(BaseTokenizer):
    """Texts to ids [N, L] with Gemma's vocabulary, as `Siglip2Tokenizer` of transformers 5.x.

    Attributes: `seq_len`, `eos_id`, `pad_id`.

    Args:
        vocabulary: a tokenizer.json, or a SentencePiece model such as tokenizer.model.
        seq_len: L, the length of every row; SigLIP 2's models have 64 positions.
        lower: False keeps the case, as transformers' `GemmaTokenizer` does.
        pad_token: the piece that fills a row.
        eos_token: the piece that ends a text.
        special: other tokens that are found in a text as they are spelt, besides those that tokenizer.json lists.

    Raises:
        CheckpointError: the file cannot be used, or is not the vocabulary of a SigLIP 2 model.
        InputError: `seq_len` is not a positive integer.
    """

    def __init__(
        self,
        vocabulary: str | os.PathLike[str],
        seq_len: int = 64,
        lower: bool = True,
        *,
        pad_token: str = _TOKENS["pad_token"],
        eos_token: str = _TOKENS["eos_token"],
        special: Iterable[str] = (_TOKENS["bos_token"], _TOKENS["unk_token"]),
    ) -> None:
        super().__init__(seq_len)
        path, special = Path(vocabulary), list(special)
        kind: type[_Json | _SentencePiece] = _Json if path.suffix == ".json" else _SentencePiece
        self._vocabulary: _Vocabulary = kind(path, [pad_token, eos_token, *special], lower)
        ids = {token: self._vocabulary.id_of(token) for token in (pad_token, eos_token, *special)}
        if (ids[pad_token], ids[eos_token]) != (_PAD_ID, _EOS_ID):
            raise CheckpointError(
                f"{path} has {pad_token!r} as {ids[pad_token]} and {eos_token!r} as {ids[eos_token]}, expected "
                f"{_PAD_ID} and {_EOS_ID}, with which SigLIP 2 is trained: use the vocabulary of the checkpoint"
            )
        missing = sorted(token for token, i in ids.items() if i is None)
        if missing:
            raise CheckpointError(
                f"{path} lacks the tokens {missing}: tokens beyond the vocabulary are not supported, pass token ids "
                "made elsewhere"
            )
        self.pad_id, self.eos_id = _PAD_ID, _EOS_ID

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], seq_len: int = 64, lower: bool = True) -> Siglip2Tokenizer:
        """The tokenizer of a checkpoint folder: tokenizer.json or tokenizer.model, and tokenizer_config.json.

        Args:
            folder: in Hugging Face's format.
            seq_len: L, the length of every row.
            lower: `do_lower_case` is not looked at, as in transformers 5.x.

        Raises:
            CheckpointError: no vocabulary, or settings that would give other ids.
        """
        folder = Path(folder)
        found = [folder / name for name in (JSON_FILE, MODEL_FILE) if (folder / name).exists()]
        if not found:
            raise CheckpointError(
                f"{folder / JSON_FILE} does not exist, nor {MODEL_FILE}, expected one of them as the vocabulary of "
                f"SigLIP 2: check the folder, or download {JSON_FILE} of the checkpoint into it"
            )
        settings: dict[str, Any] = read_settings(folder, _SUPPORTED_SETTINGS, "Siglip2Tokenizer")
        tokens = _TOKENS | named_tokens(settings, _TOKENS)
        special = sorted({*tokens.values(), *added_tokens(settings)} - {tokens["pad_token"], tokens["eos_token"]})
        return cls(
            found[0], seq_len, lower, pad_token=tokens["pad_token"], eos_token=tokens["eos_token"], special=special
        )

    @property
    def vocab_size(self) -> int:
        """V, one more than the largest id."""
        return self._vocabulary.size

    def _ids(self, text: str) -> list[int]:
        return self._vocabulary.ids(text)

    def _pieces(self, text: str) -> list[str]:
        return [self._vocabulary.piece(i) for i in self._ids(text)]

    def _closed(self, ids: list[int]) -> list[int]:
        return [*ids, self.eos_id]
