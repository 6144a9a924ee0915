"""SigLIP 2's tokenizer: goldens from transformers, its steps, errors.

Covers texts/load.py as well.
"""

import json
import re
import shutil
import subprocess
import sys
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from tokenizers import Tokenizer as Library
from tokenizers import models, processors

from golden.make_gemma import gemma_strings
from npsiglip import CheckpointError, InputError, Siglip2Tokenizer, Tokenizer
from npsiglip.config import TextConfig
from npsiglip.texts.load import load_tokenizer
from tests.helpers.golden_data import GOLDEN, ROOT, TINY

GEMMA = GOLDEN / "gemma"
TOKENS = json.loads((GEMMA / "tokens.json").read_text(encoding="ascii"))
TOK = Siglip2Tokenizer.from_folder(GEMMA)
KINDS = ("tokenizer.json", "tokenizer.model")
CONFIG = TextConfig(width=8, depth=1, num_heads=2, mlp_dim=8, seq_len=64, vocab_size=1000, projection_dim=8)

# what the steps treat in a special way, put side by side, and any text
FRAGMENTS = st.sampled_from(
    [
        *("<eos>", "<bos>", "<pad>", "<unk>", "<EOS>", "<start_of_turn>", "<table>", "[@BOS@]", "▁", "▁▁", " ", "  "),
        *("\t", "\n", "\n\n\n", "\x00", "\u0338", "a", "Photo", "Σ", "İ", "…", ".", "😀", "\u3000", "<0x41>", "7"),
    ]
)
TEXTS = st.one_of(st.text(), st.lists(st.one_of(FRAGMENTS, st.text(max_size=3)), max_size=60).map("".join))


def folder_with(tmp_path, *names, **settings):
    """A copy of these of Gemma's files, with some settings changed; None takes one out."""
    for name in names:
        shutil.copy(GEMMA / name, tmp_path)
    content = json.loads((GEMMA / "tokenizer_config.json").read_text()) | settings
    content = {key: value for key, value in content.items() if value is not None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture(scope="module")
def by_model(tmp_path_factory):
    """The same vocabulary through sentencepiece."""
    return Siglip2Tokenizer.from_folder(folder_with(tmp_path_factory.mktemp("model"), "tokenizer.model"))


# ---- equal to transformers ----


def test_golden_ids():
    texts = [case["text"] for case in TOKENS["cases"]]
    expected = [case["ids"] + [TOKENS["pad"]] * (TOKENS["seq_len"] - len(case["ids"])) for case in TOKENS["cases"]]
    got = TOK(texts)
    assert got.dtype == np.int64 and got.shape == (250, 64)
    assert [text for text, row, ids in zip(texts, got.tolist(), expected, strict=True) if row != ids] == []


def test_goldens_cover_what_they_are_for():
    ids = [case["ids"] for case in TOKENS["cases"]]
    texts = [case["text"] for case in TOKENS["cases"]]
    assert len(set(texts)) == 250
    assert sum(len(row) == 64 for row in ids) > 20, "few are cut"
    assert sum(1 in row[:-1] for row in ids) > 20, "few have <eos> inside"
    cased = Siglip2Tokenizer.from_folder(GEMMA, lower=False)
    assert sum(TOK.encode(text) != cased.encode(text) for text in texts) > 80


def test_the_vocabulary_has_the_structure_of_the_released_one():
    content = json.loads((GEMMA / "tokenizer.json").read_text(encoding="utf-8"))
    added = [token["content"] for token in content["added_tokens"]]
    assert added[:7] == ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<2mass>", "[@BOS@]"]
    assert not any(token["normalized"] for token in content["added_tokens"])
    assert content["normalizer"] == {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    assert content["pre_tokenizer"]["type"] == "Split" and content["model"]["type"] == "BPE"
    assert content["model"]["byte_fallback"] and content["model"]["fuse_unk"]
    assert TOK.vocab_size == 1000 and (TOK.pad_id, TOK.eos_id, TOK.seq_len) == (0, 1, 64)


def test_both_kinds_of_file_give_the_same_ids(by_model):
    texts = [*(case["text"] for case in TOKENS["cases"]), *gemma_strings(3000, 6)]
    differing = [text for text in texts if by_model.encode(text) != TOK.encode(text)]
    # sentencepiece finds added tokens in lowered text as well
    assert set(differing) == {"<START_OF_TURN>", "<table>A</TABLE>"}
    assert by_model.vocab_size == TOK.vocab_size


def test_runs_of_two_kinds_of_spaces_differ_without_a_list_of_added_tokens(by_model):
    """tokenizer.json lists runs of "▁" as added tokens, as tokenizer_config.json does; tokenizer.model does not."""
    texts = ["".join(parts) for parts in product(("▁", " ", "a", "."), repeat=5)]
    assert [text for text in texts if TOK.encode(text) != by_model.encode(text)] == []
    alone = Siglip2Tokenizer(GEMMA / "tokenizer.model")
    assert (TOK.tokenize(" ▁▁"), alone.tokenize(" ▁▁")) == (["▁", "▁▁"], ["▁▁▁"])
    differing = [text for text in texts if TOK.encode(text) != alone.encode(text)]
    assert len(differing) > 50
    runs = [re.findall("[▁ ]+", text) for text in differing]
    assert all(any({"▁", " "} <= set(run) for run in found) for found in runs)


# ---- the steps ----


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A Photo", ["a", "▁photo"]),
        ("a<eos>", ["a", "<eos>"]),
        ("[@BOS@]\n\nA", ["[@BOS@]", "\n\n", "a"]),
        ("a  b", ["a", "▁▁", "b"]),
        (" a ", ["▁a", "▁"]),
        ("ΑΣ", ["α", "σ"]),  # letter by letter, so that no sigma is a final one
        ("", []),
    ],
)
def test_pieces(text, pieces, by_model):
    assert TOK.tokenize(text) == pieces == by_model.tokenize(text)
    assert TOK.encode(text)[-1] == 1 and len(TOK.encode(text)) == len(pieces) + 1


