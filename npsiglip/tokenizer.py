"""Text to ids: `Tokenizer` gives the same ids as `SiglipTokenizer` of transformers 5.x, always padded.

Source of truth: transformers 5.x, `models/siglip/tokenization_siglip.py` and the classes under it. The steps, for
one text, with "▁" the sign that SentencePiece writes for a space:

1. "▁" + text, where every "▁" of the text itself is a space;
2. the special tokens `</s>` and `<unk>`, spelt exactly so, split the text into segments;
3. each segment is canonicalised: lower case, no ASCII punctuation, one space for any white space, none at the ends;
4. SentencePiece (which applies its own nmt_nfkc normalisation, after step 3) cuts each segment into pieces;
5. pieces become ids, `</s>` closes them unless it already does, and `</s>` again fills the row.

Several results look odd and are deliberate, because the released models are used through that class: "…" survives
step 3 and becomes "..." in step 4, "_" joins words instead of parting them, a segment after a special token begins
without "▁". docs/divergences.md shows each case, beside transformers 4.x and the authors' own code.

Left out: the BPE tokenizer of SigLIP 2, text pairs, attention masks (SigLIP has none: padding is attended to),
added tokens beyond the vocabulary. sentencepiece is imported when the first `Tokenizer` is made.
"""

from __future__ import annotations

import json
import os
import re
import string
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import CheckpointError, InputError

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

MODEL_FILE = "spiece.model"
CONFIG_FILE = "tokenizer_config.json"
SPACE = "▁"  # U+2581, not an underscore

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_WHITE_SPACE = re.compile(r"\s+")

# Settings of tokenizer_config.json that change ids, with the values that this module computes with.
_SUPPORTED_SETTINGS: dict[str, tuple[object, ...]] = {
    "tokenizer_class": ("SiglipTokenizer", None),
    "padding_side": ("right",),
    "truncation_side": ("right",),
    "split_special_tokens": (False, None),
    "legacy": (True,),  # anything else, null too, switches off SentencePiece's dummy prefix
    "sp_model_kwargs": ({}, None),  # these could make SentencePiece sample at random
}
_DEFAULT_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"}
_SIGLIP2_CLASSES = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer")


def canonicalize(text: str, lower: bool = True) -> str:
    """Lower case, ASCII punctuation deleted, runs of white space as one space, none at either end.

    Punctuation is deleted, not replaced: "t-shirt" becomes "tshirt", "a_b" becomes "ab". Punctuation outside ASCII
    stays. Source: `_canonicalize` in big_vision's `prompt_engineering.py`, without its "_" to " ", as in transformers.

    Args:
        text: any text.
        lower: False keeps the case and does the rest.
    """
    if lower:
        text = text.lower()
    return _WHITE_SPACE.sub(" ", text.translate(_NO_PUNCTUATION)).strip()


def _check_text(text: object, where: str) -> str:
    if not isinstance(text, str):
        hint = "decode it first: `.decode('utf-8')`" if isinstance(text, bytes | bytearray) else "pass a str"
        raise InputError(f"{where} is {type(text).__name__} ({text!r:.40}), expected str: {hint}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} has a lone surrogate (U+{ord(text[error.start]):04X}) at position {error.start}, expected "
            "Unicode text: it was probably decoded with errors='surrogateescape', use errors='replace'"
        ) from None
    return text


def _check_texts(texts: object) -> list[str]:
    """The texts as a non-empty list; a lone str is one text."""
    if isinstance(texts, str | bytes | bytearray):
        return [_check_text(texts, "the text")]
    if isinstance(texts, Mapping | Set) or not isinstance(texts, Iterable):
        raise InputError(
            f"texts is {type(texts).__name__}, expected a str or a sequence of str: pass a list, e.g. ['a cat']"
        )
    checked = [_check_text(text, f"texts[{i}]") for i, text in enumerate(texts)]
    if not checked:
        raise InputError("texts is empty, expected at least one str: pass a list such as ['a cat']")
    return checked


def _read_model(model_file: Path) -> SentencePieceProcessor:
    from sentencepiece import SentencePieceProcessor

    try:
        data = model_file.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {model_file} ({error.strerror}), expected a SentencePiece model: check the path, or "
            f"download {MODEL_FILE} of the checkpoint again"
        ) from None
    if data.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{model_file} is a Git LFS pointer, expected a SentencePiece model: run `git lfs pull` in its folder"
        )
    try:
        if not data:  # SentencePiece would take it, as a model without pieces
            raise RuntimeError
        return SentencePieceProcessor(model_proto=data)
    except RuntimeError:
        raise CheckpointError(
            f"{model_file} ({len(data)} bytes) is not a SentencePiece model or is cut short: "
            f"download {MODEL_FILE} of the checkpoint again"
        ) from None


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, {} where there is no file."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {path} as JSON ({error}): download it again") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a JSON {type(content).__name__}, expected an object: download it again")
    return content


