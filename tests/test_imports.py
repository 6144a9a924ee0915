"""Imports run strictly downward, the reference imports nothing of ours, and the package loads lazily."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import npsiglip
from tests.helpers.golden_data import ROOT

PACKAGE = ROOT / "npsiglip"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def imports_of(path: Path) -> set[str]:
    """The modules of this package that a file imports when it is imported itself, or inside its functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute here"
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in submodules}
    return {name for name in found if name.split(".")[0] == "npsiglip"}


GRAPH = {name: imports_of(path) for name, path in MODULES.items() if name != "npsiglip"}  # which loads lazily


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


# The floors of the house, from the ground up. A room is a folder, or some modules beside `npsiglip/__init__.py` that
# belong together; it imports from itself and from lower floors, never from a room beside it.
FLOORS = (
    {
        "ground": "errors interrupts lazy json_files atomic folder_names metrics trace element_types",
        "reference": "reference/",
    },
    {"kernels": "kernels/", "shapes": "config params variants describe", "world": "world/"},
    {"formats": "formats/"},
    {"hub": "hub/", "images": "images/", "texts": "texts/", "towers": "towers/"},
    {"checkpoint": "checkpoint", "results": "outputs finite zero_shot loss", "pairs": "pairs/"},
    {"model": "model inputs dtypes"},
    {"convert": "convert/", "published": "published/", "bench": "bench/", "evaluation": "evaluation/"},
    {"train": "train/"},
    {"warmup": "warmup"},
    {"cli": "cli/ __main__"},
)
ROOMS = {
    place: (floor, room)
    for floor, rooms in enumerate(FLOORS)
    for room, places in rooms.items()
    for place in places.split()
}


def place(name):
    """What `ROOMS` calls a module: the folder it lies in, or its own name."""
    first = name.split(".")[1]
    return f"{first}/" if (PACKAGE / first).is_dir() else first


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
