"""One engine in a process of its own: reads requests from stdin, a JSON object a line, and answers on stdout.

    {"do": "load", "folder": ..., "dtype": "float32", "threads": 2}   {"ok": {"about": {"torch": "2.13", ...}}}
    {"do": "prepare", "case": "image:8", "inputs": "x.npy" or null}    {"ok": {"work": 0, "setting": ""}}
    {"do": "output", "case": "image:8", "file": "y.npy"}               {"ok": {}}, and the file is written
    {"do": "time", "case": "image:8"}                                  {"ok": {"seconds": 0.088}}, one run
    {"do": "export", "tower": "image", "folder": ...}                  {"ok": {}}, of an exporter, after "load"

Before an answer there may be lines {"say": ...}, which tell what takes so long. Instead of "ok" there may be
{"error": ..., "missing": ...}: a text, and the module if one is not installed. The worker ends when its stdin does.
Whatever else is printed by an engine, in Python or in C, goes to stderr.

This file is run by its path, by any Python that has NumPy and the engine's packages; npsiglip need not be installed
there, and of it only what the engine imports is loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

Say = Callable[[str], None]


class Run(NamedTuple):
    """A case that is ready."""

    function: Callable[[], Any]
    """Runs it once; the result is the embeddings, float32 [N, D], not normalised."""
    work: float = 0
    """What a run is worth, where the engine alone knows it."""
    setting: str = ""
    """What the engine chose for this case, for the report."""


class Engine(Protocol):
    """A model loaded by one implementation; `load(folder, dtype, threads, say)` of its module makes it."""

    about: dict[str, str]
    """Versions and settings, for the report."""

    def prepare(self, case: str, inputs: Any) -> Run:
        """Make a case ready for inputs: pixels or ids."""
        ...


class Exporter(Protocol):
    """What writes a model in the form that other engines load; its module's `load` is that of an engine."""

    about: dict[str, str]

    def export(self, tower: str, folder: str) -> None:
        """Write a tower, "image" or "text", for any batch, to a file of the folder."""
        ...


Load = Callable[[str, str, int, Say], Any]
"""Makes an Engine or an Exporter."""


class _Worker:
    """An engine and its cases."""

    def __init__(self, load: Load, say: Say) -> None:
        self.loader, self.say = load, say
        self.runs: dict[str, Run] = {}

    def load(self, folder: str, dtype: str, threads: int) -> dict[str, Any]:
        self.engine = self.loader(folder, dtype, threads, self.say)
        return {"about": self.engine.about}

    def prepare(self, case: str, inputs: str | None) -> dict[str, Any]:
        run = self.runs[case] = self.engine.prepare(case, np.load(inputs) if inputs else None)
        return {"work": run.work, "setting": run.setting}

    def output(self, case: str, file: str) -> dict[str, Any]:
        np.save(file, self.runs[case].function())
        return {}

    def time(self, case: str) -> dict[str, Any]:
        function = self.runs[case].function
        start = time.perf_counter()
        function()
        return {"seconds": time.perf_counter() - start}

    def export(self, tower: str, folder: str) -> dict[str, Any]:
        self.engine.export(tower, folder)
        return {}


def serve(load: Load) -> None:
    """Answer requests until stdin ends."""
    requests = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)  # prints of the engine must not be taken for answers

    def send(**message: Any) -> None:
        print(json.dumps(message), file=answers, flush=True)

    worker = _Worker(load, lambda text: send(say=text))
    for line in requests:
        request = json.loads(line)
        try:
            send(ok=getattr(worker, request.pop("do"))(**request))
        except ModuleNotFoundError as error:
            send(error=str(error), missing=error.name)
        except Exception as error:
            traceback.print_exc()
            send(error=f"{type(error).__name__}: {error}", missing=None)


def _load_package() -> None:
    """Make this file's package importable, and nothing that lies beside it."""
    root = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location("npsiglip", root / "__init__.py")
    assert spec and spec.loader
    package = importlib.util.module_from_spec(spec)
    sys.modules["npsiglip"] = package
    spec.loader.exec_module(package)
    del sys.path[0]  # this file's folder, put there by Python


def _load_engine(name: str) -> Load:
    """The loader of an engine; its packages are not imported before it is called, so that it can fail politely."""
    return lambda *options: importlib.import_module(f"npsiglip.bench.engines.{name}").load(*options)


if __name__ == "__main__":
    _load_package()
    serve(_load_engine(sys.argv[1]))
