"""A SentencePiece vocabulary of captions, with the ids that SigLIP's own has: <pad> 0, </s> 1, <unk> 2.

Byte-pair encoding: SigLIP's is a unigram model, but SentencePiece takes for those only pieces that it finds in two
different words, so that of few words many are cut up. The texts are canonicalised first, as `npsiglip.Tokenizer` does
it before it cuts them. The letters a to z, the digits, and every other letter of the captions are pieces, so that any
English word can be spelt.
"""

from __future__ import annotations

import io
import string
from collections.abc import Iterable
from pathlib import Path

from npsiglip.atomic import write_all
from npsiglip.errors import InputError
from npsiglip.interrupts import deferred
from npsiglip.texts.siglip import canonicalize

# `npsiglip.Tokenizer`, as the original, lets "<unk>" be cut with every text and counts its pieces off again
REQUIRED = string.ascii_lowercase + string.digits + "<>"


def train_tokenizer(captions: Iterable[str], vocab_size: int, path: str | Path) -> None:
    """Write a SentencePiece model of at most `vocab_size` pieces; the same captions give the same bytes.

    Args:
        captions: the more often a word comes, the more likely it is one piece.
        vocab_size: V; captions of few words give fewer pieces.
        path: of the file, in a folder that exists.

    Raises:
        InputError: no captions, or a vocabulary too small for their letters.
        OSError: the file cannot be written.
    """
    with deferred():
        from sentencepiece import SentencePieceTrainer

    texts = [text for text in map(canonicalize, captions) if text]
    if not texts:
        raise InputError("a tokenizer needs captions to be trained on, got none with a letter in it")
    letters = sorted(set("".join(texts)) - {" "} | set(REQUIRED))
    if vocab_size < len(letters) + 8:
        raise InputError(
            f"a vocabulary of {vocab_size} is too small for the {len(letters)} letters of the captions; "
            "set vocab_size to some hundreds"
        )
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars="".join(letters),
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        num_threads=1,  # the sums of several would be added in another order each time
        shuffle_input_sentence=False,
        minloglevel=2,
    )
    path = Path(path)
    write_all(path.parent, {path.name: lambda place: place.write_bytes(model.getvalue())})
