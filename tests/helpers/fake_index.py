"""An index in memory, as commands on collections see it."""

from types import SimpleNamespace

import numpy as np

from npsiglip.cli import collections as shared


class FakeIndex:
    """Shards of rows, a key for each; some rows belong to no item any more."""

    def __init__(self, rows, keys, model, dead=(), kind="image"):
        half = len(rows) // 2
        self._rows = [np.ascontiguousarray(part) for part in (rows[:half], rows[half:])]
        self._keys = [None if i in dead else str(key) for i, key in enumerate(keys)]
        alive = np.array([key is not None for key in self._keys])
        self._alive = [None if part.all() else part for part in (alive[:half], alive[half:])]
        width = rows.shape[1]
        self.manifest = SimpleNamespace(kind=kind, model=str(model), dtype="float32", weights="abc", width=width)

    def rows(self):
        return self._rows

    def alive(self):
        return self._alive

    def items(self, numbers=None):
        keys = self._keys if numbers is None else [self._keys[number] for number in numbers]
        return [None if key is None else SimpleNamespace(key=key) for key in keys]

    def number(self, key):
        return self._keys.index(key) if key in self._keys else None


def put_index(monkeypatch, index):
    """Let commands open this one, whatever the folder is called."""
    monkeypatch.setattr(shared, "open_index", lambda folder: index)
