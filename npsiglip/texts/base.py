"""What tokenizers share: which texts they take, how ids become rows, how their files are read.

Source: the padding and truncation of transformers 5.x with `padding="max_length", truncation=True`: a text that is too
long loses its end, the closing id stays last, and padding fills the right. Leaves out attention masks: SigLIP has none.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from npsiglip.errors import CheckpointError, InputError
from npsiglip.interrupts import deferred
from npsiglip.json_files import read_json

if TYPE_CHECKING:
    from sentencepiece import SentencePieceProcessor

CONFIG_FILE = "tokenizer_config.json"
SPACE = "▁"  # U+2581, not an underscore


def check_text(text: object, where: str) -> str:
    """A text, called `where` in errors.

    Raises:
        InputError: it is not a str or has lone surrogates.
    """
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


def check_texts(texts: object) -> list[str]:
    """The texts as a non-empty list; a lone str is one text. Raises as `check_text`."""
    if isinstance(texts, str | bytes | bytearray):
        return [check_text(texts, "the text")]
    if isinstance(texts, Mapping | Set) or not isinstance(texts, Iterable):
        raise InputError(
            f"texts is {type(texts).__name__}, expected a str or a sequence of str: pass a list, e.g. ['a cat']"
        )
    checked = [check_text(text, f"texts[{i}]") for i, text in enumerate(texts)]
    if not checked:
        raise InputError("texts is empty, expected at least one str: pass a list such as ['a cat']")
    return checked


def read_vocabulary(path: Path, what: str) -> bytes:
    """The bytes of a vocabulary's file, which should hold `what`.

    Raises:
        CheckpointError: it cannot be read, or is a Git LFS pointer.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path} ({error.strerror}), expected {what}: check the path, or "
            f"download {path.name} of the checkpoint again"
        ) from None
    if data.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path} is a Git LFS pointer, expected {what}: run `git lfs pull` in its folder")
    return data


def read_sentencepiece(path: Path) -> SentencePieceProcessor:
    """A SentencePiece model.

    Raises:
        CheckpointError: the file cannot be used.
    """
    with deferred():
        from sentencepiece import SentencePieceProcessor

    data = read_vocabulary(path, "a SentencePiece model")
    try:
        if not data:  # SentencePiece would take it, as a model without pieces
            raise RuntimeError
        return SentencePieceProcessor(model_proto=data)
    except RuntimeError:
        raise CheckpointError(
            f"{path} ({len(data)} bytes) is not a SentencePiece model or is cut short: "
            f"download {path.name} of the checkpoint again"
        ) from None


def token_text(token: object) -> str:
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


def read_settings(folder: Path, supported: Mapping[str, tuple[object, ...]], name: str) -> dict[str, Any]:
    """The content of tokenizer_config.json, {} where there is none.

    Args:
        folder: of the checkpoint.
        supported: settings that change ids, with the values that are computed with, the usual one first.
        name: the class of transformers that these are for.

    Raises:
        CheckpointError: a file that cannot be read, or a setting that would give other ids.
    """
    settings = read_json(folder / CONFIG_FILE)
    if "added_tokens_decoder" not in settings:  # older versions of transformers kept these in files of their own
        settings |= read_json(folder / "special_tokens_map.json")
        settings["added_tokens_decoder"] = list(read_json(folder / "added_tokens.json"))
    for key, values in supported.items():
        if key in settings and settings[key] not in values:
            raise CheckpointError(
                f"{folder / CONFIG_FILE} has {key} {settings[key]!r}, expected {values[0]!r}: only "
                f"{name} with its usual settings is supported, pass token ids made elsewhere"
            )
    return settings


def named_tokens(settings: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    """Those of the tokens `names`, such as "eos_token", that the settings name."""
    return {name: token_text(settings[name]) for name in names if settings.get(name) is not None}


def added_tokens(settings: Mapping[str, Any]) -> set[str]:
    """Every token that the settings speak of."""
    tokens: list[object] = [
        token for key, token in settings.items() if key.endswith("_token") and isinstance(token, str | dict)
    ]
    for key in ("additional_special_tokens", "extra_special_tokens", "added_tokens_decoder"):
        tokens += _tokens(key, settings.get(key))
    return {token_text(token) for token in tokens}


class BaseTokenizer(ABC):
    """Texts to ids [N, L]; a subclass has the vocabulary.

    Attributes: `seq_len`, `eos_id`, `pad_id`.
    """

    eos_id: int
    pad_id: int

    def __init__(self, seq_len: int) -> None:
        if isinstance(seq_len, bool) or not isinstance(seq_len, int | np.integer) or seq_len < 1:
            raise InputError(f"seq_len is {seq_len!r}, expected an integer of at least 1, such as 64")
        self.seq_len = int(seq_len)

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """V: ids are below it."""

    @abstractmethod
    def _pieces(self, text: str) -> list[str]:
        """The pieces of a text, without what closes it."""

    @abstractmethod
    def _ids(self, text: str) -> list[int]:
        """Their ids."""

    @abstractmethod
    def _closed(self, ids: list[int]) -> list[int]:
        """Ids with the closing one."""

    def tokenize(self, text: str) -> list[str]:
        """The pieces of one text, of any length, without the closing one.

        Raises:
            InputError: `text` is not a str or has lone surrogates.
        """
        return self._pieces(check_text(text, "the text"))

    def encode(self, text: str) -> list[int]:
        """The ids of one text, of any length, closed.

        Raises:
            InputError: `text` is not a str or has lone surrogates.
        """
        return self._closed(self._ids(check_text(text, "the text")))

    def __call__(self, texts: str | Sequence[str]) -> NDArray[np.int64]:
        """The ids of N texts as int64 [N, L]; a text too long loses its end, and the closing id stays last.

        Nothing tells that a text was cut: ask `truncated`, or `rows` for both.

        Raises:
            InputError: no texts, or one that is not a str or has lone surrogates.
        """
        return self.rows(texts)[0]

    def rows(self, texts: str | Sequence[str]) -> tuple[NDArray[np.int64], dict[int, str]]:
        """As a call; and the texts that lost their ends, by their places.

        Raises:
            InputError: as a call.
        """
        checked, cut = check_texts(texts), {}
        rows = np.full((len(checked), self.seq_len), self.pad_id, np.int64)  # [N, L]
        for i, text in enumerate(checked):
            ids = self._ids(text)
            if len(ids) >= self.seq_len:  # even if the last one closes: the cut comes before the closing
                if len(self._closed(ids)) > self.seq_len:
                    cut[i] = text
                ids = ids[: self.seq_len - 1]
            ids = self._closed(ids)
            rows[i, : len(ids)] = ids
        return rows, cut

    def truncated(self, texts: str | Sequence[str]) -> list[bool]:
        """For each text, whether it has more ids than `seq_len`, so that a call loses its end.

        Raises:
            InputError: as a call.
        """
        return [len(self._closed(self._ids(text))) > self.seq_len for text in check_texts(texts)]
