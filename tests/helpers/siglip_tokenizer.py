"""The tokenizer of the tiny model in several lengths, and its golden ids."""

import json

from npsiglip.texts.siglip import Tokenizer
from tests.helpers.golden_data import ROOT, TINY

TOKENS = json.loads((ROOT / "golden" / "tokens.json").read_text(encoding="ascii"))
TOKENIZERS = {
    (seq_len, canon): Tokenizer(TINY / "spiece.model", seq_len, canon)
    for seq_len, canon in [(64, True), (64, False), (16, True), (8, True), (1, True)]
}
TOK = TOKENIZERS[64, True]