def _token_text(token: object) -> str:
    """A token's spelling: written as a string, or in an object beside its stripping flags."""
    text = token.get("content") if isinstance(token, dict) else token
    if not isinstance(text, str):
        raise CheckpointError(
            f"{CONFIG_FILE} has a token {token!r}, expected a string or an object with `content`: download it again"
        )
    return text


def _tokens(key: str, tokens: object) -> list[object]:
    """The tokens of a setting: written as a list, or as an object with ids or names for keys."""
    if isinstance(tokens, dict):
        return list(tokens.values())
    if not isinstance(tokens, list | None):
        raise CheckpointError(f"{CONFIG_FILE} has {key} {tokens!r}, expected an object or a list: download it again")
    return tokens or []


def _read_settings(folder: Path) -> dict[str, Any]:
    """The constructor's keywords from a folder's JSON files; refuses what would give other ids than promised."""
    settings = _read_json(folder / CONFIG_FILE)
    if "added_tokens_decoder" not in settings:  # older versions of transformers kept these in files of their own
        settings |= _read_json(folder / "special_tokens_map.json")
        settings["added_tokens_decoder"] = list(_read_json(folder / "added_tokens.json"))

    tokenizer_class = settings.get("tokenizer_class")
    if tokenizer_class in _SIGLIP2_CLASSES:
        raise CheckpointError(
            f"{folder / CONFIG_FILE} names {tokenizer_class}, a SigLIP 2 tokenizer, which is not supported yet: "
            "use a SigLIP checkpoint, or pass token ids made elsewhere"
        )
    for key, supported in _SUPPORTED_SETTINGS.items():
        if key in settings and settings[key] not in supported:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} has {key} {settings[key]!r}, expected {supported[0]!r}: only "
                "SiglipTokenizer with its usual settings is supported, pass token ids made elsewhere"
            )

    keywords = {key: settings[key] for key in _DEFAULT_TOKENS if settings.get(key) is not None}
    keywords = {key: _token_text(token) for key, token in keywords.items()}
    known = set((_DEFAULT_TOKENS | keywords).values())
    others: list[object] = [
        token for key, token in settings.items() if key.endswith("_token") and isinstance(token, str | dict)
    ]
    for key in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"):
        others += _tokens(key, settings.get(key))
    unknown = sorted({_token_text(token) for token in others} - known)
    if unknown:
        raise CheckpointError(
            f"{folder} has added tokens {unknown}, expected none beside {sorted(known)}: "
            "they are not supported, pass token ids made elsewhere"
        )
    return keywords | {"canonicalize": bool(settings.get("do_lower_case", True))}


