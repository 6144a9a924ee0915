"""Folders of small pictures, and an index's bytes, for tests of collections."""

import os
from dataclasses import replace

import numpy as np
from PIL import Image

from npsiglip.collection.identity import manifest_of
from npsiglip.collection.items import key_bytes
from npsiglip.collection.manifest import Manifest
from npsiglip.collection.records import Record
from npsiglip.collection.store import Store

WIDTH = 6


def draw(path, seed=0, size=(14, 11)):
    """A picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path)
    return path


def draw_folder(folder, count=20):
    """Pictures in two folders, numbered."""
    return [draw(folder / ("even" if i % 2 == 0 else "odd") / f"{i:03}.png", i) for i in range(count)]


def lock_folders(monkeypatch, name):
    """No folder of this name can be read."""
    real = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith(f"/{name}"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


def content(folder):
    """The bytes of every file of an index, but for who wrote last."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.name != "lock"}


def manifest(**changes):
    """Of an index that no model made."""
    given = {"kind": "image", "model": "none", "weights": "0" * 64, "dtype": "float32", "preprocessing": {"side": 8}}
    return Manifest(**{**given, "width": WIDTH, "shard_rows": 4, **changes})


def records(keys, source="/photos"):
    """Of pictures that there are not."""
    return [Record(key, 10 + len(key), 5, key_bytes(key)[:16].ljust(16), source, 3, 2) for key in keys]


def index_of(folder, model, vectors, keys, dead=(), kind="image"):
    """An index with these rows [N, D] in two shards, made by a model; of some items the rows alone are left."""
    made = replace(manifest_of(model, kind), width=vectors.shape[1])
    half = len(keys) // 2
    with Store.create(folder, made) as store:
        for part in (slice(0, half), slice(half, None)):
            store.add(records([str(key) for key in keys[part]]), vectors[part])
        store.drop([str(keys[i]) for i in dead])
    return folder


def rows(count, seed=0):
    """Of unit norm."""
    found = np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)
