"""The settings of the site: `sphinx-build -W -n -b html docs site`, with the packages of the dependency group `docs`.

Pages are Markdown that reads well on GitHub too, so they have none of MyST's directives. MyST-NB, which executes
notebooks, is not used: what pages and lessons print is in them already, and tests/docs holds each of them to it. So
the site builds in about a minute, with nothing but the text. What follows a fence's language (`needs="faiss"`,
`.noeval`, `varies`) is for these tests; here such a block is one like any other.
"""

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent / "site_tools")]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

project = PROJECT["name"]
author = "the authors of npsiglip"
release = version = PROJECT["version"]
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "code_pages",  # links to files of the repository, and pages that show them
    "docstrings",  # docstrings in plain text
]
root_doc = "index"
exclude_patterns = ["examples"]
suppress_warnings = ["ref.python"]  # attributes with one name in several classes
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]  # types of NumPy and Pillow: their inventories are on the net

myst_heading_anchors = 4
highlight_language = "text"

default_role = "code"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_typehints_format = "short"
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_ivar = True
add_module_names = False
toc_object_entries = False  # with them each page copies thousands of entries, and building takes three times as long

html_theme = "furo"
html_title = "npsiglip"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_logo = "images/logo.svg"
html_favicon = "images/logo.svg"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#0b62a8", "color-brand-content": "#0b62a8"},
    "dark_css_variables": {"color-brand-primary": "#79bdf5", "color-brand-content": "#79bdf5"},
}
copybutton_exclude = ".linenos, .gp, .go"
