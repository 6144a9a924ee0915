"""The documentation: its Python is executed and what it prints is compared, its links and names are looked up.

Pages are README.md and docs/*.md. Their ```python blocks run from the root of the repository, in order and in one
namespace per page. What a block prints on stdout is the ```text block behind it, with nothing but blank lines in
between; a block without one prints nothing. Floats are rounded in the code, so that they hold on any CPU.
"""

import ast
import contextlib
import io
import re
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import pytest

from npsiglip import SigLIPOutput
from npsiglip.config import ImageConfig, TextConfig
from npsiglip.formats.hf_names import hf_key
from npsiglip.formats.openclip_names import TRUNK, openclip_layouts
from npsiglip.params import param_shapes
from npsiglip.reference import siglip
from tests.helpers.golden_data import ROOT

DOCS = ROOT / "docs"
PAGES = [page for page in (ROOT / "README.md", *sorted(DOCS.glob("*.md"))) if page.exists()]
LINKED = sorted({*PAGES, *ROOT.glob("*.md"), *(ROOT / "golden").glob("*.md")})

page_ids = [page.relative_to(ROOT).as_posix() for page in LINKED]


# -- reading Markdown -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line numbers of its fences, from 1."""

    language: str
    text: str
    first: int
    last: int


def fenced_blocks(page):
    """Every ``` block of a page."""
    blocks, opened = [], None
    lines = page.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, 1):
        if not line.startswith("```"):
            continue
        if opened is None:
            opened = number, line[3:].strip()
        else:
            assert line.rstrip() == "```", f"{page.name}:{number}: a block opens within the one of line {opened[0]}"
            text = "".join(f"{content}\n" for content in lines[opened[0] : number - 1])
            blocks.append(Block(opened[1], text, opened[0], number))
            opened = None
    assert opened is None, f"{page.name}:{opened and opened[0]}: a block without an end"
    return blocks


