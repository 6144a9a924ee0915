"""What a run drops, and what it must not.

Covers collection/build.py, with tests/collection/test_index.py.
"""

import csv
import shutil
import tarfile
from pathlib import Path

import pytest

from npsiglip import InputError, SigLIP
from npsiglip.collection.build import build, under
from npsiglip.collection.store import Store
from npsiglip.collection.where import Where
from tests.helpers.collections import draw, draw_folder
from tests.helpers.golden_data import TINY


@pytest.fixture(scope="module")
def model():
    return SigLIP.from_pretrained(TINY)


@pytest.fixture
def photos(tmp_path):
    draw_folder(tmp_path / "photos", 6)
    return tmp_path / "photos"


def keys(folder):
    with Store.open(folder) as store:
        return {record.key for record in store.items()}


def test_what_is_gone_from_a_folder_is_dropped_whichever_place_named_it_last(photos, tmp_path, model):
    """A tar that lies in the folder is there as long as it is, and what was named by itself as long as it is there."""
    odd = draw(tmp_path / "other.png").rename(photos / "odd" / "named.dat")
    with tarfile.open(photos / "some.tar", "w") as tar:
        tar.add(photos / "even" / "000.png", "inside.png")
    index = tmp_path / "index"
    for places in ([photos], [photos / "odd"], [odd], [photos / "some.tar"], [f"{photos}/even/*.png"]):
        build(Where(places), index, model)
    before = keys(index)
    assert len(before) == 8
    assert build(Where([photos]), index, model).dropped == 0
    (photos / "odd" / "001.png").unlink()
    (photos / "even" / "002.png").unlink()
    assert build(Where([photos]), index, model).dropped == 2
    assert before - keys(index) == {f"{photos}/odd/001.png", f"{photos}/even/002.png"}
    (photos / "some.tar").unlink()
    odd.unlink()
    assert build(Where([photos]), index, model).dropped == 2


def test_an_empty_folder_is_refused_whichever_place_named_its_items(photos, tmp_path, model):
    build(Where([photos / "odd", photos / "even"]), tmp_path / "index", model)
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(InputError, match=r"holds nothing now, and the index .* has 6 items of it"):
        build(Where([photos]), tmp_path / "index", model)
    built = build(Where([photos]), tmp_path / "index", model, drop_all=True)
    assert (built.dropped, built.items) == (6, 0)


def test_a_table_that_is_damaged_loses_nothing(photos, tmp_path, model):
    paths = sorted(photos.rglob("*.png"))
    table = tmp_path / "t.csv"
    table.write_text("path\n" + "".join(f"{path}\n" for path in paths))
    build(Where([table]), tmp_path / "index", model)
    table.write_text(f'path\n{paths[0]}\n"' + "x" * (csv.field_size_limit() + 1) + "\n")
    built = build(Where([table]), tmp_path / "index", model)
    assert (built.items, built.dropped, built.failed) == (6, 0, 1)
    table.write_text(f"path\n{paths[0]}\n")
    assert build(Where([table]), tmp_path / "index", model).dropped == 5
    with Store.open(tmp_path / "index") as store:
        assert list(store.failures()) == []


def test_a_folder_behind_a_url_that_cannot_be_listed_loses_nothing(photos, tmp_path, model, monkeypatch):
    local = pytest.importorskip("fsspec.implementations.local")
    place = Where([f"file://{photos}"])
    build(place, tmp_path / "index", model)
    real = local.LocalFileSystem.ls

    def ls(self, path, *args, **options):
        if path.rstrip("/").endswith("/odd"):
            raise PermissionError(13, "Permission denied")
        return real(self, path, *args, **options)

    monkeypatch.setattr(local.LocalFileSystem, "ls", ls)
    with pytest.raises(InputError, match="cannot be listed"):
        build(place, tmp_path / "index", model)
    assert len(keys(tmp_path / "index")) == 6
    monkeypatch.undo()
    Path(photos / "odd" / "001.png").unlink()
    assert build(place, tmp_path / "index", model).dropped == 1


@pytest.mark.parametrize("prefix", ["/photos/", "/a\udcff/"])
def test_keys_under_a_prefix(prefix):
    first, end = under(prefix)
    assert first <= first + b"\xff\xff" < end
    assert under("") == (b"", b"")
