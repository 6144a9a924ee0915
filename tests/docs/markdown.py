"""Reading Markdown: blocks, prose, links, code spans, tables. What the tests of the documentation share."""

import importlib.util
import re
from dataclasses import dataclass

from tests.helpers.golden_data import ROOT

DOCS = ROOT / "docs"
LESSONS = sorted((DOCS / "lessons").glob("*.md"))
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]  # whose Python is run; that of lessons: docs/lessons/run.py
LINKED = sorted(
    {*PAGES, *LESSONS, *ROOT.glob("*.md"), *(ROOT / "golden").glob("*.md"), *(ROOT / "benchmarks").glob("*.md")}
)


def name_of(page):
    """A page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, the line numbers of its fences, from 1, and the module that it needs."""

    language: str
    text: str
    first: int
    last: int
    needs: str = ""


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
            language, _, told = opened[1].partition(" ")
            needs = re.fullmatch(r'needs="(\w+)"', told)
            known = needs or told in ("", ".noeval", "varies")
            assert known, f'{page.name}:{opened[0]}: {told!r} is not known; expected needs="module", .noeval or varies'
            blocks.append(Block(language, text, opened[0], number, needs[1] if needs else ""))
            opened = None
    assert opened is None, f"{page.name}:{opened and opened[0]}: a block without an end"
    return blocks


def prose(page):
    """A page's lines without its blocks, which are left as blank lines."""
    lines = page.read_text(encoding="utf-8").split("\n")
    for block in fenced_blocks(page):
        lines[block.first - 1 : block.last] = [""] * (block.last - block.first + 1)
    return lines


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = [line.lstrip("#") for line in prose(page) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def links(page):
    """(line number, text, target) of every link."""
    for number, line in enumerate(prose(page), 1):
        for match in re.finditer(r"\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)", line):
            yield number, match[1], match[2]


def spans(text):
    """The `code spans` of a text."""
    return re.findall(r"`([^`]+)`", text)


def tables(page):
    """Every table of a page: (line number, row) of its lines, without the one that only draws a rule."""
    found, before = [], False
    for number, line in enumerate(prose(page), 1):
        if line.startswith("|"):
            if not before:
                found.append([])
            if set(line) - set("|-: "):
                found[-1].append((number, line.strip()))
        before = line.startswith("|")
    return found


def load_script(path):
    """A script of the repository that lies in no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"script_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
