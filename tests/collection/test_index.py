"""From a folder to an index: ended at any moment it goes on to the same bytes, and does nothing twice.

Covers collection/build.py and collection/identity.py as well.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import npsiglip
from npsiglip import Index
from npsiglip.collection import build as building
from npsiglip.collection import engine
from npsiglip.collection.build import build
from npsiglip.collection.damage import check
from npsiglip.collection.items import Flat
from npsiglip.collection.merge import merge
from npsiglip.collection.store import Store
from npsiglip.collection.where import Part, Where
from npsiglip.errors import InputError
from tests.helpers.collections import content, draw, draw_folder, lock_folders
from tests.helpers.command import environment
from tests.helpers.golden_data import TINY


@pytest.fixture(scope="module")
def model():
    return npsiglip.SigLIP.from_pretrained(TINY)


@pytest.fixture
def photos(tmp_path):
    draw_folder(tmp_path / "photos", 20)
    return tmp_path / "photos"


def run(photos, folder, model, **options):
    """What a run did, and the bytes that it left."""
    built = build(Where([photos]), folder, model, **{"shard_rows": 4, "threads": 2} | options)
    return built, content(folder)


def counts(built):
    return {key: value for key, value in vars(built).items() if value and key not in ("seconds", "pixels")}


def test_rows_are_those_of_the_model(photos, tmp_path, model):
    index = Index.build(photos, tmp_path / "index", model, shard_rows=8)
    paths = sorted(map(str, photos.rglob("*.png")))
    assert index.keys == list(index) == paths
    assert len(index) == 20
    np.testing.assert_array_equal(index.vectors, model.encode_image(paths))
    assert [shard.rows for shard in index.store.shards()] == [8, 8, 4]
    record = next(index.records())
    assert (record.width, record.height, record.size) == (14, 11, Path(paths[0]).stat().st_size)
    assert counts(index.built) == {"items": 20, "new": 20}
    assert repr(index) == f"Index('{tmp_path}/index': 20 images, float32 [20, 36], of '{TINY}')"


def test_a_second_run_does_nothing(photos, tmp_path, model, monkeypatch):
    draw_folder(photos / "more", 3)
    (photos / "bad.png").write_bytes(b"bad")
    (photos / "gone.png").symlink_to("nowhere")
    first, before = run(photos, tmp_path / "index", model)
    assert counts(first) == {"items": 23, "new": 23, "failed": 2}
    monkeypatch.setattr(engine, "together", None)  # nothing is embedded
    again, after = run(photos, tmp_path / "index", model)
    assert counts(again) == {"items": 23, "same": 23, "failed": 2, "still": 2}
    assert after == before


def test_what_is_new_changed_touched_or_gone(photos, tmp_path, model):
    run(photos, tmp_path / "index", model)
    first, second, third, *_ = paths = sorted(photos.rglob("*.png"))
    os.utime(first, (1, 1))
    draw(second, 99, (20, 20))
    third.unlink()
    draw(photos / "new.png", 98)
    paths[5].write_bytes(b"broken now")
    built, _ = run(photos, tmp_path / "index", model)
    expected = {"items": 19, "new": 1, "changed": 1, "same": 17, "touched": 1, "dropped": 1, "failed": 1}
    assert counts(built) == expected
    assert check(tmp_path / "index") == []
    with Index.open(tmp_path / "index") as index:
        assert set(index) == {str(path) for path in photos.rglob("*.png")} - {str(paths[5])}
        np.testing.assert_array_equal(index.vectors, model.encode_image(index.keys))
        assert [failure.key for failure in index.failures()] == [str(paths[5])]
    draw(paths[5], 97)
    built, _ = run(photos, tmp_path / "index", model)
    assert counts(built) == {"items": 20, "new": 1, "same": 19}
    assert counts(run(photos, tmp_path / "index", model)[0]) == {"items": 20, "same": 20}


def test_a_time_that_changed_alone_is_not_embedded_again(photos, tmp_path, model, monkeypatch):
    run(photos, tmp_path / "index", model)
    for path in photos.rglob("*.png"):
        os.utime(path, (1, 1))
    monkeypatch.setattr(engine, "together", None)
    assert counts(run(photos, tmp_path / "index", model)[0]) == {"items": 20, "same": 20, "touched": 20}
    assert counts(run(photos, tmp_path / "index", model)[0]) == {"items": 20, "same": 20}


def test_many_that_are_gone(photos, tmp_path, model):
    run(photos, tmp_path / "index", model)
    shutil.rmtree(photos / "even")
    assert counts(run(photos, tmp_path / "index", model)[0]) == {"items": 10, "same": 10, "dropped": 10}
    with Index.open(tmp_path / "index") as index:
        assert [shard.rows for shard in index.store.shards()] == [4, 4, 2]
        np.testing.assert_array_equal(index.vectors, model.encode_image(index.keys))
    assert check(tmp_path / "index") == []


def test_what_other_places_brought_stays(photos, tmp_path, model):
    draw_folder(tmp_path / "others", 3)
    run(photos, tmp_path / "index", model)
    built = build(Where([tmp_path / "others"]), tmp_path / "index", model)
    assert counts(built) == {"items": 23, "new": 3}
    built = build(Where([photos / "odd" / "001.png"]), tmp_path / "index", model)
    assert counts(built) == {"items": 23, "same": 1}
    (photos / "odd" / "001.png").unlink()
    built = build(Where([photos / "odd" / "001.png"]), tmp_path / "index", model)
    assert counts(built) == {"items": 22, "failed": 1}


def test_a_folder_in_which_nothing_is_left_may_be_a_disk_that_is_not_there(photos, tmp_path, model):
    _, before = run(photos, tmp_path / "index", model)
    shutil.rmtree(photos)
    photos.mkdir()
    with pytest.raises(InputError, match=r"holds nothing now, .* has 20 items of it: is a disk not there"):
        run(photos, tmp_path / "index", model)
    assert content(tmp_path / "index") == before
    draw(tmp_path / "other" / "x.png")
    where = Where([photos, tmp_path / "other"])
    assert counts(build(where, tmp_path / "index", model, drop_all=True)) == {"items": 1, "new": 1, "dropped": 20}


def test_a_folder_that_cannot_be_read_loses_nothing(photos, tmp_path, model, monkeypatch):
    run(photos, tmp_path / "index", model)
    parts = [Where([photos], part=Part(i, 2)) for i in (1, 2)]
    before = [build(part, tmp_path / f"{i}", model).items for i, part in enumerate(parts)]
    lock_folders(monkeypatch, "odd")
    assert counts(run(photos, tmp_path / "index", model)[0]) == {"items": 20, "same": 10, "failed": 1}
    after = [build(part, tmp_path / f"{i}", model) for i, part in enumerate(parts)]
    assert [built.items for built in after] == before
    assert sum(built.failed for built in after) == 1  # told by the part that has it


def test_nothing_to_embed(tmp_path, model):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"nothing in .* that could be embedded"):
        run(tmp_path / "empty", tmp_path / "index", model)


def test_strict_stops_and_keeps_what_is_committed(photos, tmp_path, model):
    (photos / "even" / "011.png").write_bytes(b"bad")
    with pytest.raises(InputError, match=r"011.png': is not an image .* what was committed stays"):
        run(photos, tmp_path / "index", model, strict=True)
    with Index.open(tmp_path / "index") as index:
        assert len(index) == 4
    assert run(photos, tmp_path / "index", model)[0].new == 16


def test_what_could_not_be_used_is_tried_again_when_that_is_asked_for(photos, tmp_path, model):
    """A limit may be the reason, which is no property of the file."""
    draw(photos / "large.png", 1, (60, 50))
    (photos / "bad.png").write_bytes(b"bad")
    limited = npsiglip.SigLIP.from_pretrained(TINY, max_megapixels=0.002)
    built, _ = run(photos, tmp_path / "index", limited)
    assert counts(built) == {"items": 20, "new": 20, "failed": 2}
    with Index.open(tmp_path / "index") as index:
        assert "60 x 50 pixels, more than the 2,000" in index.failures()[1].reason
    assert counts(run(photos, tmp_path / "index", model)[0]) == {"items": 20, "same": 20, "failed": 2, "still": 2}
    built, before = run(photos, tmp_path / "index", model, retry=True)
    assert counts(built) == {"items": 21, "new": 1, "same": 20, "failed": 1, "still": 1}
    built, after = run(photos, tmp_path / "index", model, retry=True)
    assert counts(built) == {"items": 21, "same": 21, "failed": 1, "still": 1}
    assert after == before
    assert Image.MAX_IMAGE_PIXELS > 1e6


def test_thousands_of_broken_files(tmp_path, model):
    (tmp_path / "photos").mkdir()
    for i in range(3000):
        (tmp_path / "photos" / f"{i}.jpg").write_bytes(b"broken %d" % i)
    draw(tmp_path / "photos" / "last.png")
    built, _ = run(tmp_path / "photos", tmp_path / "index", model, shard_rows=512)
    assert counts(built) == {"items": 1, "new": 1, "failed": 3000}
    with Index.open(tmp_path / "index") as index:
        assert len(index.failures()) == 3000


def test_files_that_vanish_or_change_while_they_are_read(photos, tmp_path, model):
    paths = sorted(map(str, photos.rglob("*.png")))
    where = Where([photos])

    class Source(Flat):
        name = str(photos)

        def __iter__(self):
            for item in sources[0]:
                if item.key == paths[3]:
                    os.unlink(item.key)  # noqa: PTH108
                if item.key == paths[4]:
                    Path(item.key).write_bytes(b"another")
                yield item

    sources = where.sources
    object.__setattr__(where, "sources", (Source(),))
    built = build(where, tmp_path / "index", model)
    assert counts(built) == {"items": 18, "new": 18, "failed": 2}
    with Index.open(tmp_path / "index") as index:
        assert ["vanished" in each.reason for each in index.failures()] == [True, False]
        assert "changed while it was read" in index.failures()[1].reason
    draw(Path(paths[4]))
    assert counts(build(Where([photos]), tmp_path / "index", model)) == {"items": 19, "new": 1, "same": 18}
    with Index.open(tmp_path / "index") as index:
        assert index.failures() == []


KILLED = """
import os, sys, signal
from npsiglip import SigLIP
from npsiglip.collection.build import build
from npsiglip.collection.where import Where
model = SigLIP.from_pretrained(sys.argv[3])
print("ready", flush=True)
build(Where([sys.argv[1]]), sys.argv[2], model, shard_rows=4, threads=2, progress=lambda built: print(flush=True))
print("done", flush=True)
"""


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_a_random_moment_it_goes_on_to_the_same_bytes(photos, tmp_path, model, seed):
    """More moments, and larger collections: benchmarks/index_kill.py."""
    (photos / "even" / "005.png").write_bytes(b"bad")
    _, whole = run(photos, tmp_path / "whole", model)
    rng, folder = np.random.default_rng(seed), tmp_path / "index"
    command = [sys.executable, "-c", KILLED, photos, folder, TINY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(rng.integers(0, 4)):
            process.stdout.readline()
        time.sleep(rng.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
    assert run(photos, folder, model)[1] == whole


@pytest.mark.parametrize("step", ["write_shard", "COMMIT", "manifest"])
def test_ended_within_a_commit(photos, tmp_path, model, monkeypatch, step):
    """At the worst moments: a shard that no transaction knows, a transaction without its end, no manifest."""
    _, whole = run(photos, tmp_path / "whole", model)
    folder = tmp_path / "index"

    class Killed(BaseException):
        pass

    def end(*args):
        raise Killed

    if step == "manifest":
        monkeypatch.setattr("npsiglip.collection.manifest.Manifest.write", end)
    elif step == "COMMIT":
        real, times = Store.add, []

        def add(self, *args):
            times.append(0)
            if len(times) == 3:
                shutil.copytree(folder, tmp_path / "then")
                real(self, *args)
                raise Killed
            return real(self, *args)

        monkeypatch.setattr(Store, "add", add)
    else:
        from npsiglip.collection import store

        write_shard = store.write_shard

        def write(where, name, rows):
            found = write_shard(where, name, rows)
            if name.endswith("2.npy"):
                raise Killed
            return found

        monkeypatch.setattr(store, "write_shard", write)
    with pytest.raises(Killed):
        run(photos, folder, model)
    monkeypatch.undo()
    assert run(photos, folder, model)[1] == whole
    if step == "COMMIT":
        assert run(photos, tmp_path / "then", model)[1] == whole


def test_an_index_of_another_model_is_refused(photos, tmp_path, model, quantized):
    _, before = run(photos, tmp_path / "index", model)
    other = npsiglip.SigLIP.from_pretrained(TINY, dtype="bfloat16")
    with pytest.raises(InputError, match=r"computes in \('float32', now 'bfloat16'\)"):
        run(photos, tmp_path / "index", other)
    with pytest.raises(InputError, match="the model's weights"):
        run(photos, tmp_path / "index", npsiglip.SigLIP.from_pretrained(quantized))
    with pytest.raises(InputError, match=r"fast_decode False, now True"):
        run(photos, tmp_path / "index", model, fast_decode=True)
    with pytest.raises(InputError, match=r"type of its rows \('float32', now 'float16'\)"):
        run(photos, tmp_path / "index", model, rows="float16")
    assert content(tmp_path / "index") == before
    with pytest.raises(InputError, match=r"was made by .* \(dtype: float32, now bfloat16\)"):
        Index.open(tmp_path / "index", other).model  # noqa: B018
    assert Index.open(tmp_path / "index").model.dtype == "float32"


def test_weights_are_hashed_again_if_their_files_have_another_time(photos, tmp_path, model):
    copy = Path(shutil.copytree(TINY, tmp_path / "tiny"))
    run(photos, tmp_path / "index", npsiglip.SigLIP.from_pretrained(copy))
    os.utime(copy / "model.safetensors", (1, 1))
    assert run(photos, tmp_path / "index", npsiglip.SigLIP.from_pretrained(copy))[0].same == 20


def test_parts_that_are_merged_are_the_whole(photos, tmp_path, model):
    (photos / "bad.png").write_bytes(b"bad")
    _, whole = run(photos, tmp_path / "whole", model)
    for i in (1, 2, 3):
        build(Where([photos], part=Part(i, 3)), tmp_path / f"{i}", model, shard_rows=4)
    assert merge([tmp_path / f"{i}" for i in (3, 1, 2)], tmp_path / "all") == 20
    merged = content(tmp_path / "all")
    assert {k: v for k, v in merged.items() if k != "index.sqlite"} == {
        k: v for k, v in whole.items() if k != "index.sqlite"
    }
    with Index.open(tmp_path / "all") as index, Index.open(tmp_path / "whole") as expected:
        assert list(index.records()) == list(expected.records())
        assert index.failures() == expected.failures()
    assert counts(build(Where([photos]), tmp_path / "all", model)) == {"items": 20, "same": 20, "failed": 1, "still": 1}


def test_texts(tmp_path, model):
    texts = ["a cat", "two dogs", "three birds", "a cat"]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    index = Index.build(tmp_path / "texts.txt", tmp_path / "index", model, kind="text", rows="float16")
    assert index.keys == texts[:3]
    np.testing.assert_array_equal(index.vectors, model.encode_text(texts[:3]).astype(np.float16))
    (tmp_path / "texts.txt").write_text("two dogs\nfour", encoding="utf-8")
    assert counts(index.add(tmp_path / "texts.txt")) == {"items": 2, "new": 1, "same": 1, "dropped": 2}
    assert sorted(index) == ["four", "two dogs"]
    with pytest.raises(InputError, match=r"what is in it \('text', now 'image'\)"):
        Index.build(draw(tmp_path / "x.png"), tmp_path / "index", model)


def test_threads_and_batches_change_nothing(photos, tmp_path, model, monkeypatch):
    _, one = run(photos, tmp_path / "one", model, threads=1)
    monkeypatch.setattr(building, "BATCH", 3)
    assert run(photos, tmp_path / "many", model, threads=5)[1] == one


def test_two_processes(photos, tmp_path, model):
    _, before = run(photos, tmp_path / "index", model)
    with Store.open(tmp_path / "index", write=True), pytest.raises(InputError, match="is being written"):
        run(photos, tmp_path / "index", model)
    assert content(tmp_path / "index") == before


def test_it_is_searched_by_words_pictures_and_likeness(photos, tmp_path, model):
    index = Index.build(photos, tmp_path / "index", model, shard_rows=8)
    paths, pictures = index.keys, model.encode_image(index.keys)
    words = model(paths, ["a cat"])
    (hits,) = index.search("a cat", 3)
    cosines = pictures @ words.text_embeds[0]
    order = np.argsort(-cosines, kind="stable")[:3]
    assert [hit.key for hit in hits] == [paths[i] for i in order]
    np.testing.assert_allclose([hit.cosine for hit in hits], cosines[order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose([hit.probability for hit in hits], words.probs[order, 0], rtol=1e-4)
    ((first, *_),) = index.search([paths[5]], 2)
    assert (first.key, first.probability) == (paths[5], None)
    near = np.argsort(-(pictures @ pictures[5]), kind="stable")
    assert [hit.key for hit in index.similar(paths[5], 2)] == [paths[i] for i in near if i != 5][:2]
    assert index.similar(f"{photos}/even/../odd/{Path(paths[-1]).name}", 1) == index.similar(Path(paths[-1]), 1)
    assert index.search([]) == []
    with pytest.raises(InputError, match="is not in the index"):
        index.similar("other.png")


def test_what_was_dropped_is_not_found(photos, tmp_path, model):
    index = Index.build(photos, tmp_path / "index", model, shard_rows=8)
    gone = index.search("a cat", 1)[0][0].key
    Path(gone).unlink()
    index.add(photos)
    assert gone not in {hit.key for hit in index.search("a cat", 20)[0]}
    assert len(index.search("a cat", 20)[0]) == 19
