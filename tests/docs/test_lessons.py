"""Lessons print what they show, and their checks find the solutions right; docs/lessons/run.py can tell otherwise."""

import pytest

from tests.docs.markdown import DOCS, LESSONS, load_script
from tests.helpers.golden_data import ROOT

run = load_script(DOCS / "lessons" / "run.py")

QUICK = ("2-block", "5-sigmoid", "search")  # the others take seconds to a minute each


def as_parameter(page):
    """A lesson for the test below; the long ones are marked as slow."""
    return pytest.param(page, id=page.stem, marks=() if page.stem in QUICK else pytest.mark.slow)


@pytest.mark.parametrize("page", [as_parameter(page) for page in LESSONS])
def test_a_lesson_prints_what_it_shows(page, monkeypatch):
    pytest.importorskip("matplotlib").use("agg")
    monkeypatch.chdir(ROOT)
    said = run.difference(page)
    assert not said, f"{said}\npython docs/lessons/run.py --write rewrites what lessons show"


def lesson_of(tmp_path, content):
    page = tmp_path / "lesson.md"
    page.write_text(content, encoding="utf-8")
    return page


EXERCISE = """```python
def check(number, answer):
    print(f"{number}: right" if answer == 2 else f"{number}: no answer yet")


answer = ...
```

```python
check("1", answer)
```

```text
1: no answer yet
```

```python .noeval
answer = 2
```
"""


def test_what_differs_is_found_and_rewritten(tmp_path):
    page = lesson_of(tmp_path, "```python\nprint(1)\n```\n\n```text\n2\n```\n")
    assert "-2\n+1" in run.difference(page)
    assert run.executed(page) == "```python\nprint(1)\n```\n\n```text\n1\n```\n"


def test_an_output_that_is_missing_is_added(tmp_path):
    page = lesson_of(tmp_path, "```python\nprint(1)\n```\n\nText.\n")
    assert run.executed(page) == "```python\nprint(1)\n```\n\n```text\n1\n```\n\nText.\n"


def test_an_output_that_is_no_longer_printed_is_removed(tmp_path):
    page = lesson_of(tmp_path, "```python\nx = 1\n```\n\n```text\n1\n```\n")
    assert "-1" in run.difference(page)


def test_of_what_varies_only_words_count(tmp_path):
    lesson = "```python\nprint('accuracy', 0.5)\n```\n\n```text varies\n{}\n```\n"
    assert run.difference(lesson_of(tmp_path, lesson.format("accuracy 0.75"))) == ""
    assert run.difference(lesson_of(tmp_path, lesson.format("loss 0.5"))) != ""


def test_a_solution_is_held_to_its_check(tmp_path):
    assert run.difference(lesson_of(tmp_path, EXERCISE)) == ""
    with pytest.raises(run.LessonError, match="no answer yet"):
        run.difference(lesson_of(tmp_path, EXERCISE.replace("answer = 2", "answer = 3")))
