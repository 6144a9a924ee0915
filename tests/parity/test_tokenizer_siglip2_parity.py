"""Live comparison with `AutoTokenizer` of the installed transformers, on thousands of generated strings."""

import json
import shutil

import pytest
from tokenizers import Tokenizer as Library
from transformers import AutoTokenizer

from golden.make_gemma import FILES, convert, gemma_strings, train
from golden.make_gemma import rows as golden_rows
from npsiglip import Siglip2Tokenizer
from tests.helpers.golden_data import GOLDEN

GEMMA = GOLDEN / "gemma"
UPPER_CASE = {"<START_OF_TURN>", "<table>A</TABLE>"}  # which sentencepiece finds in lowered text


def peer(folder, model_type, *names, **settings):
    """What transformers loads from a folder with these of Gemma's files, for a model of this type."""
    for name in names:
        shutil.copy(GEMMA / name, folder)
    content = json.loads((GEMMA / "tokenizer_config.json").read_text()) | settings
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return AutoTokenizer.from_pretrained(folder)


def differing(theirs, ours, texts):
    rows = theirs(texts, padding="max_length", max_length=ours.seq_len, truncation=True).input_ids
    return {text for text, row, own in zip(texts, rows, ours(texts).tolist(), strict=True) if row != own}


@pytest.mark.parametrize(("seq_len", "count", "seed"), [(64, 12_000, 1), (16, 4_000, 2)])
def test_ids(tmp_path, seq_len, count, seed):
    theirs = peer(tmp_path, "siglip2", "tokenizer.json")
    assert type(theirs).__name__ == "Siglip2Tokenizer"
    assert not differing(theirs, Siglip2Tokenizer.from_folder(GEMMA, seq_len), gemma_strings(count, seed))


def test_models_of_one_size_are_not_lowered_there(tmp_path):
    theirs = peer(tmp_path, "siglip", "tokenizer.json")
    assert type(theirs).__name__ == "GemmaTokenizer"
    texts = gemma_strings(4_000, 3)
    assert not differing(theirs, Siglip2Tokenizer.from_folder(GEMMA, lower=False), texts)
    assert len(differing(theirs, Siglip2Tokenizer.from_folder(GEMMA), texts)) > 1000


def test_a_sentencepiece_model(tmp_path):
    """Which transformers converts, with merges in another order than tokenizer.json has: runs of spaces differ."""
    theirs = peer(tmp_path, "siglip2", "tokenizer.model")
    found = differing(theirs, Siglip2Tokenizer.from_folder(tmp_path), gemma_strings(4_000, 4))
    assert found > UPPER_CASE and len(found) < 10
    assert all("   " in text.replace("▁", " ") for text in found - UPPER_CASE)


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"tokenizer_class": "GemmaTokenizerFast"}])
def test_a_folder_that_transformers_saved(tmp_path, settings):
    theirs = peer(tmp_path, "siglip2", "tokenizer.json", **settings)
    saved = tmp_path / "saved"
    theirs.save_pretrained(saved)
    assert "Lowercase" in json.dumps(json.loads((saved / "tokenizer.json").read_text())["normalizer"])
    ours = Siglip2Tokenizer.from_folder(saved)
    assert not differing(theirs, ours, gemma_strings(2_000, 5))
    assert ours.encode("a") == theirs("a").input_ids


def test_the_file_decides_what_closes_a_text_there(tmp_path):
    """So a file that does not close it with `<eos>` is refused here."""
    theirs = peer(tmp_path, "siglip2", "tokenizer.json")
    library = Library.from_file(str(tmp_path / "tokenizer.json"))
    content = json.loads(library.to_str()) | {"post_processor": None}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert theirs("a").input_ids[-1] == 1
    assert AutoTokenizer.from_pretrained(tmp_path)("a").input_ids[-1] != 1


def test_the_goldens_are_what_the_script_writes():
    assert train() == (GEMMA / "tokenizer.model").read_bytes()
    assert convert(train()) == (GEMMA / "tokenizer.json").read_text(encoding="utf-8")
    cases = json.loads((GEMMA / "tokens.json").read_text(encoding="ascii"))["cases"]
    rows = golden_rows([case["text"] for case in cases])
    assert [case["ids"] + [0] * (64 - len(case["ids"])) for case in cases] == rows
    assert all((GEMMA / name).exists() for name in FILES)
