"""siglip.py: the truth table of docs/divergences.md, beside what other implementations make of a text."""

import ast
import re
import string

import pytest
from sentencepiece import SentencePieceProcessor

from tests.helpers.golden_data import ROOT, TINY
from tests.helpers.siglip_tokenizer import TOK


def _pieces_of_4(text):
    """transformers 4.x: lowers letter by letter, then looks for special tokens; SentencePiece adds no prefix."""
    # four bytes more, in protobuf: normalizer_spec { add_dummy_prefix: false }
    model = SentencePieceProcessor(model_proto=(TINY / "spiece.model").read_bytes() + b"\x1a\x02\x18\x00")
    count = len(model.encode("<unk>"))
    pieces = []
    for part in re.split("(</s>|<unk>)", "".join(char.lower() for char in "▁" + text.replace("▁", " "))):
        if part in ("</s>", "<unk>"):
            pieces.append(part)
        else:
            part = re.sub(r"\s+", " ", part.lower().translate(str.maketrans("", "", string.punctuation))).strip()
            pieces += model.encode("<unk>" + part, out_type=str)[count:]
    return pieces[1:] if pieces[:1] == ["▁"] and pieces[1:2] in (["</s>"], ["<unk>"]) else pieces


def _pieces_of_class_name(text):
    """big_vision, `_canonicalize(name, keep_punctuation_exact_string=",")`, then SentencePiece."""
    text = text.replace("_", " ").translate(str.maketrans("", "", string.punctuation.replace(",", "")))
    return _pieces_of_caption(re.sub(r"\s+", " ", text.lower()).strip())


def _pieces_of_caption(text):
    """big_vision, `tf.strings.lower` without an encoding, which is ASCII, then SentencePiece."""
    model = SentencePieceProcessor(model_file=str(TINY / "spiece.model"))
    return model.encode("".join(char.lower() if char.isascii() else char for char in text), out_type=str)


COLUMNS = {
    "npsiglip = transformers 5.x": TOK.tokenize,
    "transformers 4.x": _pieces_of_4,
    "big_vision, class name": _pieces_of_class_name,
    "big_vision, caption": _pieces_of_caption,
}


def _truth_table():
    """The rows of the table of examples: the input, and the pieces in each column."""
    rows = []
    page = (ROOT / "docs" / "divergences.md").read_text(encoding="utf-8")
    lines = iter(page.split("\n## Tokenizer\n")[1].split("\n## ")[0].splitlines())
    header = next(line for line in lines if line.startswith("| input "))
    assert [cell.strip() for cell in header.strip("|").split("|")][1:] == list(COLUMNS)
    next(lines)
    for line in lines:
        if not line.startswith("|"):
            break
        text, *cells = (cell.strip().strip("`") for cell in line.strip("|").split("|"))
        rows.append((ast.literal_eval(text), [[] if cell == "–" else cell.split(" ") for cell in cells]))
    return rows


@pytest.mark.parametrize(("text", "cells"), _truth_table())
def test_truth_table(text, cells):
    assert dict(zip(COLUMNS, cells, strict=True)) == {name: pieces(text) for name, pieces in COLUMNS.items()}


def test_truth_table_shows_each_divergence():
    rows = [cells for _, cells in _truth_table()]
    assert len(rows) > 20
    for column in (1, 2, 3):
        assert sum(cells[0] != cells[column] for cells in rows) >= 3
    assert sum(cells[2] != cells[3] for cells in rows) >= 3
