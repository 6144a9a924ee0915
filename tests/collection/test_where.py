"""What a user names, and which items that is.

Covers collection/walk.py, collection/tables.py, collection/tars.py, collection/remote.py and collection/items.py as
well.
"""

import inspect
import io
import itertools
import os
import pickle
import random
import re
import sys
import tarfile
from datetime import UTC, datetime

import pytest

from npsiglip.collection import remote, tables, where
from npsiglip.collection.items import Bad, Item, key_bytes, key_of
from npsiglip.collection.where import Part, Where
from npsiglip.errors import InputError
from tests.helpers.collections import draw, lock_folders


def found(*places, root=None, **options):
    """The keys that places name, relative to a folder."""
    return [item.key.removeprefix(f"{root}/") for item in Where(places, **options) if isinstance(item, Item)]


def bad(*places, **options):
    return {item.key: item.reason for item in Where(places, **options) if isinstance(item, Bad)}


@pytest.fixture
def photos(tmp_path):
    """A folder with what is a picture and what is none."""
    for name in ("b.png", "a/2.JPG", "a/1.png", "a.png", "a/deep/er/x.webp", "thumbs/1.png", ".hidden/y.png"):
        draw(tmp_path / "photos" / name) if name.endswith("png") else (
            (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True),
            (tmp_path / "photos" / name).write_bytes(b"x"),
        )
    for name in (".z.png", "notes.txt", "film.mp4"):
        (tmp_path / "photos" / name).write_bytes(b"x")
    return tmp_path / "photos"


ALL = ["a.png", "a/1.png", "a/2.JPG", "a/deep/er/x.webp", "b.png", "thumbs/1.png"]


def test_a_folder_gives_its_pictures_in_the_order_of_their_names(photos):
    assert found(photos, root=photos) == ALL
    assert sorted(ALL) == ALL


