"""Ids of open_clip's tokenizers, their cleaning, and texts that need ftfy."""

import shutil
import sys
from types import SimpleNamespace

import pytest

from npsiglip.errors import CheckpointError, InputError
from npsiglip.model import SigLIP
from npsiglip.texts.openclip import OpenClipTokenizer
from tests.helpers.openclip_golden import change_json, strings


def without_ftfy(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)


@pytest.mark.parametrize(("name", "kind"), [("siglip", "t5"), ("siglip2", "gemma")])
def test_ids_are_open_clips(openclip_folders, monkeypatch, name, kind):
    """The cleaning behind ftfy, whose results are in the golden file, and the vocabulary."""
    fixed = {text: result for text, result, _ in strings(kind)}
    monkeypatch.setitem(sys.modules, "ftfy", SimpleNamespace(fix_text=fixed.__getitem__))
    tokenizer = SigLIP.from_pretrained(openclip_folders[name]).tokenizer
    texts, ids = list(fixed), [row for *_, row in strings(kind)]
    assert len(texts) > 150
    found = tokenizer(texts).tolist()
    assert [(text, row) for text, row, truth in zip(texts, found, ids, strict=True) if row != truth] == []
    cut = [sum(i != tokenizer.pad_id for i in row) == len(row) for row in ids]
    assert (
        all(is_cut for is_cut, full in zip(tokenizer.truncated(texts), cut, strict=True) if is_cut and not full) is True
    )


def test_texts_that_ftfy_could_change_need_it(openclip_folders, monkeypatch):
    changed = [text for text, fixed, _ in strings("t5") if text != fixed]
    assert len(changed) > 20
    without_ftfy(monkeypatch)
    tokenizer = SigLIP.from_pretrained(openclip_folders["siglip"]).tokenizer
    for text in changed:
        if text.replace("\r\n", "\n").replace("\r", "\n") == text:  # line ends become spaces anyway
            with pytest.raises(InputError, match="pip install ftfy"):
                tokenizer(text)
    plain = [(text, row) for text, _, row in strings("t5") if text.isascii() and text.isprintable() and "&" not in text]
    assert len(plain) > 10
    for text, row in plain:
        assert tokenizer(text)[0].tolist() == row


def test_ftfy_itself(openclip_folders):
    pytest.importorskip("ftfy")
    for name, kind in (("siglip", "t5"), ("siglip2", "gemma")):
        tokenizer = SigLIP.from_pretrained(openclip_folders[name]).tokenizer
        for text, _, row in strings(kind):
            assert tokenizer(text)[0].tolist() == row, text


def test_pieces_and_cleaning(openclip_folders, tmp_path):
    siglip = openclip_folders["siglip"]
    tokenizer = OpenClipTokenizer.from_folder(siglip, 16, {"tokenizer_kwargs": {"clean": "canonicalize"}})
    assert "".join(tokenizer.tokenize("A_Photo, of a CAT!")).replace("▁", " ") == " a photo of a cat"
    lower = OpenClipTokenizer.from_folder(siglip, 16, {"tokenizer_kwargs": {"clean": "lower"}})
    assert lower.clean("A_b,  C ") == "a_b, c"
    assert OpenClipTokenizer.from_folder(siglip, 16).clean(" A_b,  C ") == "A_b, C"
    for wrong in (
        {"tokenizer_kwargs": {"clean": "x"}},
        {"tokenizer_kwargs": {"language": "de"}},
        {"tokenizer_mode": "clips"},
    ):
        with pytest.raises(CheckpointError, match="pass token ids made elsewhere"):
            OpenClipTokenizer.from_folder(siglip, 16, wrong)
    folder = shutil.copytree(siglip, tmp_path / "bpe")
    change_json(folder / "tokenizer.json", "model", byte_fallback=True)
    with pytest.raises(CheckpointError, match="expected Unigram without bytes"):
        _ = SigLIP.from_pretrained(folder).tokenizer


def test_spiece_model_beside_an_open_clip_model(tiny_folder, tmp_path):
    for name in ("spiece.model", "tokenizer_config.json"):
        shutil.copyfile(tiny_folder / name, tmp_path / name)
    tokenizer = OpenClipTokenizer.from_folder(tmp_path, 16, {"tokenizer_kwargs": {"clean": "canonicalize"}})
    assert tokenizer.tokenize("a_cat") == tokenizer.tokenize("a cat") and not tokenizer.is_unigram
