"""Text to ids as open_clip does it: texts are cleaned, then cut by the folder's own vocabulary.

Source of truth: open_clip 3.3 `tokenizer.py` (`HFTokenizer`) on transformers 5.24. The cleaning, `canonicalize` for all
SigLIP models:

1. ftfy.fix_text; HTML entities unescaped, twice; no white space at the ends;
2. "_" becomes a space, ASCII punctuation is deleted, letters are lowered, white space is one space.

Then SigLIP's vocabulary is a tokenizer.json of the Unigram kind, which transformers reads as its `T5Tokenizer`: pieces
of words between white space, without bytes for what has none; `</s>` closes a text and fills the row. SigLIP 2's is
Gemma's, see `npsiglip.texts.siglip2`, without its lowering. A folder with spiece.model is read by
`npsiglip.texts.siglip`.

ftfy is imported when a text needs it: one with other characters than printable ASCII, or with "&". Leaves out: the mode
"clips", languages, other settings of `tokenizer_kwargs` than `clean`.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from npsiglip.errors import CheckpointError, InputError
from npsiglip.interrupts import deferred
from npsiglip.json_files import read_json
from npsiglip.texts.base import CONFIG_FILE, BaseTokenizer, read_vocabulary, token_text
from npsiglip.texts.siglip import MODEL_FILE, Tokenizer
from npsiglip.texts.siglip2 import JSON_FILE, Siglip2Tokenizer

_PLAIN = re.compile(r"[\t\n\r !-%'-~]*")  # which ftfy leaves as it is: printable ASCII without "&"
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_UNKNOWN_ID = 2  # transformers takes no other for a T5 vocabulary, whatever the file says


def _fixed(text: str) -> str:
    """What ftfy.fix_text makes of a text.

    Raises:
        InputError: ftfy is needed and not there.
    """
    if _PLAIN.fullmatch(text):
        return text
    try:
        from ftfy import fix_text
    except ImportError:
        raise InputError(
            f"{text!r:.60} has characters that open_clip's cleaning may change, which the package ftfy does, and it is "
            "not installed: pip install ftfy, or give plain ASCII text without '&'"
        ) from None
    fixed: str = fix_text(text)
    return fixed


def _basic(text: str) -> str:
    return html.unescape(html.unescape(_fixed(text))).strip()


def _canonical(text: str) -> str:
    # lowered after punctuation is gone, unlike `tokenizer.canonicalize`: a sigma is final where no letter follows
    return " ".join(_basic(text).replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def _spaced(text: str) -> str:
    return " ".join(_basic(text).split())


CLEAN: dict[str, Callable[[str], str]] = {
    "canonicalize": _canonical,
    "lower": lambda text: _spaced(text).lower(),
    "whitespace": _spaced,
}


def _charsmap(normalizer: Any) -> Any:
    """SentencePiece's table of characters in a tokenizer.json's normalizer: all that transformers takes of it."""
    with deferred():
        from tokenizers.normalizers import Precompiled

    steps = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    for step in steps:
        if isinstance(step, dict) and step.get("type") == "Precompiled" and step.get("precompiled_charsmap"):
            return Precompiled(base64.b64decode(step["precompiled_charsmap"]))
    return None


class UnigramTokenizer(BaseTokenizer):
    """A tokenizer.json of the Unigram kind, as transformers' `T5Tokenizer` reads it; texts are not cleaned.

    Args:
        path: of the tokenizer.json.
        seq_len: L, the length of every row.
        eos_token: closes a text.
        pad_token: fills a row.

    Raises:
        CheckpointError: the file cannot be used, is of another kind, or lacks one of these tokens.
    """

    def __init__(self, path: Path, seq_len: int, eos_token: str = "</s>", pad_token: str = "</s>") -> None:
        super().__init__(seq_len)
        with deferred():
            from tokenizers import Tokenizer as Reader
            from tokenizers import normalizers, pre_tokenizers

        data = read_vocabulary(path, "a vocabulary for the tokenizers library")
        try:
            content = json.loads(data)
            model = content["model"]
            self._tokenizer = Reader.from_buffer(data)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(
                f"{path} cannot be read by the tokenizers library ({error}): download it again, or update the library"
            ) from None
        if (
            model.get("type", "Unigram") != "Unigram"
            or model.get("byte_fallback")
            or model.get("unk_id") != _UNKNOWN_ID
        ):
            raise CheckpointError(
                f"{path} holds a {model.get('type')} vocabulary with the unknown piece {model.get('unk_id')}, expected "
                f"Unigram without bytes and {_UNKNOWN_ID}, as SigLIP's in open_clip: use the one of the checkpoint"
            )
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.normalizer = _charsmap(content.get("normalizer")) or normalizers.Sequence([])
        self._tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always", split=True)]
        )
        self._size: int = self._tokenizer.get_vocab_size()
        self.eos_id, self.pad_id = (self._id_of(token, path) for token in (eos_token, pad_token))

    def _id_of(self, token: str, path: Path) -> int:
        i = self._tokenizer.token_to_id(token)
        if i is None:
            raise CheckpointError(f"{path} has no piece {token!r}: use the {JSON_FILE} that belongs to the checkpoint")
        return int(i)

    @property
    def vocab_size(self) -> int:
        """V, the number of pieces."""
        return self._size

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _pieces(self, text: str) -> list[str]:
        return [self._tokenizer.id_to_token(i) or "" for i in self._ids(text)]

    def _closed(self, ids: list[int]) -> list[int]:
        return [*ids, self.eos_id]


class OpenClipTokenizer(BaseTokenizer):
    """Texts to ids [N, L] as open_clip's `HFTokenizer`: cleaned, then cut by another tokenizer.

    Attributes: `seq_len`, `eos_id`, `pad_id`.

    Args:
        vocabulary: what cuts a cleaned text.
        clean: a name of `CLEAN`.
    """

    def __init__(self, vocabulary: BaseTokenizer, clean: str = "canonicalize") -> None:
        super().__init__(vocabulary.seq_len)
        self._vocabulary, self.clean = vocabulary, CLEAN[clean]
        self.eos_id, self.pad_id = vocabulary.eos_id, vocabulary.pad_id

    @classmethod
    def from_folder(
        cls, folder: str | os.PathLike[str], seq_len: int, text_cfg: dict[str, Any] | None = None
    ) -> OpenClipTokenizer:
        """The tokenizer of an open_clip folder.

        Args:
            folder: with tokenizer.json and tokenizer_config.json, or with spiece.model.
            seq_len: L, the length of every row.
            text_cfg: of open_clip_config.json, for `tokenizer_kwargs`.

        Raises:
            CheckpointError: no vocabulary, one that cannot be used, or settings that would give other ids.
        """
        folder, settings = Path(folder), text_cfg or {}
        options = settings.get("tokenizer_kwargs") or {}
        clean = options.get("clean", "whitespace") if isinstance(options, dict) else options
        extra = sorted(set(options) - {"clean"}) if isinstance(options, dict) else []
        if extra or clean not in CLEAN or settings.get("tokenizer_mode"):
            raise CheckpointError(
                f"{folder} asks for a tokenizer with tokenizer_kwargs {options!r:.80} and tokenizer_mode "
                f"{settings.get('tokenizer_mode')!r}, expected clean as one of {', '.join(CLEAN)} and nothing else: "
                "pass token ids made elsewhere"
            )
        return cls(_vocabulary(folder, seq_len), clean)

    @property
    def vocab_size(self) -> int:
        """V: ids are below it."""
        return self._vocabulary.vocab_size

    @property
    def is_unigram(self) -> bool:
        """Whether the vocabulary is a tokenizer.json of the Unigram kind, which only open_clip's folders have."""
        return isinstance(self._vocabulary, UnigramTokenizer)

    def _ids(self, text: str) -> list[int]:
        return self._vocabulary._ids(self.clean(text))

    def _pieces(self, text: str) -> list[str]:
        return self._vocabulary._pieces(self.clean(text))

    def _closed(self, ids: list[int]) -> list[int]:
        return self._vocabulary._closed(ids)


def _vocabulary(folder: Path, seq_len: int) -> BaseTokenizer:
    path = folder / JSON_FILE
    if not path.exists():
        return Tokenizer.from_folder(folder, seq_len) if (folder / MODEL_FILE).exists() else _siglip2(folder, seq_len)
    try:
        model = json.loads(path.read_bytes())["model"]
        unigram = model.get("type", "Unigram") == "Unigram"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} cannot be read as a vocabulary ({error}): download it again") from None
    if not unigram:
        return _siglip2(folder, seq_len)
    config = read_json(folder / CONFIG_FILE)
    named = {name: token_text(config[name]) for name in ("eos_token", "pad_token") if config.get(name) is not None}
    return UnigramTokenizer(path, seq_len, **named)


def _siglip2(folder: Path, seq_len: int) -> Siglip2Tokenizer:
    return Siglip2Tokenizer.from_folder(folder, seq_len, lower=False)
