"""docs/conformance.md is what benchmarks/conformance.py writes of the rows that it keeps."""

import json

from npsiglip.verify.diagnose import LIMITS
from tests.docs.markdown import DOCS, load_script
from tests.helpers.golden_data import ROOT

script = load_script(ROOT / "benchmarks" / "conformance.py")
ROWS = json.loads(script.ROWS.read_text(encoding="utf-8"))


def test_the_page_is_that_of_the_rows():
    text = (DOCS / "conformance.md").read_text(encoding="utf-8")
    assert script.page(ROWS) == text, "python benchmarks/conformance.py --write"


def test_every_row_is_of_a_known_implementation_and_says_what_it_was():
    for row in ROWS:
        _, _, dtypes, _ = script.IMPLEMENTATIONS[row["implementation"]]
        assert row["dtype"] in dtypes
        assert row["dtype"] in LIMITS
        assert row["model"] in script.MODELS
        assert sum(row["verdicts"].values()) == row["inputs"]
        assert row["versions"]


def test_a_row_that_does_not_conform_says_why():
    for row in ROWS:
        assert (row["verdicts"].get("conforms", 0) < row["inputs"]) == bool(row["said"])
        assert all(sentence in script.page(ROWS) for sentence in row["said"][:1])


def test_other_rows_make_another_page():
    changed = [{**ROWS[0], "verdicts": {"diverges": ROWS[0]["inputs"]}}, *ROWS[1:]]
    assert script.page(changed) != script.page(ROWS)