def prose(page):
    """A page's lines without its blocks, which are left as blank lines."""
    lines = page.read_text(encoding="utf-8").split("\n")
    for block in fenced_blocks(page):
        lines[block.first - 1 : block.last] = [""] * (block.last - block.first + 1)
    return lines


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
        if block.language != "python":
            continue
        printed = io.StringIO()
        code = compile("\n" * block.first + block.text, page, "exec")  # tracebacks show the page's own lines
        with contextlib.redirect_stdout(printed), np.printoptions():
            exec(code, namespace)
        expected = expected_output(page, blocks, i)
        if printed.getvalue() != expected:
            wrong.append((block.first, expected, printed.getvalue()))
    return wrong


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = [line.lstrip("#") for line in prose(page) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


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


def links(page):
    """(line number, text, target) of every link."""
    for number, line in enumerate(prose(page), 1):
        for match in re.finditer(r"\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)", line):
            yield number, match[1], match[2]


def broken_links(page):
    """What is wrong with a page's links to files, headings, and names defined in Python files."""
    for number, text, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = unquote(target).partition("#")
        path = (page.parent / file).resolve() if file else page
        name = re.fullmatch(r"`([\w.]+)(?:\(\))?`", text)
        if not path.exists():
            yield f"{number}: {target} does not exist"
        elif anchor and anchor not in anchors(path):
            yield f"{number}: {target}: no such heading"
        elif name and path.suffix == ".py" and name[1] not in defined_names(path) and name[1] != path.name:
            yield f"{number}: {name[1]} is not defined in {file}"


# -- every page -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=[page.relative_to(ROOT).as_posix() for page in PAGES])
def test_python_prints_what_the_page_shows(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for line, expected, printed in wrong_output(page):
        pytest.fail(f"{page.name}:{line} prints\n{printed}\nwhere the page has\n{expected}")


@pytest.mark.parametrize("page", LINKED, ids=page_ids)
def test_links_lead_somewhere(page):
    assert list(broken_links(page)) == []


@pytest.mark.parametrize("page", LINKED, ids=page_ids)
def test_no_path_of_a_machine(page):
    text = page.read_text(encoding="utf-8")
    assert re.findall(rf"/(?:home|root|Users)/[\w/.]+|{re.escape(str(ROOT))}", text) == []


def test_index_lists_every_page():
    listed = {(DOCS / target).resolve() for _, _, target in links(DOCS / "README.md")}
    assert {page for page in DOCS.glob("*.md") if page.name != "README.md"} <= listed


# -- names ------------------------------------------------------------------------------------------------------------


def without_number(name):
    """`image.blocks.03.ln1` -> `image.blocks.i.ln1`."""
    return re.sub(r"\.\d+(?=\.|$)", ".i", name)


@pytest.fixture(scope="module")
def tap_names(tiny_params, tiny_config, golden):
    taps = {}
    siglip(tiny_params, tiny_config, golden["inputs.pixel_values"], golden["inputs.input_ids"], taps)
    return {without_number(name) for name in taps}


@pytest.fixture(scope="module")
def param_names(tiny_config):
    return {without_number(name) for name in param_shapes(tiny_config)}


def spans(text):
    """The `code spans` of a text."""
    return re.findall(r"`([^`]+)`", text)


def listed_names(page, kind):
    """The names in a page's paragraphs that begin with "Taps:" or "Parameters:"; T stands for both towers."""
    paragraphs = "\n".join(prose(page)).split("\n\n")
    found = [span for text in paragraphs if text.strip().startswith(f"{kind}:") for span in spans(text)]
    both = ("image.", "text.")
    return [span.replace("T.", tower, 1) for span in found for tower in (both if span.startswith("T.") else ("",))]


def test_architecture_names_every_tap_and_parameter_once(tap_names, param_names):
    page = DOCS / "architecture.md"
    assert sorted(listed_names(page, "Taps")) == sorted(tap_names)
    assert sorted(listed_names(page, "Parameters")) == sorted(param_names)


def test_names_in_the_prose_exist(tap_names, param_names, tiny_config):
    theirs = {without_number(place.key) for place in openclip_layouts(tiny_config, TRUNK).values()}  # open_clip's
    known = tap_names | param_names | theirs | {name.rpartition(".")[0] for name in theirs}
    unknown = [
        f"{page.name}: {span}"
        for page in DOCS.glob("*.md")
        for line in prose(page)
        for span in spans(line)
        if re.fullmatch(r"(?:image|text)\.[\w.+]+", span) and not span.endswith((".py", ".md"))
        if without_number(span) not in known
    ]
    assert unknown == []


def test_architecture_links_every_function_of_the_reference():
    source = ROOT / "npsiglip" / "reference" / "model.py"
    functions = {node.name for node in ast.parse(source.read_text()).body if isinstance(node, ast.FunctionDef)}
    page = DOCS / "architecture.md"
    linked = {text.strip("`") for _, text, target in links(page) if (page.parent / target).resolve() == source}
    assert functions <= linked


def parts_of(names):
    """Every run of components of dotted names: of a.b.c also a.b, b.c, a, b and c."""
    paths = [without_number(name).split(".") for name in names]
    return {".".join(p[i:j]) for p in paths for i in range(len(p)) for j in range(i + 1, len(p) + 1)}


def table_column(page, heading):
    """The cells under a heading, of all tables of a page that have it."""
    cells, column = [], None
    for line in prose(page):
        row = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.startswith("|") else None
        if row is None:
            column = None
        elif heading in row:
            column = row.index(heading)
        elif column is not None and set(line) - set("|-: "):
            cells.append(row[column])
    return cells


def test_glossary_names_exist(tap_names, param_names, tiny_config):
    fields = {*ImageConfig.__dataclass_fields__, *TextConfig.__dataclass_fields__, "seq_len", "grid_size"}
    known = parts_of(tap_names | param_names) | fields
    cells = table_column(DOCS / "glossary.md", "npsiglip")
    assert len(cells) > 20
    assert [span for cell in cells for span in spans(cell) if without_number(span) not in known] == []


def test_glossary_names_of_hugging_face_exist(tiny_config):
    hf = tiny_config.to_hf()
    keys = {key for part in (hf, hf["vision_config"], hf["text_config"]) for key in part}
    fields = {name for name in dir(SigLIPOutput) if not name.startswith("_")} | {*SigLIPOutput.__dataclass_fields__}
    known = parts_of(hf_key(name) for name in param_shapes(tiny_config)) | keys | fields
    cells = table_column(DOCS / "glossary.md", "Hugging Face")
    assert [span for cell in cells for span in spans(cell) if without_number(span) not in known] == []


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
    good += "[a](other.md#two-words-and-code) [b](https://example.org/x) [c](#title)\n# Title\n"
    assert list(broken_links(page_of(tmp_path, good))) == []
    for bad in ("[x](no.md)", "[`g`](code.py)", "[`m`](code.py)", "[x](other.md#three)", "[x](#title)"):
        assert len(list(broken_links(page_of(tmp_path, f"text\n{bad}\n")))) == 1, bad
