"""SigLIP's tokenizer: goldens from transformers, properties, and texts that cannot be used.

Covers texts/base.py as well.
"""

import re
import string
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor

from golden.make_spiece import train
from npsiglip.errors import InputError
from npsiglip.texts.siglip import Tokenizer, canonicalize
from tests.helpers.golden_data import ROOT, TINY
from tests.helpers.siglip_tokenizer import TOK, TOKENIZERS, TOKENS

EOS = 1


# what the steps treat in a special way, put side by side, and any text
FRAGMENTS = st.sampled_from(
    ["</s>", "<unk>", "</S>", "▁", "_", " ", "\t\n", "\x00", "\u0338", "a", "photo", "Σ", "İ", "…", ".", "😀", "\u3000"]
)


TEXTS = st.one_of(st.text(), st.lists(st.one_of(FRAGMENTS, st.text(max_size=3)), max_size=40).map("".join))


# ---- equal to transformers ----


@pytest.mark.parametrize(("canon", "key"), [(True, "ids"), (False, "ids_cased")])
def test_golden_ids(canon, key):
    cases, seq_len = TOKENS["cases"], TOKENS["seq_len"]
    expected = np.full((len(cases), seq_len), TOKENS["fill"])
    for row, case in zip(expected, cases, strict=True):
        row[: len(case[key])] = case[key]
    got = TOKENIZERS[seq_len, canon]([case["text"] for case in cases])
    wrong = [case["text"] for case, same in zip(cases, (got == expected).all(1), strict=True) if not same]
    assert not wrong


def test_goldens_cover_what_they_are_for():
    texts = [case["text"] for case in TOKENS["cases"]]
    assert len(texts) == 400 == len(set(texts))
    assert sum(case["ids"] != case["ids_cased"] for case in TOKENS["cases"]) > 100
    assert sum(len(case["ids"]) == 63 for case in TOKENS["cases"]) > 30, "few are cut"
    assert sum(2 in case["ids"] for case in TOKENS["cases"]) > 20, "few have <unk>"
    assert sum(EOS in case["ids"] for case in TOKENS["cases"]) > 20, "few have </s> inside"


@pytest.mark.parametrize("text", ["", " ", "▁", " ▁", "▁ ▁", "...", "_", "\n\t", "\ufeff"])
def test_no_pieces(text):
    assert TOK.tokenize(text) == []
    assert TOK.encode(text) == [EOS]
    assert (TOK(text) == EOS).all()


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("hi</s>", "hi"),
        ("A Photo!", "a photo"),
        ("▁a▁▁cat", "a cat"),
        (" a \n cat\t", "a cat"),
        ("t-shirt", "tshirt"),
        ("</s>▁cat", "</s>cat"),
    ],
)
def test_same_ids(text, same):
    assert TOK.encode(text) == TOK.encode(same)


def test_special_tokens_are_found_only_as_they_are_spelt():
    assert TOK.tokenize("</s>>") == ["</s>"]
    assert TOK.tokenize(" </s> <unk>") == ["</s>", "<unk>"]
    for text in ("</S>", "<UNK>", "</ s>", "＜unk＞", "<pad>", "<s>"):
        assert not {"</s>", "<unk>", "<pad>", "<s>"} & set(TOK.tokenize(text))


def test_the_first_rows_of_the_vocabulary_are_those_of_t5():
    model = SentencePieceProcessor(model_file=str(TINY / "spiece.model"))
    assert [model.id_to_piece(i) for i in range(4)] == ["<pad>", "</s>", "<unk>", "<0x00>"]
    assert all(model.is_byte(i) for i in range(3, 259)) and not model.is_byte(259)
    assert TOK.vocab_size == len({model.id_to_piece(i) for i in range(1000)}) == 1000
    assert (TOK.eos_id, TOK.unk_id, TOK.pad_id) == (1, 2, 1)


