"""Links from pages to files of the repository lead to pages of the site that show these files.

A page links to `../npsiglip/loss.py` as GitHub wants it. Here such a link becomes one to `code/npsiglip/loss.py.html`,
which shows the file as it is, and if the link's text is a name, to the line that defines it. A folder becomes a list.
Markdown that lies outside of docs/ (`PROJECT`) becomes a page of its own.
"""

import ast
import html
import re
from functools import cache
from pathlib import Path
from posixpath import relpath
from urllib.parse import unquote

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.util import ClassNotFound

DOCS = Path(__file__).parents[1]
ROOT = DOCS.parent
PROJECT = {  # page -> file
    "project/contributing": "CONTRIBUTING.md",
    "project/changelog": "CHANGELOG.md",
    "project/golden": "golden/README.md",
    "project/benchmarks": "benchmarks/README.md",
}
PAGE_OF = {file: page for page, file in PROJECT.items()} | {"README.md": "index"}
LINK = re.compile(r"\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)")


@cache
def definitions(path):
    """Name -> line, of the functions, classes, methods ("Class.method") and variables of a Python file."""
    found = {}

    def collect(body, prefix):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                found.setdefault(prefix + node.name, node.lineno)
                if isinstance(node, ast.ClassDef):
                    collect(node.body, f"{prefix}{node.name}.")
            for target in getattr(node, "targets", [getattr(node, "target", None)]):
                for leaf in ast.walk(target or ast.Pass()):
                    if isinstance(leaf, ast.Name):
                        found.setdefault(prefix + leaf.id, node.lineno)

    collect(ast.parse(path.read_text(encoding="utf-8")).body, "")
    return found


def place_in(path, text):
    """The anchor for a link's text on the page of a file: that of a name's line, or the top."""
    name = re.fullmatch(r"`([\w.]+)(?:\(\))?`", text)
    line = definitions(path).get(name[1]) if name and path.suffix == ".py" else None
    return f"line-{line}" if line else "top"


def rewritten(docname, folder, text, used):
    """A page's text, with the links that lead out of docs/ led to pages of the site.

    Args:
        docname: the page.
        folder: where the file lies that the links are relative to.
        text: Markdown.
        used: gets the paths of the files that need a page.
    """
    here = docname.rpartition("/")[0]

    def link(match):
        words, target = match.groups()
        file, _, anchor = unquote(target).partition("#")
        if not file or re.match(r"[a-z]+:", file):
            return match[0]
        path = (folder / file).resolve()
        if not (path.exists() and path.is_relative_to(ROOT)):
            return match[0]  # Sphinx says what is wrong with it
        name = path.relative_to(ROOT).as_posix()
        behind = f"#{anchor}" if anchor else ""
        if name in PAGE_OF:
            return f"[{words}]({relpath(PAGE_OF[name], here or '.')}{'.rst' if name == 'README.md' else '.md'}{behind})"
        if path.is_relative_to(DOCS) and path.suffix in (".md", ".png", ".svg"):
            return f"[{words}]({relpath(path.relative_to(DOCS).as_posix(), here or '.')}{behind})"
        used.add(name)
        return f"[{words}](code:{relpath(f'code/{name}.html', here or '.')}#{place_in(path, words)})"

    return LINK.sub(link, text)


def read_source(app, docname, content):
    """Gives a page of the project its file's text, and every page of Markdown its links."""
    path = ROOT / PROJECT[docname] if docname in PROJECT else Path(app.env.doc2path(docname))
    if path.suffix != ".md":
        return
    if docname in PROJECT:
        content[0] = path.read_text(encoding="utf-8")
        app.env.note_dependency(str(path))
    used = app.env.npsiglip_code[docname] = set()
    content[0] = rewritten(docname, path.parent, content[0], used)


def shown(path):
    """A file as HTML, each line with an anchor."""
    text = path.read_text(encoding="utf-8")
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(text, lexer, HtmlFormatter(lineanchors="line", cssclass="highlight code-page"))


def is_text(path):
    """Whether a file can be shown."""
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True


def code_pages(app):
    """The pages of all files and folders that pages link to, and of the files in these folders."""
    left = sorted(set().union(*app.env.npsiglip_code.values()))
    made = set()
    while left:
        name = left.pop()
        if name in made:
            continue
        made.add(name)
        path = ROOT / name
        body = f'<h1 id="top"><code>{html.escape(name)}</code></h1>'
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file() and is_text(file))
            left += [f"{name}/{file.name}" for file in files]
            folder = name.rpartition("/")[2]
            body += "".join(f'<li><a href="{folder}/{file.name}.html">{file.name}</a></li>' for file in files)
        else:
            body += shown(path)
        yield f"code/{name}", {"title": path.name, "body": body}, "page.html"


def begin(app, env, docnames):
    """Room for the files that each page links to."""
    if not hasattr(env, "npsiglip_code"):
        env.npsiglip_code = {}


def setup(app):
    """What Sphinx calls."""
    app.config.myst_url_schemes = {
        "http": None, "https": None, "mailto": None, "code": {"url": "{{path}}#{{fragment}}", "classes": ["code-link"]},
    }  # fmt: skip
    app.connect("env-before-read-docs", begin)
    app.connect("source-read", read_source)
    app.connect("env-purge-doc", lambda app, env, name: getattr(env, "npsiglip_code", {}).pop(name, None))
    app.connect("html-collect-pages", code_pages)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}
