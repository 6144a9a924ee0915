"""The catalogue of mistakes fits the tree, and the command that plants them tells the killed from the survivors."""

import json
import sys
from textwrap import dedent

import pytest

from tests import mutate


def test_every_mistake_can_be_planted():
    """Otherwise `load` says which one has to be written anew."""
    mistakes = mutate.load()
    assert len(mistakes) >= 75
    assert {mistake.area for mistake in mistakes} == {"kernels", "towers", "formats", "inputs", "training", "serving"}
    for mistake in mistakes:
        path = mutate.ROOT / mistake.file
        compile(mistake.planted(path.read_text(encoding="utf-8")), mistake.file, "exec")
        assert mistake.why and mistake.file.startswith("npsiglip/")


PACKAGE = """
    def half(x):
        return x / 2

    def largest(x):
        return max(x)
"""
TESTS = """
    import npsiglip

    def test_half():
        assert npsiglip.half(4) == 2

    def test_largest():
        assert npsiglip.largest([1]) == 1

    def test_compiled():
        assert npsiglip.half(4) == 2, "numba.core.errors.TypingError: no matching definition"

    def test_red():
        assert False
"""
ENTRY = {
    "file": "npsiglip/__init__.py",
    "old": "x / 2",
    "new": "x / 3",
    "tests": ["test_it.py::test_half"],
    "why": "a third",
}
OTHERS = {"old": "max(x)", "new": "x[0]", "tests": ["test_it.py::test_largest"]}


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small tree, and a function that writes its catalogue."""
    for name, content in (("npsiglip/__init__.py", PACKAGE), ("tests/test_it.py", TESTS)):
        path = tmp_path / name
        path.parent.mkdir()
        path.write_text(dedent(content))
    folder = tmp_path / mutate.FOLDER
    folder.mkdir()
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # which take most of the time here

    def write(**entries):
        lines = []
        for name, changes in entries.items():
            lines.append("[[mistake]]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in {"name": name, **ENTRY, **changes}.items()]
        (folder / "some.toml").write_text("\n".join(lines))

    return write


@pytest.mark.skipif(sys.platform == "win32", reason="ends groups of processes")
def test_outcomes(tree, tmp_path, capsys):
    tree(
        third={},
        first=OTHERS,
        harmless={**OTHERS, "equivalent": "lists have one number"},
        said_to_be_harmless={"equivalent": "nobody halves"},
        red={"tests": ["test_it.py::test_red"]},
        no_code={"tests": ["test_it.py::test_compiled"]},
        left_out={"needs": "no_such_module"},
    )
    before = (tmp_path / "npsiglip" / "__init__.py").read_text()
    results = tmp_path / "results"
    assert mutate.main(["--results", str(results), "--jobs", "2"]) == 1
    assert (tmp_path / "npsiglip" / "__init__.py").read_text() == before
    found = {line["name"]: line for line in map(json.loads, results.read_text().splitlines())}
    assert {name: line["outcome"] for name, line in found.items()} == {
        "third": "killed",
        "first": "survived",
        "harmless": "no fault",
        "said_to_be_harmless": "broken",
        "red": "broken",
        "no_code": "broken",
    }
    assert found["third"]["by"].startswith("test_it.py::test_half - assert 1.33")
    assert "test_it.py::test_red fails without the mistake" in found["red"]["by"]
    assert found["no_code"]["by"].startswith("it does not compile")
    said = capsys.readouterr()
    assert "1 mistakes are left out, whose tests need no_such_module" in said.err
    table = said.out.splitlines()
    assert table[2] == "| some | 6 | 1 | 1 | 1 | 3 |"
    assert "| harmless | npsiglip/__init__.py | no fault | lists have one number |" in table

    # what is known is not run again; what has changed is
    tree(third={}, first={**OTHERS, "new": "x[-1]"}, harmless={**OTHERS, "equivalent": "lists have one number"})
    assert mutate.main(["--results", str(results)]) == 1
    names = [json.loads(line)["name"] for line in results.read_text().splitlines()]
    assert sorted(names) == sorted([*found, "first"])
    assert mutate.main(["--results", str(results), "--only", "third", "--only", "harm*"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"old": "x / 4"}, "must occur once in npsiglip/__init__.py, and does 0 times"),
        ({"old": "x"}, "times: write it as it stands there now"),
        ({"new": "x / 2"}, "changes nothing"),
        ({"tests": []}, "has no tests"),
        ({"tests": ["test_it.py::test_hal"]}, "there is no test test_it.py::test_hal"),
        ({"tests": ["test_that.py"]}, "there is no test test_that.py"),
        ({"file": "npsiglip/other.py"}, "there is no npsiglip/other.py"),
        ({"reason": "none"}, "unknown ['reason']"),
    ],
)
def test_what_cannot_be_planted(tree, capsys, changes, message):
    tree(third=changes)
    assert mutate.main(["--list"]) == 2
    assert message in capsys.readouterr().err
