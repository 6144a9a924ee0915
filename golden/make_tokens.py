"""Writes golden/tokens.json: strings and the ids that transformers' own `SiglipTokenizer` gives them.

Needs transformers 5.x, sentencepiece and protobuf: `python golden/make_tokens.py`. Two rows for each string, with
`do_lower_case` on and off, cut to 64 ids. The `</s>` at the end, which close the text and fill the row, are left out:
they are id 1, as many as a row of 64 needs. Strings with unassigned code points are left out too: a later Unicode,
in a later Python, may give them a lower case.
"""

import json
import sys
import unicodedata
import warnings
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # the root of the repository

from golden.strings import strings

COUNT = 400
SEED = 64
SEQ_LEN = 64
FILL = 1


def _stable(text: str) -> bool:
    """Whether every code point is assigned, or never will be (U+..FFFE and U+..FFFF)."""
    return all(unicodedata.category(char) != "Cn" or ord(char) & 0xFFFE == 0xFFFE for char in text)


def _rows(texts: list[str], do_lower_case: bool) -> list[list[int]]:
    from transformers import SiglipTokenizer

    tokenizer = SiglipTokenizer.from_pretrained(Path(__file__).parent / "tiny", do_lower_case=do_lower_case)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="This sequence already has")
        rows = tokenizer(texts, padding="max_length", max_length=SEQ_LEN, truncation=True).input_ids
    for row in rows:
        while row and row[-1] == FILL:
            row.pop()
    return rows


def main() -> None:
    """Writes golden/tokens.json, one string a line."""
    texts = [text for text in strings(2 * COUNT, SEED) if _stable(text)][:COUNT]
    cases = [
        {"text": text, "ids": lower, "ids_cased": cased}
        for text, lower, cased in zip(texts, _rows(texts, True), _rows(texts, False), strict=True)
    ]
    head = {"transformers": version("transformers"), "sentencepiece": version("sentencepiece")}
    head |= {"seed": SEED, "seq_len": SEQ_LEN, "fill": FILL}
    lines = ",\n".join(json.dumps(case) for case in cases)
    target = Path(__file__).parent / "tokens.json"
    target.write_text(json.dumps(head)[:-1] + ', "cases": [\n' + lines + "\n]}\n", encoding="ascii")
    print(f"{target.name}: {len(cases)} strings, {target.stat().st_size} bytes")


if __name__ == "__main__":
    main()
