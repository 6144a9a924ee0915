"""The documentation: its Python is executed and what it prints is compared, its links are looked up.

Pages are README.md and docs/*.md; lessons are run by test_lessons. Their ```python blocks run from the root of the
repository, in order and in one namespace per page. What a block prints on stdout is the ```text block behind it, with
nothing but blank lines in between; a block without one prints nothing. A block that opens with ```python needs="faiss"
is left out where there is no such module, so nothing else may need its names. Floats are rounded in the code, so that
they hold on any CPU.
"""

import ast
import contextlib
import io
import re
from importlib.util import find_spec
from urllib.parse import unquote

import numpy as np
import pytest

from tests.docs.markdown import DOCS, LESSONS, LINKED, PAGES, anchors, fenced_blocks, links, name_of
from tests.helpers.golden_data import ROOT


def expected_output(page, blocks, i):
    """What the Python block `i` must print: the text block behind it, or nothing."""
    if i + 1 == len(blocks) or blocks[i + 1].language != "text":
        return ""
    between = page.read_text(encoding="utf-8").split("\n")[blocks[i].last : blocks[i + 1].first - 1]
    return "" if any(line.strip() for line in between) else blocks[i + 1].text


def wrong_output(page):
    """Runs a page; for each block that prints something else than the page shows: its line, the page's, its own."""
    blocks, namespace, wrong = fenced_blocks(page), {"__name__": "docs"}, []
    for i, block in enumerate(blocks):
        if block.language != "python" or (block.needs and find_spec(block.needs) is None):
            continue
        printed = io.StringIO()
        code = compile("\n" * block.first + block.text, page, "exec")  # tracebacks show the page's own lines
        with contextlib.redirect_stdout(printed), np.printoptions():
            exec(code, namespace)
        expected = expected_output(page, blocks, i)
        if printed.getvalue() != expected:
            wrong.append((block.first, expected, printed.getvalue()))
    return wrong


def defined_names(path):
    """Functions, classes, methods ("Class.method") and variables of a Python file."""
    names = set()

    def collect(body, prefix):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names.add(prefix + node.name)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                names.update(prefix + leaf.id for leaf in ast.walk(target or ast.Pass()) if isinstance(leaf, ast.Name))

    collect(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return names


def broken_links(page):
    """What is wrong with a page's links to files, headings, and names defined in Python files."""
    for number, text, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        path = (page.parent / file).resolve() if file else page
        name = re.fullmatch(r"`([\w./]+)(?:\(\))?`", text)
        if not path.exists():
            yield f"{number}: {target} does not exist"
        elif anchor and anchor not in anchors(path):
            yield f"{number}: {target}: no such heading"
        elif name and path.suffix == ".py":
            folder, _, last = name[1].rpartition("/")
            if folder and not f"/{path.as_posix()}".endswith(f"/{name[1]}"):
                yield f"{number}: {name[1]} is not {file}"
            elif last not in defined_names(path) | {path.name}:
                yield f"{number}: {last} is not defined in {file}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_prints_what_the_page_shows(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line, expected, printed in wrong_output(page):
        pytest.fail(f"{page.name}:{line} prints\n{printed}\nwhere the page has\n{expected}")


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_links_lead_somewhere(page):
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_no_path_of_a_machine(page):
    text = page.read_text(encoding="utf-8")
    assert re.findall(rf"/(?:home|root|Users)/[\w/.]+|{re.escape(str(ROOT))}", text) == []


def test_index_lists_every_page():
    listed = {(DOCS / target).resolve() for _, _, target in links(DOCS / "README.md")}
    assert {page for page in [*DOCS.glob("*.md"), *LESSONS] if page.name != "README.md"} <= listed


# -- the checks above can fail ----------------------------------------------------------------------------------------


def page_of(tmp_path, content):
    page = tmp_path / "page.md"
    page.write_text(content, encoding="utf-8")
    return page


PRINTS_1 = "```python\nprint(1)\n```\n"


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (PRINTS_1 + "\n```text\n1\n```\n", []),
        (PRINTS_1 + "\n```text\n2\n```\n", [1]),
        (PRINTS_1 + "\n```text\n1 \n```\n", [1]),
        (PRINTS_1, [1]),
        (PRINTS_1 + "and\n```text\n1\n```\n", [1]),
        ("```python\nx = 1\n```\n\n```text\n1\n```\n", [1]),
        ("```python\nx = 1\n```\n" + PRINTS_1.replace("1", "x") + "```text\n1\n```\n", []),
        ("```sh\nnot python\n```\n\n```text\nnot checked\n```\n", []),
    ],
)
def test_wrong_output_is_found(tmp_path, content, lines):
    assert [line for line, _, _ in wrong_output(page_of(tmp_path, content))] == lines


def test_failing_code_shows_the_line_of_the_page(tmp_path):
    page = page_of(tmp_path, "# Title\n\n```python\nx = 1\n1 / 0\n```\n")
    with pytest.raises(ZeroDivisionError) as error:
        wrong_output(page)
    assert error.traceback[-1].lineno + 1 == 5


def test_block_without_end_is_found(tmp_path):
    with pytest.raises(AssertionError, match="without an end"):
        fenced_blocks(page_of(tmp_path, "```python\n1\n"))


def test_broken_links_are_found(tmp_path):
    (tmp_path / "code.py").write_text("A = 1\nB: int = 2\ndef f(): ...\nclass C:\n    def m(self): ...\n")
    (tmp_path / "other.md").write_text("# Two words, and `code`\n")
    good = "[`f`](code.py) [`C.m()`](code.py) [`A`](code.py) [`B`](code.py) [x](code.py) [`code.py`](code.py)\n"
    good += f"[`{tmp_path.name}/code.py`](code.py)\n"
    good += "[a](other.md#two-words-and-code) [b](https://example.org/x) [c](#title)\n# Title\n"
    assert list(broken_links(page_of(tmp_path, good))) == []
    for bad in (
        "[x](no.md)",
        "[`other/code.py`](code.py)",
        "[`g`](code.py)",
        "[`m`](code.py)",
        "[x](other.md#three)",
        "[x](#title)",
    ):
        assert len(list(broken_links(page_of(tmp_path, f"text\n{bad}\n")))) == 1, bad