def test_names_are_as_given_from_anywhere(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    assert found("photos") == found(f"{photos}/") == found("./a/../photos") == [f"{photos}/{name}" for name in ALL]


@pytest.mark.parametrize(
    ("ignore", "left_out"),
    [
        (["thumbs"], {"thumbs/1.png"}),
        (["thumbs/"], {"thumbs/1.png"}),
        (["*.JPG", "b*"], {"a/2.JPG", "b.png"}),
        (["a/deep"], {"a/deep/er/x.webp"}),
        (["./a/*"], {"a/1.png", "a/2.JPG", "a/deep/er/x.webp"}),
        (["deep/x"], set()),
    ],
)
def test_ignore(photos, ignore, left_out):
    assert found(photos, root=photos, ignore=ignore) == [name for name in ALL if name not in left_out]


@pytest.mark.parametrize(
    ("glob", "names"),
    [
        ("*.png", ["a.png", "b.png"]),
        ("a/*", ["a/1.png", "a/2.JPG"]),
        ("**/*.png", ["a.png", "a/1.png", "b.png", "thumbs/1.png"]),
        ("**/?.[pj]*", ["a.png", "a/1.png", "b.png", "thumbs/1.png"]),
        ("**/[!1].*", ["a.png", "a/2.JPG", "a/deep/er/x.webp", "b.png"]),
        ("a/**", ["a/1.png", "a/2.JPG", "a/deep/er/x.webp"]),
        ("a/de*/*/x.webp", ["a/deep/er/x.webp"]),
        ("*.gif", []),
    ],
)
def test_patterns(photos, glob, names):
    assert found(f"{photos}/{glob}", root=photos) == names


def test_links_in_circles_end_and_links_that_lead_out_are_followed(photos, tmp_path):
    draw(tmp_path / "other" / "o.png")
    (tmp_path / "other" / "back").symlink_to(photos)
    (tmp_path / "other" / "self").symlink_to(tmp_path / "other")
    (photos / "a" / "up").symlink_to(photos.parent)
    (photos / "a" / "self").symlink_to(photos / "a")
    (photos / "link").symlink_to(tmp_path / "other")
    (photos / "linked").symlink_to(tmp_path / "other")
    assert found(photos, root=photos) == [*ALL[:5], "link/o.png", "thumbs/1.png"]


def test_many_folders_that_link_to_each_other(tmp_path):
    """Followed by every way, there would be ten million names."""
    for i in range(11):
        draw(tmp_path / "in" / f"{i}" / "x.png")
        for j in range(11):
            (tmp_path / "in" / f"{i}" / f"to{j}").symlink_to(tmp_path / "in" / f"{j}")
    assert len(found(tmp_path / "in")) == 11


def test_a_link_to_nothing_and_what_is_no_file(photos):
    (photos / "gone.png").symlink_to("nowhere")
    os.mkfifo(photos / "pipe.png")
    reasons = bad(photos)
    assert reasons.pop(f"{photos}/gone.png") == "it is a link to nothing"
    assert "not a regular file" in reasons.pop(f"{photos}/pipe.png")
    assert not reasons


def test_a_folder_that_cannot_be_read(photos, monkeypatch):
    lock_folders(monkeypatch, "a")
    items = [item for item in Where([photos]) if isinstance(item, Bad)]
    assert [(item.key, item.within) for item in items] == [(f"{photos}/a/", f"{photos}/a/")]
    assert "cannot be read: Permission denied" in items[0].reason
    assert found(photos, root=photos) == ["a.png", "b.png", "thumbs/1.png"]


ODD = [b"new\nline.png", b"caf\xe9.png", b"\xff\xfe.png", "ü – 図.png".encode(), b"-.png", b" .png"]


def test_names_that_are_no_unicode(tmp_path):
    for name in ODD:
        (tmp_path / os.fsdecode(name)).write_bytes(b"x")
    keys = found(tmp_path, root=tmp_path)
    assert sorted(map(os.fsencode, keys)) == sorted(ODD)
    for item in Where([tmp_path]):
        assert item.opener() == b"x"
        assert key_of(key_bytes(item.key)) == item.key


def test_a_deep_folder(tmp_path):
    """Deeper than functions may call each other."""
    folder = tmp_path.joinpath(*["d"] * 200)
    folder.mkdir(parents=True)
    (folder / "x.png").write_bytes(b"x")
    limit = sys.getrecursionlimit()
    try:
        sys.setrecursionlimit(len(inspect.stack()) + 100)
        assert len(found(tmp_path)) == 1
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize("separator", [b"\n", b"\0", b"\r\n"])
def test_names_from_a_pipe(tmp_path, monkeypatch, separator):
    names = [os.fsencode(tmp_path) + b"/%d.png" % i for i in range(3000)]
    if separator == b"\0":
        names[0] = os.fsencode(tmp_path) + b"/new\nline.png"
    for name in (names[0], names[-1]):
        open(name, "wb").close()  # noqa: PTH123
    random.seed(3)
    stream = io.BytesIO(separator.join(names) + separator * random.randrange(2))
    monkeypatch.setattr(where, "_read_stdin", lambda size: stream.read(random.randrange(1, size)) if size else b"")
    items = list(Where(["-"]))
    assert [os.fsencode(item.key) for item in items] == names
    assert [isinstance(item, Item) for item in items] == [True, *[False] * 2998, True]


def test_an_empty_pipe():
    assert list(tables.names_of(io.BytesIO(b"").read)) == []
    assert list(tables.names_of(io.BytesIO(b"a\nb").read)) == ["a", "b"]


CSVS = {
    "x.csv": "name,path,n\none,photos/a.png,1\n\ntwo,photos/b.png,2\nthree\n",
    "x.tsv": "path\tn\nphotos/a.png\t1\nphotos/b.png\t2\nphotos/none.png\t2\n",
    "x.jsonl": '{"path": "photos/a.png", "n": 1}\n{"path": "photos/b.png"}\nnothing\n',
}


@pytest.mark.parametrize("name", CSVS)
def test_a_column_of_paths(photos, name):
    (photos.parent / name).write_text(CSVS[name], encoding="utf-8")
    assert found(photos.parent / name, root=photos) == ["a.png", "b.png"]
    assert found(photos.parent / name, root=photos, column="path") == ["a.png", "b.png"]
    assert len(bad(photos.parent / name)) == 1


def test_a_column_of_urls(photos):
    """Beside paths; and pictures in letters are told."""
    table = photos.parent / "x.csv"
    table.write_text(f'path\nfile://{photos}/a.png\nphotos/b.png\n"data:image/png;base64,iVBO"\n', encoding="utf-8")
    items = [item for item in Where([table]) if isinstance(item, Item)]
    assert [item.key for item in items] == [f"file://{photos}/a.png", f"{photos}/b.png"]
    assert items[0].opener() == where.read_key(items[0].key) == (photos / "a.png").read_bytes()
    assert "as bytes, in Parquet" in "".join(bad(table).values())


def test_which_column_is_meant_has_to_be_clear(photos):
    table = photos.parent / "x.csv"
    table.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"columns 'a', 'b': say with --column"):
        list(Where([table]))
    with pytest.raises(InputError, match=r"no column 'c'; it has 'a', 'b'"):
        list(Where([table], column="c"))


