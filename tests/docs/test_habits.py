"""Workflows, hooks and the citation file are what their tools read, and say what pyproject.toml says."""

import re
import tomllib

import pytest

from tests.helpers.golden_data import ROOT

yaml = pytest.importorskip("yaml", reason="huggingface_hub brings it along")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def loaded(path):
    """A YAML file's content."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def commands(workflow):
    """Every command that a workflow runs."""
    return [step["run"] for job in loaded(workflow)["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_one(workflow):
    content = loaded(workflow)
    assert {"name", "permissions", "jobs"} <= set(content)
    assert True in content, "YAML reads the key `on` as true"
    for job in content["jobs"].values():
        assert job["runs-on"]
        assert job["timeout-minutes"] <= 120
        assert all(("run" in step) != ("uses" in step) for step in job["steps"])


def test_the_tests_run_on_every_python_and_system_that_is_promised():
    matrix = loaded(ROOT / ".github" / "workflows" / "quick.yml")["jobs"]["tests"]["strategy"]["matrix"]
    promised = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    assert set(promised) <= set(matrix["python"])
    assert PROJECT["requires-python"] == f">={matrix['python'][0]}"
    systems = {*matrix["system"], *(more["system"] for more in matrix["include"])}
    assert systems == {"ubuntu-latest", "macos-latest", "windows-latest"}


def test_workflows_run_what_contributing_says():
    quick, nightly = (commands(ROOT / ".github" / "workflows" / f"{name}.yml") for name in ("quick", "nightly"))
    assert {"ruff check .", "ruff format --check .", "mypy"} <= set(quick)
    assert any("pytest" in command for command in quick)
    assert ".ci/run" in nightly
    assert any("lowest-direct" in command for command in nightly)
    assert (ROOT / ".ci" / "run").exists()


def test_hooks_are_those_of_the_lint_group():
    hooks = [hook for repo in loaded(ROOT / ".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert [hook["entry"].split()[0] for hook in hooks] == ["ruff", "ruff", "mypy"]
    assert all({"id", "name", "language"} <= set(hook) for hook in hooks)


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = loaded(ROOT / "CITATION.cff")
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format asks for
    assert (citation["title"], citation["version"]) == (PROJECT["name"], PROJECT["version"])
    assert citation["license"] == PROJECT["license"]
    (paper,) = citation["references"]
    assert paper["url"] == PROJECT["urls"]["Paper"]
    assert [author["family-names"] for author in paper["authors"]] == ["Zhai", "Mustafa", "Kolesnikov", "Beyer"]


def test_the_changelog_has_the_version_and_days_that_go_back():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(PROJECT['version'])}\b", text, re.MULTILINE)
    days = re.findall(r"^### (\d{4}-\d\d-\d\d)$", text, re.MULTILINE)
    assert days == sorted(days, reverse=True)
    assert days


def test_readme_has_the_two_commands_that_ci_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(re.findall(r"^```sh$", text, re.MULTILINE)) == 2
    first, second = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert "npsiglip classify" in first
    assert second.rstrip().endswith("-m pytest -n auto --dist loadfile")
