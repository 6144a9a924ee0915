"""A cluster of three processes on this machine makes the same index as one; needs Ray, skipped without.

Covers collection/engine.py, with tests/collection/test_index.py.
"""

import os
import signal
import sys
import time

import numpy as np
import pytest
from PIL import Image

from npsiglip import SigLIP
from npsiglip.collection.build import build
from npsiglip.collection.where import Where
from npsiglip.errors import InputError
from tests.helpers.collections import content, draw_folder
from tests.helpers.golden_data import TINY

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def ray():
    found = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    found.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def model():
    return SigLIP.from_pretrained(TINY, threads=1)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("in") / "photos"
    draw_folder(folder, 300)
    for i in (5, 70):
        (folder / "even" / f"{i:03}.png").write_bytes(b"bad")
    return folder


@pytest.fixture(scope="module")
def whole(photos, model, tmp_path_factory):
    """The bytes that one process makes."""
    folder = tmp_path_factory.mktemp("whole") / "index"
    built = build(Where([photos]), folder, model, shard_rows=64)
    return built, content(folder)


def counts(built):
    return {name: value for name, value in vars(built).items() if name != "seconds"}


def test_without_ray(tmp_path, model, monkeypatch):
    from npsiglip.collection.ray import cluster

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'npsiglip\[ray\]'"), cluster(model, None):
        pass


@pytest.mark.parametrize("victims", [0, 1, 2])
def test_an_index_has_the_bytes_of_one_process(ray, photos, whole, model, tmp_path, monkeypatch, victims):
    """With workers that are killed in the middle, too: as many, one after the other."""
    from npsiglip.collection import ray as engines

    started, killed = [], []

    class Pool(engines._Pool):
        def take(self):
            if len(killed) < victims and len(self.actors) == 3 and len(self.chunks) > 3:
                chunk = self.chunks[0]
                killed.append(ray.get(self.actors[chunk.worker].ready.remote()))
                os.kill(killed[-1], signal.SIGKILL)
            return super().take()

        def _start(self):
            started.append(1)
            super()._start()

    monkeypatch.setattr(engines, "_Pool", Pool)
    monkeypatch.setattr(engines, "CHUNK", 16)

    def engine(manifest):
        return engines.cluster(model, manifest, workers=3, threads=1)

    if victims:  # all three are there before anything is given to them
        real = Pool.give

        def give(self, chunk):
            while len(self.actors) + len(self.starting) == 3 and self.starting and not killed:
                time.sleep(0.05)
                self._welcome()
            real(self, chunk)

        monkeypatch.setattr(Pool, "give", give)
    built = build(Where([photos]), tmp_path / "index", model, shard_rows=64, engine=engine)
    assert counts(built) == counts(whole[0])
    assert content(tmp_path / "index") == whole[1]
    assert len(killed) == victims
    assert len(started) == 3 + victims


def test_a_worker_that_always_ends_is_told(ray, photos, model, tmp_path, monkeypatch):
    from npsiglip.collection import ray as engines

    class Mortal(engines.Worker):
        def work(self, tasks):
            os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(engines, "Worker", Mortal)
    monkeypatch.setattr(engines, "LIVES", 2)
    with pytest.raises(InputError, match=r"2 workers have ended with the items from '.*000.png' to "):
        build(
            Where([photos]),
            tmp_path / "index",
            model,
            engine=lambda manifest: engines.cluster(model, manifest, workers=1),
        )


def test_what_a_worker_finds_wrong_is_told(ray, photos, model, tmp_path, monkeypatch):
    """Weights that are others there; more workers than CPUs."""
    from dataclasses import replace

    from npsiglip.collection.ray import cluster

    with pytest.raises(InputError, match=r"a worker of Ray cannot work: .*the weights of .* are others"):
        build(
            Where([photos]),
            tmp_path / "index",
            model,
            engine=lambda manifest: cluster(model, replace(manifest, weights="0", files={}), workers=1),
        )
    with pytest.raises(InputError, match="4 workers need a CPU each, and the cluster has 3"), cluster(model, None, 4):
        pass


def test_batches_of_ray_data(ray, photos, model, tmp_path):
    """Paths with one that is broken, one worker killed on the way; the content of files, pixels, texts."""
    from npsiglip.collection.ray import Embedder

    paths = sorted(map(str, photos.rglob("*.png")))[:60]
    once = tmp_path / "once"

    class Killed(Embedder):
        def __call__(self, batch):
            if not once.exists():
                once.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().__call__(batch)

    options = {"model": str(TINY), "threads": 1}
    data = ray.data.from_items([{"path": path} for path in paths]).map_batches(
        Killed, fn_constructor_kwargs=options, batch_size=8, concurrency=2
    )
    rows = {row["path"]: row for row in data.take_all()}
    good = [path for path in paths if not rows[path]["error"]]
    assert once.exists()
    assert sorted(rows) == paths
    assert len(good) == 58
    np.testing.assert_array_equal(np.stack([rows[path]["embedding"] for path in good]), model.encode_image(good))
    (bad,) = {row["error"].partition(":")[0] for row in rows.values() if row["error"]}
    assert bad.startswith("is not an image")
    embed = Embedder(str(TINY), threads=1)
    files = np.array([open(path, "rb").read() for path in good[:3]], object)  # noqa: PTH123, SIM115
    pixels = np.stack([np.asarray(Image.open(path)) for path in good[:3]])
    for batch in ({"bytes": files}, {"image": pixels}):
        np.testing.assert_array_equal(embed(batch)["embedding"], model.encode_image(good[:3]))
    texts = np.array(["a cat", "two dogs"], object)
    np.testing.assert_array_equal(embed({"text": texts})["embedding"], model.encode_text(list(texts)))
    alone = embed({"path": np.array(["/no/such.png"], object)})
    assert np.isnan(alone["embedding"]).all()
    assert alone["embedding"].shape == (1, model.encode_text("a").shape[1])
    with pytest.raises(InputError, match=r"columns \['n'\]; expected bytes, path, text, image"):
        embed({"n": np.arange(3)})