def test_special_tokens_are_found_only_as_they_are_spelt(by_model):
    for tok in (TOK, by_model):
        for text in ("<EOS>", "< eos>", "<Pad>", "＜eos＞"):
            assert not {"<eos>", "<pad>"} & set(tok.tokenize(text))
        assert tok.encode("<bos>a<pad>") == [2, *tok.encode("a")[:-1], 0, 1]


def test_lower_case_can_be_kept(by_model):
    cased = [Siglip2Tokenizer(GEMMA / name, lower=False) for name in KINDS]
    for tok in cased:
        assert tok.encode("A Photo") != TOK.encode("A Photo")
        assert tok.encode("a photo") == TOK.encode("a photo")
    assert cased[0].encode("This is A Photo") == cased[1].encode("This is A Photo")


@pytest.mark.parametrize("kind", KINDS)
def test_truncation_keeps_eos_last(kind):
    tok = Siglip2Tokenizer(GEMMA / kind, 4)
    a = tok.encode("a")[0]
    texts = ["", "a", "aaa", "a<eos>", "<eos>" * 4]
    assert tok(texts).tolist() == [[1, 0, 0, 0], [a, 1, 0, 0], [a, a, a, 1], [a, 1, 1, 0], [1, 1, 1, 1]]
    assert tok.truncated(texts) == [False, False, False, False, True]
    assert tok("a photo of a cat on the table").tolist() == [[*tok.encode("a photo of a cat on the table")[:3], 1]]


# ---- properties ----


@given(TEXTS, st.sampled_from(KINDS))
def test_any_text_is_a_row(text, kind):
    tok = Siglip2Tokenizer(GEMMA / kind) if kind not in ROWS else ROWS[kind]
    (row,), ids = tok([text]).tolist(), tok.encode(text)
    assert len(row) == 64 and min(row) >= 0 and max(row) < 1000
    assert tok.truncated(text) == [len(ids) > 64]
    if len(ids) <= 64:
        assert row == ids + [0] * (64 - len(ids))
    else:
        assert row == [*ids[:63], 1]


ROWS = {kind: Siglip2Tokenizer(GEMMA / kind) for kind in KINDS}


ADDED = [token["content"] for token in json.loads((GEMMA / "tokenizer.json").read_text("utf-8"))["added_tokens"]]
SPLIT = re.compile("(" + "|".join(map(re.escape, sorted(ADDED, key=len, reverse=True))) + ")").split


@example("[@BOS@]")
@example("A[@BOS@]B<eos>\n\nC")
@given(TEXTS)
def test_lowered_texts_keep_their_ids(text):
    """Added tokens, every other part, are found as they are spelt; what lies between them is lowered."""
    parts = SPLIT(text)
    parts[::2] = ["".join(char.lower() for char in part) for part in parts[::2]]
    assume(SPLIT("".join(parts)) == parts)  # "<EOS>" is text, and lowered it would be a token
    assert TOK.encode("".join(parts)) == TOK.encode(text)


