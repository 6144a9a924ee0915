"""Tables of the documentation: none says the same thing twice."""

import pytest

from tests.docs.markdown import LINKED, name_of, tables


def repeated_rows(page):
    """(line number, row) of rows that a table above them has, on the same page."""
    seen, again = set(), []
    for table in tables(page):
        head, *rows = table
        for number, row in rows:
            if (head[1], row) in seen:
                again.append((number, row))
            seen.add((head[1], row))
    return again


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_no_table_repeats_a_row(page):
    assert repeated_rows(page) == []


def test_repeated_rows_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("| a | b |\n|---|---|\n| 1 | 2 |\n| 1 | 3 |\n| 1 | 2 |\n\n| a | c |\n|---|---|\n| 1 | 2 |\n")
    assert repeated_rows(page) == [(5, "| 1 | 2 |")]
