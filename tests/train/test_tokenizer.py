"""The tokenizer that is trained: the same again, with SigLIP's ids."""

import pytest

from npsiglip.errors import InputError
from npsiglip.texts.siglip import Tokenizer
from npsiglip.train.tokenizer import train_tokenizer

CAPTIONS = ["A photo of a red circle.", "ein grünes Dreieck", "un círculo rojo", "un carré bleu à gauche", "È verde"]


def test_tokenizer_is_the_same_again(tmp_path):
    train_tokenizer(CAPTIONS * 20, 160, tmp_path / "a.model")
    train_tokenizer(iter(CAPTIONS * 20), 160, tmp_path / "b.model")
    assert (tmp_path / "a.model").read_bytes() == (tmp_path / "b.model").read_bytes()


def test_tokenizer_has_the_ids_of_siglip_and_spells_everything(tmp_path):
    train_tokenizer(CAPTIONS * 20, 160, tmp_path / "spiece.model")
    tokenizer = Tokenizer(tmp_path / "spiece.model", 16)
    assert (tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id) == (1, 2, 1)
    assert tokenizer.vocab_size <= 160
    for text in (*CAPTIONS, "zebra 0123456789 quick jumping fox"):
        ids = tokenizer.encode(text)
        assert tokenizer.unk_id not in ids
        assert tokenizer.decode(ids) == text.lower().replace(".", "")
    assert tokenizer.tokenize("a photo of") == ["▁a", "▁photo", "▁of"]  # words of one caption are pieces, too


def test_tokenizer_refuses(tmp_path):
    with pytest.raises(InputError, match="needs captions"):
        train_tokenizer([" ", "."], 100, tmp_path / "spiece.model")
    with pytest.raises(InputError, match="a vocabulary of 40 is too small for the 43 letters"):
        train_tokenizer(CAPTIONS, 40, tmp_path / "spiece.model")
    assert list(tmp_path.iterdir()) == []
