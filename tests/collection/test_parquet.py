"""Columns of Parquet, which need pyarrow: `pip install '.[parquet]'`; skipped without, but for the message."""

import io
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from npsiglip import SigLIP
from npsiglip.collection.build import build
from npsiglip.collection.items import Bad, Item
from npsiglip.collection.store import Store
from npsiglip.collection.where import Where, read_key
from npsiglip.errors import InputError
from tests.helpers.collections import draw
from tests.helpers.golden_data import TINY


def test_without_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "x.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match=r"pip install 'npsiglip\[parquet\]'"):
        list(Where([tmp_path / "x.parquet"]))


@pytest.fixture
def write(tmp_path):
    """Writes columns, three rows a group."""
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    def writing(name="x.parquet", **columns):
        parquet.write_table(pyarrow.table(columns), tmp_path / name, row_group_size=3)
        return tmp_path / name

    return writing


def png(color):
    data = io.BytesIO()
    Image.new("RGB", (9, 7), color).save(data, "PNG")
    return data.getvalue()


COLORS = ["red", "lime", "blue", "white", "black", "gray", "pink"]


def keys(*places, **options):
    return [item.key for item in Where(places, **options) if isinstance(item, Item)]


def test_paths(write, tmp_path):
    for name in "abcd":
        draw(tmp_path / f"{name}.png")
    table = write(path=["a.png", None, "b.png", "c.png", "", f"file://{tmp_path}/d.png", "no.png"], n=list(range(7)))
    expected = [f"{tmp_path}/a.png", f"{tmp_path}/b.png", f"{tmp_path}/c.png", f"file://{tmp_path}/d.png"]
    assert keys(table) == keys(table, column="path") == expected
    assert [item.key for item in Where([table]) if isinstance(item, Bad)] == [f"{tmp_path}/no.png"]


def test_bytes(write):
    pictures = [png(color) for color in COLORS]
    table = write(jpg=pictures, caption=COLORS, url=COLORS)
    items = list(Where([table]))
    assert [item.key for item in items] == [f"{table}::jpg::{i}" for i in range(7)]
    assert [pickle.loads(pickle.dumps(item)).opener() for item in items] == pictures
    assert [read_key(item.key) for item in items] == pictures
    for key in (f"{table}::jpg::7", f"{table}::caption::1", f"{table}::none::1", f"{table}::jpg::x", f"{table}::jpg"):
        with pytest.raises(InputError, match="has no picture at"):
            read_key(key)


def test_pictures_as_the_datasets_library_writes_them(write, tmp_path):
    """A structure of bytes and path; without bytes the path counts."""
    draw(tmp_path / "a.png")
    table = write(
        image=[{"bytes": png("red"), "path": "r.png"}, {"bytes": None, "path": "a.png"}, None], style=[1, 2, 3]
    )
    assert keys(table) == [f"{table}::image::0", f"{tmp_path}/a.png"]
    assert read_key(f"{table}::image::0") == png("red")


def test_texts(write):
    table = write(caption=["a cat", "two\nlines", "", None, "ü"], jpg=[b"x"] * 5)
    assert keys(table, kind="text") == ["a cat", "two\nlines", "ü"]


def test_which_column_is_meant_has_to_be_clear(write):
    table = write(a=["x"], b=["y"], n=[1])
    with pytest.raises(InputError, match=r"columns 'a', 'b': say with --column"):
        list(Where([table]))
    with pytest.raises(InputError, match=r"no column 'c'; it has 'a', 'b'"):
        list(Where([table], column="c"))
    with pytest.raises(InputError, match=r"column 'n' of .* holds int64; expected paths, or pictures as bytes"):
        list(Where([table], column="n"))
    with pytest.raises(InputError, match=r"holds binary; expected texts"):
        list(Where([write("y.parquet", jpg=[b"x"])], "text", column="jpg"))


def test_damaged(write, tmp_path):
    """What cannot be opened is refused; what is damaged within gives what comes before it."""
    pq = pytest.importorskip("pyarrow.parquet")
    rng = np.random.default_rng(0)
    table = write(jpg=[rng.bytes(5000) for _ in range(9)])
    content = table.read_bytes()
    (tmp_path / "short.parquet").write_bytes(content[:20_000])
    with pytest.raises(InputError, match=r"cannot be read as Parquet: .* is it whole\?"):
        list(Where([tmp_path / "short.parquet"]))
    second = pq.ParquetFile(table).metadata.row_group(1).column(0)
    start = second.dictionary_page_offset or second.data_page_offset
    table.write_bytes(content[:start] + b"\xff" * 20 + content[start + 20 :])
    *items, last = Where([table])
    assert [item.key for item in items] == [f"{table}::jpg::{i}" for i in range(3)]
    assert isinstance(last, Bad)
    assert last.reason.startswith("it cannot be read on from row 3: ")
    assert last.unfinished


def test_a_text_that_is_no_utf8(write):
    import pyarrow

    odd = pyarrow.StringArray.from_buffers(3, *pyarrow.array([b"a", b"\xff", b"b"]).buffers()[1:])
    items = list(Where([write(caption=odd)], "text"))
    assert [type(item) for item in items] == [Item, Bad, Item]
    assert items[1].reason == "it is not UTF-8"


def test_an_index_of_pictures_in_a_table(write, tmp_path):
    model = SigLIP.from_pretrained(TINY)
    pictures = [png(color) for color in COLORS]
    pictures[2] = b"no picture"
    table, index = write(image=pictures), tmp_path / "index"
    built = build(Where([table]), index, model)
    assert (built.new, built.failed) == (6, 1)
    with Store.open(index) as store:
        (rows,) = store.rows()
        np.testing.assert_array_equal(rows[5], model.encode_image(Image.new("RGB", (9, 7), "pink"))[0])
    assert build(Where([table]), index, model).same == 6
    write(image=pictures[:4])
    assert build(Where([table]), index, model).dropped == 3
