"""Floors, rooms and imports of the house, which tests/test_imports.py holds and docs/images/make_house.py draws."""

import ast
from pathlib import Path

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


# A method that hands users what lies above it, when it is called: nothing below depends on it.
DOORS = {("npsiglip.model", "npsiglip.verify.checking")}
GRAPH = {  # without the package itself, which loads lazily
    name: {other for other in imports_of(path) if (name, other) not in DOORS}
    for name, path in MODULES.items()
    if name != "npsiglip"
}

# The floors of the house, from the ground up. A room is a folder, or some modules beside `npsiglip/__init__.py` that
# belong together; it imports from itself and from lower floors, never from a room beside it.
FLOORS = (
    {
        "ground": "errors extras interrupts lazy json_files atomic folder_names finite metrics trace element_types",
        "reference": "reference/",
    },
    {"kernels": "kernels/", "shapes": "config params variants describe", "world": "world/"},
    {"formats": "formats/"},
    {"hub": "hub/", "images": "images/", "texts": "texts/", "towers": "towers/"},
    {"checkpoint": "checkpoint save", "results": "outputs zero_shot loss", "pairs": "pairs/"},
    {"model": "model inputs passes processors dtypes"},
    {
        "convert": "convert/",
        "published": "published/",
        "bench": "bench/",
        "evaluation": "evaluation/",
        "collection": "collection/",
        "comparison": "comparison/",
        "verify": "verify/",
    },
    {"train": "train/"},
    {"warmup": "warmup", "explain": "explain/", "plot": "plot", "server": "server/"},
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
