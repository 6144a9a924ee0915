"""Imports run strictly downward, the reference imports nothing of ours, and the package loads lazily."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from golden_data import ROOT

import npsiglip

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


def layer(name):
    """0 at the bottom. Kernels know arrays only; the engine is above them, the model above it, commands on top.

    Between kernels and engine: parameters and files, what quantised ones hold, then checkpoints and layers.
    """
    parts = name.split(".")
    packages = {"reference": 0, "kernels": 1, "world": 2, "pairs": 3, "evaluation": 7, "bench": 7, "verify": 7}
    packages |= {"train": 8, "cli": 9}
    if len(parts) > 1 and parts[1] in packages:
        return packages[parts[1]]
    above = {
        "quantized": 3,
        "layers": 4,
        "checkpoint": 4,
        "engine": 5,
        "loss": 5,
        "model": 6,
        "quantizer": 6,
        "converter": 6,
        "warmup": 8,
    }
    above |= {"errors": 0, "interrupts": 0}  # what everything may use
    above |= {"openclip_files": 4, "openclip_write": 4}
    above |= {"matching": 4, "image_tower": 5, "text_tower": 5, "inputs": 5, "footprint": 3, "dtypes": 5}
    return 10 if parts[-1] == "__main__" else above.get(parts[-1], 2)


@pytest.mark.parametrize("name", sorted(GRAPH))
def test_imports_run_downward(name):
    for other in GRAPH[name]:
        assert layer(other) <= layer(name), f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in sorted(GRAPH) if layer(name) < 2])
def test_reference_and_kernels_import_only_themselves(name):
    own = ".".join(name.split(".")[:2])
    common = {"npsiglip.errors", "npsiglip.interrupts"} if own == "npsiglip.kernels" else set()
    assert {other for other in GRAPH[name] - common if not other.startswith(own)} == set()


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
