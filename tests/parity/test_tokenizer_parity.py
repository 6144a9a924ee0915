"""Live comparison with `SiglipTokenizer` of the installed transformers, on thousands of generated strings."""

import random

import pytest
import transformers
from transformers import SiglipTokenizer

from golden.make_spiece import train
from golden.strings import strings
from npsiglip.texts.siglip import Tokenizer
from tests.helpers.golden_data import TINY

pytestmark = pytest.mark.filterwarnings("ignore:This sequence already has")  # theirs, on a text that ends with </s>


def differing(theirs: SiglipTokenizer, ours: Tokenizer, texts: list[str]) -> list[str]:
    rows = theirs(texts, padding="max_length", max_length=ours.seq_len, truncation=True).input_ids
    return [text for text, row, own in zip(texts, rows, ours(texts).tolist(), strict=True) if row != own]


def test_the_peer_is_transformers_5():
    assert transformers.__version__.startswith("5.")


@pytest.mark.parametrize(
    ("lower", "seq_len", "count", "seed"), [(True, 64, 12_000, 1), (False, 64, 5_000, 2), (True, 16, 5_000, 3)]
)
def test_ids(lower, seq_len, count, seed):
    texts = strings(count, seed)
    assert len(set(texts)) == count
    theirs = SiglipTokenizer.from_pretrained(TINY, do_lower_case=lower)
    assert not differing(theirs, Tokenizer(TINY / "spiece.model", seq_len, lower), texts)


def test_a_folder_that_transformers_saved(tmp_path):
    theirs = SiglipTokenizer.from_pretrained(TINY, do_lower_case=False, pad_token="<pad>")
    theirs.save_pretrained(tmp_path)
    ours = Tokenizer.from_folder(tmp_path, 24)
    assert (ours.canonicalize, ours.pad_id) == (False, 0)
    assert not differing(theirs, ours, strings(2_000, 4))


def test_unpadded_ids_pieces_and_text():
    theirs = SiglipTokenizer.from_pretrained(TINY, model_max_length=10**6)
    ours = Tokenizer(TINY / "spiece.model")
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    rng = random.Random(5)
    for text in strings(2_000, 5):
        assert ours.encode(text) == theirs(text).input_ids
        assert ours.tokenize(text) == theirs.tokenize(text)
        for ids in (
            ours.encode(text),
            rng.choices(range(ours.vocab_size), k=10),
            rng.choices((0, 1, 2, 259, 260), k=5),
        ):
            assert ours.decode(ids) == theirs.decode(ids, **plain)


# Vocabularies unlike T5's. The pieces in "across" join a `<unk>` put before a segment with what follows it.
OPTIONS = {
    "no bytes": {"byte_fallback": False, "vocab_size": 700},
    "no prefix": {"add_dummy_prefix": False},
    "keeps spaces": {"remove_extra_whitespaces": False},
    "no normalisation": {"normalization_rule_name": "identity"},
    "bpe": {"model_type": "bpe"},
    "across": {"user_defined_symbols": ["<unk>b", "k>a", ">\u0338", "photo", "b</s>"]},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_other_vocabularies(name, tmp_path):
    model_file = tmp_path / "spiece.model"
    model_file.write_bytes(train(**OPTIONS[name]))
    across = [
        f"{special}{text}"
        for special in ("</s>", "<unk>")
        for text in ("b", "a", "\u0338", "\u0338b", "b b", "b a a a a")
    ]
    theirs, ours = SiglipTokenizer(str(model_file)), Tokenizer(model_file)
    assert not differing(theirs, ours, [*strings(1_500, 6), *across])


def test_the_vocabulary_in_the_goldens_is_what_the_script_trains():
    assert train() == (TINY / "spiece.model").read_bytes()


@pytest.mark.parametrize("text", ["\ud800", "a\udcff", "\ud83d\ude00"])
def test_lone_surrogates_fail_there_too(text):
    with pytest.raises((RuntimeError, UnicodeError)):
        SiglipTokenizer.from_pretrained(TINY)(text)