def test_texts(tmp_path):
    (tmp_path / "lines.txt").write_bytes("\ufeffa cat\r\n\ntwo dogs, asleep\nü\nno ".encode() + b"\xe9")
    (tmp_path / "t.csv").write_text('caption,n\n"a cat, ""asleep""",1\n"two\nlines",2\n', encoding="utf-8")
    (tmp_path / "t.jsonl").write_text('{"text": "x"}\n{"text": "\\ud800"}\n{"text": 3}\n["a"]\n', encoding="utf-8")
    lines = list(Where([tmp_path / "lines.txt"], "text"))
    assert [item.key for item in lines][:2] == ["a cat", "two dogs, asleep"]
    assert [type(item) for item in lines] == [Item, Item, Item, Bad]
    assert found(tmp_path / "t.csv", kind="text") == ['a cat, "asleep"', "two\nlines"]
    assert found(tmp_path / "t.jsonl", kind="text") == ["x"]
    assert len(bad(tmp_path / "t.jsonl", kind="text")) == 3


def make_tar(path, names, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name.encode())
            archive.addfile(info, io.BytesIO(name.encode()))
    return path


def test_a_tar(tmp_path):
    tar = make_tar(tmp_path / "x.tar", ["a/1.jpg", "a/1.txt", "a/1.json", "ü.png", "2.webp"])
    items = list(Where([tar]))
    assert [item.key for item in items] == [f"{tar}::{name}" for name in ("a/1.jpg", "ü.png", "2.webp")]
    assert [item.opener().decode() for item in items] == ["a/1.jpg", "ü.png", "2.webp"]
    assert pickle.loads(pickle.dumps(items[0])).opener() == b"a/1.jpg"


def test_a_tar_that_ends_too_early_gives_what_is_whole(tmp_path):
    tar = make_tar(tmp_path / "x.tar", [f"{i}.jpg" for i in range(9)])
    tar.write_bytes(tar.read_bytes()[:5000])
    *items, last = Where([tar])
    assert len(items) == 5
    assert isinstance(last, Bad)
    assert "is it whole?" in last.reason
    assert last.within == f"{tar}::"


def test_what_is_no_tar_or_is_compressed(tmp_path):
    make_tar(tmp_path / "x.tar.gz", ["1.jpg"], "w:gz")
    (tmp_path / "y.tar").write_bytes(b"nothing" * 1000)
    for name in ("x.tar.gz", "y.tar"):
        with pytest.raises(InputError, match="cannot be read as a tar, uncompressed"):
            list(Where([tmp_path / name]))


BY_FOLDER = ["a.png", "b.png", "a/1.png", "a/2.JPG", "a/deep/er/x.webp", "thumbs/1.png"]


