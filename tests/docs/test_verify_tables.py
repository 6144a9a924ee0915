"""The tables of docs/verify.md are those of the code: `python benchmarks/verify_tables.py` writes them."""

from npsiglip.verify.mistakes import CATALOGUE
from npsiglip.verify.mistakes_gradients import GRADIENT_SUMMARIES
from npsiglip.verify.preprocessing import SUMMARIES
from tests.docs.markdown import load_script
from tests.helpers.golden_data import ROOT

script = load_script(ROOT / "benchmarks" / "verify_tables.py")


def test_the_page_has_the_tables_of_the_code():
    text = script.PAGE.read_text(encoding="utf-8")
    assert script.filled(text) == text, "python benchmarks/verify_tables.py"
    assert text.count("<!-- table:") == text.count("<!-- /table -->") == len(script.TABLES)
    for name in (*(mistake.name for mistake in CATALOGUE), *SUMMARIES, *GRADIENT_SUMMARIES):
        assert f"| `{name}` | " in text


def test_another_table_is_found():
    page = "a\n<!-- table:before -->\n| `bgr` | red |\n<!-- /table -->\nb\n"
    assert script.filled(page) != page
    assert script.filled(script.filled(page)) == script.filled(page)
