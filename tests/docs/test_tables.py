"""Tables of the documentation: none says the same thing twice."""

import pytest

from tests.docs.markdown import LINKED, name_of, tables


def repeated_rows(page):
    """(line number, row) of rows that stand in the same table before."""
    return [
        (number, row)
        for table in tables(page)
        for i, (number, row) in enumerate(table)
        if row in [other for _, other in table[:i]]
    ]


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_no_table_repeats_a_row(page):
    assert repeated_rows(page) == []


def test_repeated_rows_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("| a | b |\n|---|---|\n| 1 | 2 |\n| 1 | 3 |\n| 1 | 2 |\n\n| a | b |\n|---|---|\n| 1 | 2 |\n")
    assert repeated_rows(page) == [(5, "| 1 | 2 |")]
