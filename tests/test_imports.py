"""Imports run strictly downward, the reference imports nothing of ours, and the package loads lazily."""

import ast
import subprocess
import sys

import pytest

import npsiglip
from tests.helpers.floors import DOORS, GRAPH, MODULES, ROOMS, imports_of, place
from tests.helpers.golden_data import ROOT


def test_no_circles():
    done: set[str] = set()

    def visit(name, above):
        assert name not in above, " -> ".join([*above, name])
        if name not in done:
            for other in sorted(GRAPH.get(name, ())):
                visit(other, [*above, name])
            done.add(name)

    for name in GRAPH:
        visit(name, [])
    assert done >= set(GRAPH)


def test_doors_are_opened_in_a_call():
    """Not when the module is imported: then it would depend on what lies above it."""
    for name, above in DOORS:
        top = [node for node in ast.parse(MODULES[name].read_text()).body if isinstance(node, ast.ImportFrom)]
        assert above in imports_of(MODULES[name])
        assert above not in {node.module for node in top}


def test_every_module_has_a_room():
    assert {place(name) for name in GRAPH} == set(ROOMS)


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_imports_run_downward(name):
    floor, room = ROOMS[place(name)]
    for other in GRAPH[name] - {"npsiglip"}:
        below, its_room = ROOMS[place(other)]
        assert its_room == room or below < floor, f"{name} imports {other}"


def test_kernels_import_errors_interrupts_and_the_table_of_types_only():
    for name in sorted(GRAPH):
        if place(name) == "kernels/":
            others = {other for other in GRAPH[name] if not other.startswith("npsiglip.kernels")}
            assert others <= {"npsiglip.errors", "npsiglip.element_types", "npsiglip.interrupts"}, name


# the truth, the public door to it, what compares with it, and what shows it
JUDGES = {"reference/", "__init__", "verify/", "explain/"}


def test_what_is_judged_does_not_run_the_judges_code():
    """Otherwise a comparison with the reference could not fail."""
    for name, path in MODULES.items():
        if name != "npsiglip" and place(name) not in JUDGES:
            assert not {other for other in imports_of(path) if other.startswith("npsiglip.reference")}, name


def test_whoever_computes_takes_turns_in_one_way():
    """By `computing`: the lock behind it is nobody else's."""
    for name, path in MODULES.items():
        if not name.startswith("npsiglip.kernels"):
            assert "RUN_LOCK" not in path.read_text(encoding="utf-8"), name


def test_the_reference_imports_nothing_of_ours():
    for name in sorted(GRAPH):
        if place(name) == "reference/":
            assert all(other.startswith("npsiglip.reference") for other in GRAPH[name]), name


def test_reference_imports_numpy_and_the_math_of_python():
    for name in sorted(GRAPH):
        if name.startswith("npsiglip.reference"):
            tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
            roots = {alias.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
            roots |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
            assert roots <= {"math", "numpy", "typing", "npsiglip"}, name


def loaded_by(code):
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(result.stdout.split())


def test_import_is_cheap():
    """`import npsiglip` loads none of the heavy packages; benchmarks/cli_wall_time.py measures the time."""
    loaded = loaded_by("import npsiglip")
    assert not loaded & {
        "numba",
        "llvmlite",
        "PIL",
        "sentencepiece",
        "tokenizers",
        "safetensors",
        "typer",
        "rich",
        "ml_dtypes",
    }


def test_reference_runs_without_numba():
    loaded = loaded_by("from npsiglip import reference, Checkpoint, Tokenizer, ImageProcessor")
    assert not loaded & {"numba", "llvmlite", "torch"}


def test_public_names_are_there():
    assert set(npsiglip.__all__) <= set(dir(npsiglip))
    for name in npsiglip.__all__:
        assert getattr(npsiglip, name).__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'CLIP'"):
        _ = npsiglip.CLIP
