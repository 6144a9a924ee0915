"""The names in the documentation: taps, parameters, fields of configurations, of us and of others, all exist."""

import ast
import re

import pytest

from npsiglip import SigLIPOutput
from npsiglip.config import ImageConfig, TextConfig
from npsiglip.formats.hf_names import hf_key
from npsiglip.formats.openclip_names import TRUNK, openclip_layouts
from npsiglip.params import param_shapes
from npsiglip.reference import siglip
from tests.docs.markdown import DOCS, links, prose, spans
from tests.helpers.golden_data import ROOT


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