# ---- errors ----


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_side": "left"}, "padding_side 'left', expected 'right'"),
        ({"add_bos_token": True}, "add_bos_token True, expected False: only Siglip2Tokenizer"),
        ({"add_eos_token": False}, "add_eos_token False, expected True"),
        ({"tokenizer_class": "LlamaTokenizer"}, "tokenizer_class 'LlamaTokenizer', expected 'GemmaTokenizer'"),
        ({"pad_token": "<unk>"}, "'<unk>' as 3 and '<eos>' as 1, expected 0 and 1"),
        ({"eos_token": "<end_of_turn>"}, "'<pad>' as 0 and '<end_of_turn>' as"),
        ({"extra_special_tokens": ["<image>"]}, r"lacks the tokens \['<image>'\]"),
        ({"mask_token": 3, "added_tokens_decoder": {"1000": {}}}, "a token {}, expected a string"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_settings_that_cannot_be_used(tmp_path, kind, settings, message):
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(folder_with(tmp_path, kind, **settings), CONFIG)


def test_settings_that_say_nothing(tmp_path):
    silent = dict.fromkeys(("add_bos_token", "add_eos_token", "padding_side", "added_tokens_decoder"))
    folder = folder_with(tmp_path, *KINDS, **silent, do_lower_case=False, tokenizer_class="Siglip2Tokenizer")
    texts = [case["text"] for case in TOKENS["cases"]]
    np.testing.assert_array_equal(Siglip2Tokenizer.from_folder(folder)(texts), TOK(texts))
    (folder / "tokenizer_config.json").unlink()
    np.testing.assert_array_equal(Siglip2Tokenizer.from_folder(folder)(texts), TOK(texts))


def library_file(path, change):
    tokenizer = Library.from_file(str(GEMMA / "tokenizer.json"))
    change(tokenizer)
    tokenizer.save(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: setattr(
                t, "post_processor", processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 2)])
            ),
            r"adds the ids \[2\] to a text \(post_processor\), expected \[1\]",
        ),
        (lambda t: setattr(t, "model", models.Unigram([("a", 0.0)], 0, True)), "holds a Unigram vocabulary"),
        (lambda t: setattr(t.model, "byte_fallback", False), "expected BPE that falls back to bytes"),
    ],
)
def test_a_json_file_of_another_kind(tmp_path, change, message):
    library_file(tmp_path / "tokenizer.json", change)
    with pytest.raises(CheckpointError, match=message):
        Siglip2Tokenizer.from_folder(tmp_path)


def test_a_panic_of_the_library_is_an_error_with_a_message(tmp_path):
    """Which is no Exception in Python: the closing token that the file names is not described in it."""
    content = json.loads((GEMMA / "tokenizer.json").read_text("utf-8"))
    content["post_processor"]["special_tokens"] = {}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read by the tokenizers library"):
        Siglip2Tokenizer.from_folder(tmp_path)


def test_what_the_file_says_of_padding_and_case_does_not_matter(tmp_path):
    def change(tokenizer):
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(direction="left", pad_id=3, length=70)
        tokenizer.normalizer = None

    library_file(tmp_path / "tokenizer.json", change)
    np.testing.assert_array_equal(Siglip2Tokenizer.from_folder(tmp_path)("A Photo of a"), TOK("a photo of a"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "download"),
        (b'{"version": "1.0"', "download"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer, .*git lfs pull"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, kind, content, message):
    (tmp_path / kind).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        load_tokenizer(tmp_path, CONFIG)


@pytest.mark.parametrize("texts", [[], None, b"a", ["a", 3], "\ud800"])
def test_texts_that_cannot_be_used(texts):
    for call in (TOK, TOK.truncated):
        with pytest.raises(InputError):
            call(texts)


def test_seq_len_that_cannot_be_used():
    with pytest.raises(InputError, match="seq_len is 0"):
        Siglip2Tokenizer(GEMMA / "tokenizer.json", 0)


# ---- the loader ----


def test_the_files_and_the_class_decide(tmp_path):
    assert type(load_tokenizer(TINY, CONFIG)) is Tokenizer
    assert type(load_tokenizer(GEMMA, CONFIG)) is Siglip2Tokenizer
    shutil.copy(GEMMA / "tokenizer.json", tmp_path)
    assert type(load_tokenizer(tmp_path, CONFIG)) is Siglip2Tokenizer
    shutil.copy(TINY / "spiece.model", tmp_path)  # converted SigLIP checkpoints have both
    assert type(load_tokenizer(tmp_path, CONFIG)) is Tokenizer
    gemma = TextConfig(**{**vars(CONFIG), "vocab_size": 256_000})
    assert type(load_tokenizer(tmp_path, gemma)) is Siglip2Tokenizer
    folder_with(tmp_path)
    assert type(load_tokenizer(tmp_path, CONFIG)) is Siglip2Tokenizer


@pytest.mark.parametrize("folder", [TINY, GEMMA])
def test_a_vocabulary_larger_than_the_model(folder):
    small = TextConfig(**{**vars(CONFIG), "vocab_size": 999})
    with pytest.raises(CheckpointError, match="has 1000 pieces, but the model only 999 rows"):
        load_tokenizer(folder, small)


def test_no_vocabulary(tmp_path):
    for folder in (tmp_path, folder_with(tmp_path)):
        with pytest.raises(
            CheckpointError, match=r"has no tokenizer: spiece\.model does not exist, nor does tokenizer"
        ):
            load_tokenizer(folder, CONFIG)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json does not exist, nor tokenizer\.model"):
        Siglip2Tokenizer.from_folder(tmp_path)


def test_import_is_lazy():
    code = "import sys, npsiglip.texts.load; sys.exit(bool({'sentencepiece', 'tokenizers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
