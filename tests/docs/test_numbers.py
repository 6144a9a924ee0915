"""Numbers that stand in several places are the same: each has one home, and docs/numbers.py writes the others."""

import datetime
import re
import tomllib

import pytest

from tests.docs.markdown import DOCS, load_script, name_of

numbers = load_script(DOCS / "numbers.py")
KNOWN = numbers.numbers()
FACTS = tomllib.loads(numbers.FACTS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", numbers.PAGES, ids=name_of)
def test_every_place_has_the_number(page):
    text = page.read_text(encoding="utf-8")
    assert numbers.filled(text, KNOWN) == text, "python docs/numbers.py"


@pytest.mark.parametrize("page", numbers.PAGES, ids=name_of)
def test_every_marker_is_whole(page):
    text = page.read_text(encoding="utf-8")
    assert len(numbers.MARKER.findall(text)) == text.count("<!-- n:") == text.count("<!-- /n -->")


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_says_how_where_and_when_it_was_measured_and_is_shown(name):
    fact = FACTS[name]
    assert set(fact) - {"unit"} == {"value", "how", "machine", "date"}
    assert isinstance(fact["date"], datetime.date)
    assert any(f"<!-- n:{name} -->" in page.read_text(encoding="utf-8") for page in numbers.PAGES)


def test_numbers_are_those_of_the_tables():
    """Looked up once by eye: if a page is measured anew, these follow."""
    benchmarks, parity = ((DOCS / page).read_text(encoding="utf-8") for page in ("benchmarks.md", "parity.md"))
    ours = re.search(r"^image:1  npsiglip +([\d.]+) .* ([\d.]+%)$", benchmarks, re.MULTILINE)
    assert KNOWN["speed.float32.image:1.npsiglip"] == f"{float(ours[1]):.0f}"
    assert KNOWN["of_limit.float32.image:1.npsiglip"] == ours[2].replace("%", " %")
    assert len([name for name in KNOWN if name.startswith("speed.")]) == 4 * (4 + 3 + 2)
    int8 = [row.split("|")[3].strip() for row in parity.partition("## Fewer bits")[2].split("\n") if "| siglip" in row]
    assert KNOWN["parity.int8"] == min(int8)
    assert KNOWN["parity.shapes"] == str(len(int8)) == "27"


def test_other_numbers_are_found():
    page = "some <!-- n:a -->13 s<!-- /n -->, <!-- n:b -->1\nh<!-- /n -->"
    assert numbers.filled(page, {"a": "13 s", "b": "1\nh"}) == page
    assert (
        numbers.filled(page, {"a": "18 s", "b": "1 h"})
        == "some <!-- n:a -->18 s<!-- /n -->, <!-- n:b -->1 h<!-- /n -->"
    )
    with pytest.raises(SystemExit, match="no number 'b'"):
        numbers.filled(page, {"a": "13 s"})
