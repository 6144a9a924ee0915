"""Tests stand beside the modules that they test, share what they share through tests/helpers, and are no long files.

tests/<room>/test_<module>.py tests npsiglip/<room>/<module>.py; tests/<room>/test_<module>_<duty>.py one duty of it;
tests/test_<module>.py a module beside `npsiglip/__init__.py`; tests/cli/test_cli.py the room itself. A module without
such a file is named at the top of the file that has its tests: "Covers texts/load.py as well."
"""

import ast
import re

import pytest

from tests.helpers.golden_data import ROOT

TESTS = ROOT / "tests"
FILES = sorted(path for path in TESTS.rglob("test_*.py"))
LINES = 400

OTHER_FOLDERS = {
    "parity": "against torch and transformers; each file names what it compares, and runs only where these are",
    "docs": "the documentation",
    "browser": "the page of the server in Chromium; runs only where Playwright and Chromium are",
}
NO_MODULE = {
    "kernels/test_common.py": "what all kernels have in common",
    "towers/test_classifier.py": "a head on the image tower, which has no module of its own",
    "test_builtin.py": "npsiglip/data/builtin, which is no code",
    "test_family.py": "NaFlex, masks and classifiers from end to end, against golden/family.npz",
    "test_folders.py": "folders as people have them, from end to end",
    "test_golden.py": "the golden files, and the reference on them",
    "test_house.py": "the tests themselves",
    "test_imports.py": "the imports of all modules",
    "test_mutate.py": "tests/mutate.py",
    "test_python_use.py": "a model as an object: pickled, copied, shown",
}

NAMED_NOWHERE = {"lazy.py": "tests/test_imports.py: the package loads lazily"}
HOUSE = sorted(TESTS.rglob("*.py"))


def modules(folder):
    """The names that tests of a folder of code may have."""
    return {path.stem for path in folder.glob("*.py") if path.stem != "__init__"} | {folder.name}


def folder_of(path):
    """The code that tests of this file's folder are of."""
    place = path.parent.relative_to(TESTS)
    return ROOT / place if place.parts[:1] == ("benchmarks",) else ROOT / "npsiglip" / place


def is_named_after_a_module(path):
    name = path.stem.removeprefix("test_")
    return any(name == module or name.startswith(f"{module}_") for module in modules(folder_of(path)))


def place(path):
    return path.relative_to(TESTS).as_posix()


@pytest.mark.parametrize("path", FILES, ids=place)
def test_a_file_is_named_after_a_module_of_its_room(path):
    if path.relative_to(TESTS).parts[0] in OTHER_FOLDERS:
        return
    assert folder_of(path).is_dir(), f"there is no {folder_of(path).relative_to(ROOT)}"
    assert is_named_after_a_module(path) or place(path) in NO_MODULE


def test_no_reason_is_left_of_a_file_that_needs_none():
    assert [name for name in NO_MODULE if not (TESTS / name).is_file() or is_named_after_a_module(TESTS / name)] == []


@pytest.mark.parametrize("path", HOUSE, ids=place)
def test_what_tests_share_is_a_helper(path):
    """A test file imports no other: its fixtures and its tests would come along."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
    files = {f"tests.{place(file).removesuffix('.py').replace('/', '.')}" for file in FILES}
    assert not files & set(found)


@pytest.mark.parametrize("folder", ["npsiglip", "tests"])
def test_no_file_is_long(folder):
    long = [path for path in (ROOT / folder).rglob("*.py") if len(path.read_text("utf-8").splitlines()) > LINES]
    assert long == []


def test_a_module_without_a_file_of_its_own_is_named_by_one():
    tops = "\n".join(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "" for path in FILES)
    places = [path.parent / path.stem.removeprefix("test_") for path in FILES]
    missing = []
    for module in sorted((ROOT / "npsiglip").rglob("*.py")):
        name = module.relative_to(ROOT / "npsiglip")
        if module.stem.startswith("__") or name.as_posix() in NAMED_NOWHERE:
            continue
        own = [p for p in places if p.parent == (TESTS / name).parent and f"{p.name}_".startswith(f"{module.stem}_")]
        if not own and not re.search(rf"(?<![\w/]){re.escape(name.as_posix())}\b", tops):
            missing.append(name.as_posix())
    assert missing == []
