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

Left out: SigLIP 2's tokenizer (`npsiglip.texts.siglip2`), text pairs, attention masks (SigLIP has none: padding is
attended to), added tokens beyond the vocabulary. sentencepiece is imported when the first `Tokenizer` is made.
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import CheckpointError, InputError
from npsiglip.texts.base import (
    CONFIG_FILE,
    SPACE,
    BaseTokenizer,
    added_tokens,
    named_tokens,
    read_sentencepiece,
    read_settings,
)

MODEL_FILE = "spiece.model"

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


def _read_keywords(folder: Path) -> dict[str, Any]:
    """The constructor's keywords from a folder's JSON files; refuses what would give other ids than promised."""
    settings = read_settings(folder, _SUPPORTED_SETTINGS, "SiglipTokenizer")
    keywords = named_tokens(settings, _DEFAULT_TOKENS)
    known = set((_DEFAULT_TOKENS | keywords).values())
    unknown = sorted(added_tokens(settings) - known)
    if unknown:
        raise CheckpointError(
            f"{folder} has added tokens {unknown}, expected none beside {sorted(known)}: "
            "they are not supported, pass token ids made elsewhere"
        )
    lower = settings.get("do_lower_case", True)
    if not isinstance(lower, bool | None):
        raise CheckpointError(f"{folder / CONFIG_FILE} has do_lower_case {lower!r}, expected true or false")
    return keywords | {"canonicalize": bool(lower)}


class Tokenizer(BaseTokenizer):
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
        super().__init__(seq_len)
        self.canonicalize = canonicalize
        self._model = read_sentencepiece(Path(model_file))
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
            CheckpointError: no `spiece.model`, or settings that would give other ids.
        """
        folder = Path(folder)
        model_file = folder / MODEL_FILE
        if not model_file.exists():
            raise CheckpointError(
                f"{model_file} does not exist, expected the SentencePiece model of the checkpoint (SigLIP 2 has "
                f"tokenizer.json, for `Siglip2Tokenizer`): check the folder, or download {MODEL_FILE} into it"
            )
        settings = _read_keywords(folder)
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
