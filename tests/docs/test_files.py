"""Files, folders and modules of this project that the documentation or the code names, all exist.

Names are looked for in code spans: paths from the root of the repository, the ends of paths (`train/step.py`), names of
Python files, and modules with what is in them (`npsiglip.world.World`).
"""

import importlib
import re
from functools import cache
from pathlib import PurePosixPath

import pytest

from tests.docs.markdown import LINKED, name_of, prose, spans
from tests.helpers.golden_data import ROOT

CODE = sorted(path for folder in ("npsiglip", "benchmarks", "golden") for path in (ROOT / folder).rglob("*.py"))
TOP = ("npsiglip", "tests", "docs", "benchmarks", "golden", ".ci", ".github")

# Python files of other projects, and of users, that pages name
OTHERS = {"app.py", "gunicorn.conf.py", "image_processing_siglip2.py"}


@cache
def files():
    """Every file of the repository, and every folder that has one."""
    found = set()
    for top in TOP:
        for path in (ROOT / top).rglob("*"):
            if "__pycache__" not in path.parts:
                found.add(path.relative_to(ROOT).as_posix())
    return found | set(TOP) | {path.name for path in ROOT.glob("*") if path.is_file()}


def is_there(path):
    """Whether a path, the end of one, or a pattern names something in the repository."""
    if "*" in path:
        return any(PurePosixPath(file).match(path) for file in files())
    return any(f"/{file}".endswith(f"/{path}") for file in files())


def can_be_imported(name):
    """Whether a dotted name is a module, or something in one."""
    parts = name.split(".")
    for i in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for part in parts[i:]:
            if not hasattr(found, part) and part not in getattr(found, "__annotations__", ()):
                return False
            found = getattr(found, part, None)
        return True
    return False


def named(text):
    """The words in code spans that look like paths of Python files, or like paths, or like modules of ours."""
    for span in spans(text):
        for word in re.split(r"[\s,;:=()]+", span):
            word = word.partition("#")[0].strip("\"'[]").rstrip("/.")
            if re.fullmatch(r"[\w.*/-]+", word) and not re.search(r"\b[A-Z]{2,}\b", word):  # FOLDER stands for another
                yield word


def missing(text, every_python_file):
    """What a text names and is not there; with names of Python files, or without, where those of others are named."""
    for word in named(text):
        if re.fullmatch(r"npsiglip(\.[A-Za-z_]\w*)+", word) and not word.endswith(".py"):
            if not can_be_imported(word):
                yield word
            continue
        ours = word.split("/")[0] in TOP and "/" in word and not word.startswith("tests/models/")  # of transformers
        if (ours or (every_python_file and word.endswith(".py"))) and word not in OTHERS and not is_there(word):
            yield word


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_pages_name_what_exists(page):
    assert list(missing("\n".join(prose(page)), every_python_file=True)) == []


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_code_names_what_exists(path):
    assert list(missing(path.read_text(encoding="utf-8"), every_python_file=False)) == []


def test_what_does_not_exist_is_found():
    good = "`npsiglip/model.py` `model.py`, `kernels/jit.py`: `python benchmarks/scaling.py --plot FILE`, "
    good += "`tests/kernels`, `npsiglip.world.World`, `npsiglip.SigLIP`, `tests/mistakes/*.toml`, `benchmarks/NAME.py`"
    assert list(missing(good, every_python_file=True)) == []
    assert list(missing("as in big_vision's `models/vit.py`", every_python_file=False)) == []
    for bad in (
        "npsiglip/it.py",
        "it.py",
        "kernels/it.py",
        "npsiglip.it",
        "npsiglip.world.Sea",
        "tests/x/",
        "docs/*.txt",
    ):
        assert len(list(missing(f"so `{bad}` it is", every_python_file=True))) == 1, bad