def test_a_cut_text_keeps_its_beginning_and_ends_with_eos():
    text = "a cat " * 40
    assert TOKENIZERS[8, True](text).tolist() == [[*TOK.encode(text)[:7], EOS]]
    assert TOKENIZERS[1, True](text).tolist() == [[EOS]]


def test_a_text_that_just_fits():
    tok = TOKENIZERS[8, True]
    texts = ["a " * n + end for n in (6, 7, 8) for end in ("", "</s>", "</s></s>")]
    a = TOK.encode("a")[0]
    rows = [[a] * 6 + [1, 1]] * 3 + [[a] * 7 + [1]] * 6
    assert tok(texts).tolist() == rows
    # nothing is lost when the ids beyond the row were only `</s>` in place of the closing one
    assert tok.truncated(texts) == [False, False, False, False, False, True, True, True, True]


@pytest.mark.parametrize(
    ("options", "text", "pieces"),
    [
        ({"remove_extra_whitespaces": False}, "</s>cat", ["</s>", "c", "at"]),
        ({"remove_extra_whitespaces": False}, "a cat", ["▁a", "▁cat"]),
        # a piece that joins the `<unk>` in front of a segment with the segment, so that fewer pieces come than went in
        ({"user_defined_symbols": ["<unk>b"]}, "</s>b", ["</s>", "▁", "<unk>b"]),
        ({"user_defined_symbols": ["<unk>b"]}, "</s>b a a a a", ["</s>", "▁a"]),
    ],
)
def test_pieces_with_vocabularies_unlike_t5(options, text, pieces, tmp_path):
    (tmp_path / "spiece.model").write_bytes(train(**options))
    assert Tokenizer.from_folder(tmp_path).tokenize(text) == pieces


def test_the_padding_token_is_special_too():
    tok = Tokenizer(TINY / "spiece.model", 8, pad_token="<pad>")
    a = TOK.encode("a")[0]
    assert tok(["a", "a<pad>"]).tolist() == [[a, 1, 0, 0, 0, 0, 0, 0], [a, 0, 1, 0, 0, 0, 0, 0]]
    assert tok.decode(tok("a")[0]) == "a"


# ---- properties ----


@given(st.lists(TEXTS, min_size=1, max_size=4), st.sampled_from(list(TOKENIZERS)))
def test_rows(texts, which):
    tok, seq_len = TOKENIZERS[which], which[0]
    rows = tok(texts)
    assert rows.shape == (len(texts), seq_len) and rows.dtype == np.int64
    assert rows.min() >= 0 and rows.max() < tok.vocab_size
    for row, text, cut in zip(rows.tolist(), texts, tok.truncated(texts), strict=True):
        ids = tok.encode(text)
        assert ids[-1] == EOS
        assert cut == (len(ids) > seq_len)
        if cut:
            assert row[-1] == EOS and row[:-1] == ids[: seq_len - 1]
        else:
            assert row == ids + [EOS] * (seq_len - len(ids))
        assert tok(text).tolist() == [row], "depends on what is beside it"


@given(TEXTS)
def test_eos_only_closes_a_text_without_special_tokens(text):
    ids = TOK.encode(text.replace("<", ""))
    assert ids.count(EOS) == 1 and ids[-1] == EOS
    assert 2 not in ids, "byte pieces spell everything"


@given(TEXTS)
def test_canonicalize(text):
    once = canonicalize(text)
    assert canonicalize(once) == once == once.lower().strip()
    assert not set(once) & set(string.punctuation)
    assert "  " not in once and not re.search(r"[^\S ]", once)
    assert canonicalize(text, lower=False).lower() == canonicalize(canonicalize(text, lower=False))


@given(TEXTS)
def test_canonical_texts_keep_their_ids(text):
    text = text.replace("<", "")  # nothing special inside
    assert TOK.encode(canonicalize(text)) == TOK.encode(text)
    assert TOK.encode(text.replace("▁", " ")) == TOK.encode(text)