def test_urls(photos):
    url = f"local://{photos}"
    assert [item.key for item in Where([url])] == [f"file://{photos}/{name}" for name in BY_FOLDER]
    (item,) = Where([f"{url}/a.png"])
    assert item.opener() == (photos / "a.png").read_bytes()
    assert item.size == (photos / "a.png").stat().st_size
    with pytest.raises(InputError, match="does not exist"):
        list(Where([f"{url}/none"]))
    with pytest.raises(InputError, match="cannot be opened"):
        list(Where(["nosuch://x/y.png"]))


def test_a_missing_package_is_named(monkeypatch):
    import fsspec.core

    def url_to_fs(url):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", url_to_fs)
    with pytest.raises(InputError, match=re.escape('pip install "fsspec[s3]"')):
        list(Where(["s3://bucket/photos"]))


@pytest.mark.parametrize(
    ("places", "options", "phrase"),
    [
        ([], {}, "no places"),
        ([""], {}, "an argument is empty"),
        (["nowhere"], {}, "'nowhere' does not exist"),
        (["nowhere.tar"], {}, "'nowhere.tar' does not exist"),
        (["-", "-"], {}, "can be read once"),
        (["photos"], {"kind": "text"}, "is a folder; expected a file with a text a line"),
        (["x.txt"], {}, "--as text"),
        (["nowhere.parquet"], {}, "'nowhere.parquet' does not exist"),
        (["photos"], {"kind": "sound"}, "of kind"),
    ],
)
def test_places_that_cannot_be(photos, monkeypatch, places, options, phrase):
    monkeypatch.chdir(photos.parent)
    (photos.parent / "x.txt").touch()
    with pytest.raises(InputError, match=phrase):
        Where(places, **options)


def test_a_missing_file_is_a_bad_item(tmp_path):
    assert bad(tmp_path / "no.png") == {f"{tmp_path}/no.png": "it does not exist; check the path"}


def test_parts_are_disjoint_complete_and_the_same_everywhere(photos):
    parts = [found(photos, root=photos, part=Part(i, 3)) for i in (1, 2, 3)]
    assert sorted(itertools.chain(*parts)) == ALL
    assert Part.parse("2/8") == Part(2, 8)
    assert [Part(i, 4).has("/a/b.png") for i in (1, 2, 3, 4)] == [False, True, False, False]
    for text in ("0/3", "4/3", "1", "a/b", "1/0", "-1/2"):
        with pytest.raises(InputError, match="a part is written i/n"):
            Part.parse(text)


def test_a_file_that_changes_or_vanishes(tmp_path):
    path = draw(tmp_path / "x.png")
    (item,) = Where([path])
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(InputError, match="changed while it was read"):
        item.opener()
    path.unlink()
    with pytest.raises(InputError, match="vanished"):
        item.opener()


def test_a_pattern_that_is_none(photos):
    with pytest.raises(InputError, match=r"the pattern '\[z-a\]\*.png' cannot be"):
        Where([f"{photos}/[z-a]*.png"])


def test_a_picture_by_its_key(photos, tmp_path):
    with tarfile.open(tmp_path / "a::b.tar", "w") as tar:
        tar.add(next(photos.rglob("*.png")), "in/it.png")
    for place in (photos, tmp_path / "a::b.tar", f"file://{photos}"):
        for item in Where([place]):
            if not isinstance(item, Bad):
                assert where.read_key(item.key) == item.opener()
    with pytest.raises(InputError, match="has no member"):
        where.read_key(f"{tmp_path}/a::b.tar::other.png")


def test_a_remote_file_has_the_time_or_the_version_that_it_tells():
    assert remote._time({"LastModified": datetime.fromtimestamp(5, UTC)}) == 5_000_000_000
    assert remote._time({"ETag": "a"}) == remote._time({"ETag": "a"}) != remote._time({"ETag": "b"}) != -1
    assert remote._time({"size": 3}) == -1