class Tokenizer:
    """Texts to ids [N, L] with a SentencePiece model, as `SiglipTokenizer` of transformers 5.x.

    Attributes: `seq_len`, `eos_id`, `unk_id`, `pad_id`, `canonicalize`.

    Args:
        model_file: a SentencePiece model, `spiece.model` in a checkpoint folder.
        seq_len: L, the length of every row; a checkpoint's position table decides it (64, or 16 for some).
        canonicalize: False is the original's `do_lower_case=False`: letters keep their case. Punctuation and white
            space are treated as before, as they are in the original.
        eos_token: the piece that ends a text.
        unk_token: the piece for what the vocabulary cannot spell.
        pad_token: the piece that fills a row.

    Raises:
        CheckpointError: the file cannot be used, or lacks one of these three pieces.
        InputError: `seq_len` is not a positive integer.
    """

    def __init__(
        self,
        model_file: str | os.PathLike[str],
        seq_len: int = 64,
        canonicalize: bool = True,
        *,
        eos_token: str = "</s>",
        unk_token: str = "<unk>",
        pad_token: str = "</s>",
    ) -> None:
        if isinstance(seq_len, bool) or not isinstance(seq_len, int | np.integer) or seq_len < 1:
            raise InputError(f"seq_len is {seq_len!r}, expected an integer of at least 1, such as 64")
        self.seq_len = int(seq_len)
        self.canonicalize = canonicalize
        self._model = _read_model(Path(model_file))
        self._special = {token: self._piece_id(token, model_file) for token in (eos_token, unk_token, pad_token)}
        self.eos_id = self._special[eos_token]
        self.unk_id = self._special[unk_token]
        self.pad_id = self._special[pad_token]
        self._split = re.compile("(" + "|".join(map(re.escape, self._special)) + ")").split
        self._prefix = unk_token
        self._prefix_len = len(self._model.encode(unk_token, out_type=str))

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], seq_len: int = 64, canonicalize: bool | None = None
    ) -> Tokenizer:
        """The tokenizer of a checkpoint folder: `spiece.model`, and `tokenizer_config.json` if it is there.

        Args:
            folder: in Hugging Face's format.
            seq_len: L, the length of every row.
            canonicalize: None takes the folder's own setting, `do_lower_case`.

        Raises:
            CheckpointError: no `spiece.model`, a SigLIP 2 tokenizer, or settings that would give other ids.
        """
        folder = Path(folder)
        model_file = folder / MODEL_FILE
        if not model_file.exists():
            if (folder / "tokenizer.json").exists():
                raise CheckpointError(
                    f"{folder} has tokenizer.json and no {MODEL_FILE}: SigLIP 2 tokenizers are not supported yet, "
                    "use a SigLIP checkpoint, or pass token ids made elsewhere"
                )
            raise CheckpointError(
                f"{model_file} does not exist, expected the SentencePiece model of the checkpoint: check the folder, "
                f"or download {MODEL_FILE} into it"
            )
        settings = _read_settings(folder)
        if canonicalize is not None:
            settings["canonicalize"] = canonicalize
        return cls(model_file, seq_len, **settings)

    def _piece_id(self, token: str, model_file: str | os.PathLike[str]) -> int:
        i: int = self._model.piece_to_id(token)
        if self._model.id_to_piece(i) != token:  # an unknown piece gets the id of <unk>
            raise CheckpointError(
                f"{os.fspath(model_file)} has no piece {token!r}, expected a vocabulary of SigLIP: use the "
                f"{MODEL_FILE} that belongs to the checkpoint"
            )
        return i

    @property
    def vocab_size(self) -> int:
        """V, the number of pieces."""
        size: int = self._model.get_piece_size()
        return size

    def _segment_pieces(self, segment: str) -> list[str]:
        # `<unk>` in front keeps SentencePiece from stripping or adding the "▁" that the segment begins with. It is
        # spelt out in ordinary pieces, which are counted off again: a combining character at the start of a segment
        # joins the ">" and leaves something of itself behind. The ids of the original have this, so these have it.
        pieces: list[str] = self._model.encode(
            self._prefix + canonicalize(segment, lower=self.canonicalize), out_type=str
        )
        return pieces[self._prefix_len :] if len(pieces) >= self._prefix_len else pieces

    def _pieces(self, text: str) -> list[str]:
        pieces: list[str] = []
        for part in self._split(SPACE + text.replace(SPACE, " ")):
            if part in self._special:
                pieces.append(part)
            elif part:
                pieces += self._segment_pieces(part)
        if len(pieces) > 1 and pieces[0] == SPACE and pieces[1] in self._special:
            return pieces[1:]
        return pieces

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._model.piece_to_id(self._pieces(text))
        return ids

    def _closed(self, ids: list[int]) -> list[int]:
        return ids if ids and ids[-1] == self.eos_id else [*ids, self.eos_id]

    def tokenize(self, text: str) -> list[str]:
        """The pieces of one text, of any length, without the closing `</s>`.

        Raises:
            InputError: `text` is not a str or has lone surrogates.
        """
        return self._pieces(_check_text(text, "the text"))

    def encode(self, text: str) -> list[int]:
        """The ids of one text, of any length, closed with `</s>` (once, if the text itself ends with it).

        Raises:
            InputError: `text` is not a str or has lone surrogates.
        """
        return self._closed(self._ids(_check_text(text, "the text")))

    def __call__(self, texts: str | Sequence[str]) -> NDArray[np.int64]:
        """The ids of N texts as int64 [N, L]; a text too long loses its end, and `</s>` stays the last id.

        Nothing tells that a text was cut: ask `truncated`.

        Raises:
            InputError: no texts, or one that is not a str or has lone surrogates.
        """
        checked = _check_texts(texts)
        rows = np.full((len(checked), self.seq_len), self.pad_id, np.int64)  # [N, L]
        for row, text in zip(rows, checked, strict=True):
            ids = self._ids(text)
            if len(ids) >= self.seq_len:  # even if the last one is `</s>`: the cut comes before the closing
                ids = ids[: self.seq_len - 1]
            ids = self._closed(ids)
            row[: len(ids)] = ids
        return rows

    def truncated(self, texts: str | Sequence[str]) -> list[bool]:
        """For each text, whether it has more ids than `seq_len`, so that a call loses its end.

        Raises:
            InputError: as a call.
        """
        return [len(self._closed(self._ids(text))) > self.seq_len for text in _check_texts(texts)]

    def decode(self, ids: Sequence[int] | NDArray[np.integer[Any]]) -> str:
        """The canonicalised text that ids [L] spell, special tokens and padding left out.

        Raises:
            InputError: `ids` is not a row of integers from 0 to V - 1.
        """
        row = np.asarray(ids)
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iu"):
            raise InputError(
                f"ids is {row.dtype} of shape {list(row.shape)}, expected integers [L]: decode rows one by one"
            )
        if row.size and not (row.min() >= 0 and row.max() < self.vocab_size):
            raise InputError(
                f"ids are {row.min()} to {row.max()}, expected 0 to {self.vocab_size - 1}: "
                "were they made with another vocabulary?"
            )
        special = set(self._special.values())
        text: str = self._model.decode([self._model.id_to_piece(int(i)) for i in row if i not in special])
        return text.strip()