@given(st.text(alphabet="abcdefghij klmno▁"))
def test_decode_gives_the_canonical_text(text):
    assert TOK.decode(TOK.encode(text)) == canonicalize(text.replace("▁", " "))


@given(st.lists(st.one_of(st.integers(0, 3), st.integers(0, 999)), max_size=70))
def test_decode_takes_any_ids(ids):
    assert TOK.decode(ids) == TOK.decode(np.array(ids, np.int32)) == TOK.decode([i for i in ids if i not in (1, 2)])


# ---- examples of canonicalize ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is a photo of a cat.", "this is a photo of a cat"),
        (string.punctuation, ""),
        ("a_b t-shirt don't", "ab tshirt dont"),
        ("a\t\n b\u00a0\u3000c\x1f", "a b c"),
        (". a .", "a"),
        ("“a” – b…", "“a” – b…"),
        ("ΟΔΟΣ ΑΣ.", "οδος ας"),
        ("ZÜRICH İ", "zürich i\u0307"),
        ("a\u200bb", "a\u200bb"),
    ],
)
def test_canonicalize_examples(text, expected):
    assert canonicalize(text) == expected


def test_canonicalize_can_keep_the_case():
    assert canonicalize(" Hello,  World! ", lower=False) == "Hello World"


# ---- input that cannot be used ----


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty"),
        ((), "texts is empty"),
        (["a", b"a"], r"texts\[1\] is bytes .*decode"),
        (["a", "b", None], r"texts\[2\] is NoneType"),
        ([["a", "b"]], r"texts\[0\] is list"),
        ([1.5], r"texts\[0\] is float"),
        (np.array(["a", 2], dtype=object), r"texts\[1\] is int"),
        (None, "texts is NoneType"),
        (7, "texts is int"),
        (b"a cat", "the text is bytes .*decode"),
        ({"a": 1}, "texts is dict"),
        ({"a", "b"}, "texts is set"),
        ("a\ud800", r"the text has a lone surrogate \(U\+D800\) at position 1"),
        (["a", "\udcff"], r"texts\[1\] has a lone surrogate \(U\+DCFF\) at position 0"),
        ("\ud83d\ude00", "lone surrogate"),
    ],
)
def test_texts_that_cannot_be_used(texts, message):
    for call in (TOK, TOK.truncated):
        with pytest.raises(InputError, match=message):
            call(texts)


@pytest.mark.parametrize("texts", [("a", "b"), np.array(["a", "b"]), iter(["a", "b"]), [np.str_("a"), "b"]])
def test_texts_in_other_containers(texts):
    assert TOK(texts).tolist() == TOK(["a", "b"]).tolist()


@pytest.mark.parametrize("text", [b"a", None, 3, ["a"], "\ud800"])
def test_one_text_that_cannot_be_used(text):
    for call in (TOK.encode, TOK.tokenize):
        with pytest.raises(InputError, match="the text"):
            call(text)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([1000], "expected 0 to 999"), ([5, -1], "-1 to 5"), ([[1, 2]], "shape"), ([0.5], "float64"), (3, "shape")],
)
def test_ids_that_cannot_be_used(ids, message):
    with pytest.raises(InputError, match=message):
        TOK.decode(ids)


def test_decode_strips():
    space, a = TOK.encode("1a")[0], TOK.encode("a")[0]
    assert TOK.decode([space, space, a, space]) == "a"


def test_decode_of_nothing():
    assert TOK.decode([]) == "" == TOK.decode(TOK("")[0])


@pytest.mark.parametrize("seq_len", [0, -1, 1.5, "64", None, True])
def test_seq_len_that_cannot_be_used(seq_len):
    with pytest.raises(InputError, match=r"seq_len is .* expected an integer of at least 1"):
        Tokenizer(TINY / "spiece.model", seq_len)


# ---- the module and the file ----


def test_import_is_lazy():
    code = "import sys, npsiglip.texts.siglip; sys.exit('sentencepiece' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_model_file_is_small():
    assert Path(TINY / "spiece.model").stat().st_size < 300_000
