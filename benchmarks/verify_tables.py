"""Writes the tables of docs/verify.md that come from the code: `python benchmarks/verify_tables.py`.

They stand between <!-- table:NAME --> and <!-- /table -->: mistakes of the catalogue, those before the towers and on
the way back, and the names that others have for our taps. tests/docs/test_verify_tables.py fails where the page is not
what this writes.
"""

import re
from pathlib import Path

from npsiglip.verify.mistakes import CATALOGUE
from npsiglip.verify.mistakes_gradients import GRADIENT_SUMMARIES
from npsiglip.verify.names import SCHEMES
from npsiglip.verify.operations import IDS, PIXELS
from npsiglip.verify.preprocessing import SUMMARIES

PAGE = Path(__file__).parents[1] / "docs" / "verify.md"
MARKER = re.compile(r"(<!-- table:(\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
HEADS = {"hf": "Hugging Face", "timm": "timm, open_clip", "big_vision": "big_vision", "gguf": "llama.cpp"}


def rows(*lines: tuple[str, ...]) -> str:
    """A table of Markdown; the first line is its head."""
    head, *body = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *body]) + "\n"


def catalogue() -> str:
    """The mistakes in the towers, and where each can be."""
    return rows(
        ("name", "what is wrong", "at"),
        *(
            (f"`{mistake.name}`", mistake.summary, ", ".join(f"`{tap}`" for tap in mistake.changes))
            for mistake in CATALOGUE
        ),
    )


def before() -> str:
    """The mistakes in pixels and ids."""
    return rows(("name", "what is wrong"), *((f"`{name}`", summary) for name, summary in SUMMARIES.items()))


def names() -> str:
    """Our taps and what others call them."""
    theirs: dict[str, dict[str, list[str]]] = {}
    for scheme, table in SCHEMES.items():
        for line in table.strip().splitlines():
            if line.strip():
                name, ours = line.split()
                known = theirs.setdefault(ours, {}).setdefault(scheme, [])
                if not name.startswith("visual.trunk."):  # the same without it
                    known.append(f"`{name}`")
    cells = [
        (
            ", ".join(tap if tap in (PIXELS, IDS) else f"`{tap}`" for tap in ours.split("|")),
            *(", ".join(found.get(scheme, [])) for scheme in HEADS),
        )
        for ours, found in theirs.items()
    ]
    return rows(("npsiglip", *HEADS.values()), *cells)


def gradients() -> str:
    """The mistakes on the way back."""
    return rows(("name", "what is wrong"), *((f"`{name}`", what) for name, what in GRADIENT_SUMMARIES.items()))


TABLES = {"catalogue": catalogue, "before": before, "names": names, "gradients": gradients}


def filled(text: str) -> str:
    """The page with its tables as they are now."""
    return MARKER.sub(lambda match: match[1] + TABLES[match[2]]() + match[3], text)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
