"""The site: it builds without a warning, every link in it leads somewhere, and its tools read what pages and code hold.

Building needs the dependency group `docs`; without it only the tools are tested.
"""

import importlib.util
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.markdown import DOCS, load_script
from tests.helpers.golden_data import ROOT

code_pages = load_script(DOCS / "site_tools" / "code_pages.py")
docstrings = load_script(DOCS / "site_tools" / "docstrings.py")

# -- links to files ----------------------------------------------------------------------------------------------------


def rewritten(text, docname="architecture", folder=DOCS):
    used = set()
    return code_pages.rewritten(docname, folder, text, used), used


def test_a_link_to_a_file_leads_to_its_page():
    text, used = rewritten("as in [the source](../npsiglip/loss.py) of it")
    assert text == "as in [the source](code:code/npsiglip/loss.py.html#top) of it"
    assert used == {"npsiglip/loss.py"}


def test_a_link_to_a_name_leads_to_its_line():
    line = code_pages.definitions(ROOT / "npsiglip" / "reference" / "model.py")["layer_norm"]
    text, _ = rewritten("[`layer_norm`](../../npsiglip/reference/model.py)", "lessons/x", DOCS / "lessons")
    assert text == f"[`layer_norm`](code:../code/npsiglip/reference/model.py.html#line-{line})"
    source = (ROOT / "npsiglip" / "reference" / "model.py").read_text(encoding="utf-8").split("\n")
    assert source[line - 1].startswith("def layer_norm(")


@pytest.mark.parametrize(
    ("link", "leads_to"),
    [
        ("numerics.md#the-loss", "numerics.md#the-loss"),
        ("#title", "#title"),
        ("https://example.org/x.py", "https://example.org/x.py"),
        ("../golden/README.md", "project/golden.md"),
        ("../CONTRIBUTING.md", "project/contributing.md"),
        ("../no/such.py", "../no/such.py"),
    ],
)
def test_other_links(link, leads_to):
    assert rewritten(f"[words]({link})")[0] == f"[words]({leads_to})"


def test_links_of_files_outside_of_the_docs():
    assert rewritten("[x](docs/house.md)", "project/contributing", ROOT)[0] == "[x](../house.md)"


# -- docstrings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plain", "marked"),
    [
        ("Sum of `x * y`, |x| and *args, w_ too.", r"Sum of ``x * y``, \|x\| and \*args, w\_ too."),
        ("`x`s are many", r"``x``\ s are many"),
    ],
)
def test_signs_are_shielded(plain, marked):
    assert docstrings.shielded(plain) == marked


def test_indented_lines_stand_as_they_are():
    lines = docstrings.prepared(["The mean.", "", "    y = x*2 + `b`", "", "More."])
    assert lines[:6] == ["The mean.", "", "", "::", "", "    y = x*2 + `b`"]


def test_results_with_names_become_a_list():
    lines = docstrings.prepared(
        ["All.", "", "Returns:", "    loss: a number,", "        float64.", "    bias: another."]
    )
    assert [line for line in lines if line][1:] == [
        ":returns:",
        "    - loss: a number,",
        "      float64.",
        "    - bias: another.",
    ]


# -- the pages of the API ----------------------------------------------------------------------------------------------


def test_the_reference_of_the_api_has_every_module_of_its_rooms():
    for page in (DOCS / "api").glob("*.rst"):
        named = re.findall(r"^\.\. automodule:: ([\w.]+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        folder = ROOT / named[0].replace(".", "/")
        if page.stem == "npsiglip" or not folder.is_dir():
            continue
        modules = {f"{named[0]}.{file.stem}" for file in folder.glob("*.py") if not file.stem.startswith("_")}
        assert set(named[1:]) == modules - {"npsiglip.verify.compare"}, page.name  # a function has that name


# -- the site ----------------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """The anchors of a page, and where its links and pictures lead."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.targets = {"", "top"}, []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (name == "name" and tag == "a"):
                self.anchors.add(value)
            if (name == "href" and tag in ("a", "link")) or (name == "src" and value):
                self.targets.append(value)


def broken(site):
    """Links and pictures of a site that lead nowhere, and those that are loaded from elsewhere."""
    pages = {path.resolve(): Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        for target in page.targets:
            parts = urlsplit(target or "")
            if parts.scheme or parts.netloc:
                continue
            file = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not file.exists() or (file in pages and unquote(parts.fragment) not in pages[file].anchors):
                yield f"{path.relative_to(site.resolve())}: {target}"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built without a warning."""
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("needs the dependency group docs")
    folder = tmp_path_factory.mktemp("built") / "site"
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-n", "-b", "html", str(DOCS), str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return folder


def test_the_site_builds_and_its_links_lead_somewhere(site):
    assert list(broken(site)) == []


PAGES = ("index", "architecture", "lessons/1-by-hand", "api/npsiglip", "gallery", "collections", "benchmarks")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390])
def test_axe_and_no_sideways_scrolling(site, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
        tab = context.new_page()
        found = {}
        for page in PAGES:
            tab.goto((site / f"{page}.html").as_uri(), timeout=120_000)
            violations = axe.run(tab).response["violations"]
            serious = [each["id"] for each in violations if each["impact"] in ("serious", "critical")]
            sideways = tab.evaluate("document.documentElement.scrollWidth - innerWidth")
            if serious or sideways > 0:
                found[page] = serious, sideways
        browser.close()
    assert found == {}


def test_broken_links_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<p id="here"><a href="b.html#there">x</a> <a href="#here">y</a><img src="z.png">')
    (tmp_path / "b.html").write_text('<p id="there"><a href="a.html#gone">x</a> <a href="https://example.org">z</a>')
    assert sorted(broken(tmp_path)) == ["a.html: z.png", "b.html: a.html#gone"]
