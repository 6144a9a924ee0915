"""Every `npsiglip ...` in the documentation and in the code is one that the command line takes.

Looked at are code spans, indented lines, and blocks of a shell in Markdown; code spans and indented lines in
docstrings; code spans in every other text of the code, such as help pages and errors. The real command line parses
them, and runs nothing. Words that stand for something (FOLDER, DTYPE, `IMAGE...`) are given a value first.
"""

import ast
import re
import shlex
import textwrap

import pytest
import typer

from npsiglip.cli import app
from tests.docs.markdown import LINKED, fenced_blocks, name_of, prose, spans
from tests.helpers.golden_data import ROOT

CODE = sorted(
    [*(ROOT / "npsiglip").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "golden").glob("*.py")]
)
SHELLS = ("sh", "console", "text", "")
STANDS_FOR = {"DTYPE": "float32", "N": "2", "TOWER": "image", "TEXT": "a photo of {}"}

command_line = typer.main.get_command(app)
UsageError = typer.BadParameter.__base__  # of Click, which newer versions of Typer bring along under another name


def in_shell(line):
    """The `npsiglip ...` commands in a line for a shell; what follows two spaces is a remark in some pages."""
    line = re.sub(r"^(\s*\$)?\s*(RUN |nice -n \d+ )*", "", line)
    line = re.split(r"\s{3,}|\s# ", line)[0]
    for part in re.split(r" && | \|\|? |;", line):
        part = re.sub(r"^(\w+=\S+ )*(\.venv/bin/)?", "", part.strip())
        if re.match(r"npsiglip (-|[a-z])", part):
            yield part


def in_text(text):
    """Commands in code spans, which may go over the end of a line, and in lines that are indented."""
    indented = [line for line in text.split("\n") if line.startswith("    ")]
    paragraphs = "\n".join(line for line in text.split("\n") if not line.startswith("    "))
    for span in spans(re.sub(r"\n(?=\S)", " ", paragraphs)):
        yield from in_shell(span.strip())
    for line in indented:
        yield from in_shell(line)


def in_page(page):
    """Commands in a page of Markdown."""
    yield from in_text("\n".join(prose(page)))
    for block in fenced_blocks(page):
        if block.language in SHELLS:
            for line in block.text.split("\n"):
                yield from in_shell(line)


def text_of(node):
    """A constant text, or an f-string with PLACE where it has values; None of other nodes."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "PLACE" for part in node.values)
    return None


def in_code(path):
    """Commands in a Python file: in docstrings and comments as in a page, in other texts those of code spans."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (doc := ast.get_docstring(node)):
            yield from in_text(doc)
        elif (text := text_of(node)) and "\n    " not in text:
            yield from in_text(textwrap.dedent(text))


def words(command):
    """The words of a command after `npsiglip`, with values instead of what stands for them."""
    found = []
    for word in shlex.split(command)[1:]:
        several = word.endswith("...")
        word = word.strip("[]").removesuffix("...").removesuffix(".")
        if not word:
            continue
        word = STANDS_FOR.get(word, word)
        found += [word, word] if several else [word]
    return found


def looks_like_a_file(word):
    """Whether a word can be meant as a picture's path, and not as a label."""
    return bool(re.fullmatch(r"[\w~$./*:-]+", word)) and (bool(re.search(r"[./*]", word)) or word.isupper())


def parse(command):
    """What is wrong with a command, or None; nothing is run."""
    try:
        name, *rest = words(command)
        parser = command_line.commands.get(name)
        if parser is None and not name.startswith("-"):
            return f"{command}: there is no such command"
        values = (parser or command_line).make_context(name, rest if parser else [name]).params
    except typer.Exit:  # --help, --version
        return None
    except (UsageError, ValueError) as error:
        return f"{command}: {error.format_message() if isinstance(error, UsageError) else error}"
    if name == "classify":  # a label without -l is parsed as one more picture
        labels = [word for word in values["images"] if not looks_like_a_file(word)]
        return f"{command}: {labels} cannot be pictures; labels take -l" if labels else None
    return None


def wrong(commands):
    return [problem for command in commands if names_more_than_a_command(command) and (problem := parse(command))]


def names_more_than_a_command(command):
    """`npsiglip classify` alone is the command's name; one that no command has is still wrong."""
    known = [name for name in command_line.commands if command == f"npsiglip {name}"]
    return not known


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_commands_of_pages_parse(page):
    assert wrong(in_page(page)) == []


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_commands_in_code_parse(path):
    assert wrong(in_code(path)) == []


def test_many_commands_are_found():
    assert sum(len(list(in_page(page))) for page in LINKED) > 60
    assert sum(len(list(in_code(path))) for path in CODE) > 20


@pytest.mark.parametrize(
    "line",
    [
        "npsiglip classify picture.png 'a red circle' 'a blue star'",  # labels without -l
        "npsiglip classify picture.png -l",
        "npsiglip clasify picture.png -l cat",
        "npsiglip quantize FOLDER",  # where to?
        "npsiglip convert FOLDER OTHER --layout piled",
        "npsiglip bench --threads many",
        "npsiglip models --fetch",
        "npsiglip classify 'picture.png",
    ],
)
def test_wrong_commands_are_found(tmp_path, line):
    page, code = tmp_path / "page.md", tmp_path / "code.py"
    for text in (f"`{line}`", f"A\n`{line}`", f"    {line}   and a remark", f"```sh\n$ {line}  # remark\n```"):
        page.write_text(f"{text}\n", encoding="utf-8")
        assert len(wrong(in_page(page))) == 1, text
    code.write_text(
        f'def f(x):\n    """Say.\n\n        {line}\n    """\n    print(f"{{x}}: `{line}`")\n', encoding="utf-8"
    )
    assert len(wrong(in_code(code))) == 2


def test_right_commands_pass(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`npsiglip classify IMAGE... -l LABEL ...` and `npsiglip\nquantize FOLDER -o OTHER`, `npsiglip verify`\n\n"
        "    npsiglip verify --published        all of them\n\n```text\nRUN npsiglip warmup --dtype DTYPE\n```\n",
        encoding="utf-8",
    )
    assert len(list(in_page(page))) == 5
    assert wrong(in_page(page)) == []
