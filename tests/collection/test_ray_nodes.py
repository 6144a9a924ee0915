"""A cluster of three nodes, one of which ends in the middle and does not come back: the same index as of one process.

Needs Ray, skipped without.
"""

import time

import pytest

from npsiglip import SigLIP
from npsiglip.collection.build import build
from npsiglip.collection.where import Where
from tests.helpers.collections import content, draw_folder
from tests.helpers.golden_data import TINY

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


def test_a_node_that_ends(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    from npsiglip.collection import ray as engines

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    draw_folder(tmp_path / "photos", 400)
    where, model = Where([tmp_path / "photos"]), SigLIP.from_pretrained(TINY, threads=1)
    build(where, tmp_path / "one", model, shard_rows=64)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    victim, _ = [nodes.add_node(num_cpus=1) for _ in range(2)]
    removed = []

    class Pool(engines._Pool):
        def give(self, chunk):
            while len(self.actors) < 3 and not removed:  # all are there before anything is given to them
                self._welcome()
                time.sleep(0.05)
            super().give(chunk)

        def take(self):
            if not removed:
                removed.append(1)
                nodes.remove_node(victim, allow_graceful=False)
            return super().take()

    monkeypatch.setattr(engines, "_Pool", Pool)
    monkeypatch.setattr(engines, "CHUNK", 8)
    ray.init(address=nodes.address, log_to_driver=False, logging_level="error")
    try:
        build(
            where,
            tmp_path / "many",
            model,
            shard_rows=64,
            engine=lambda manifest: engines.cluster(model, manifest, workers=3, threads=1),
        )
    finally:
        ray.shutdown()
        nodes.shutdown()
    assert removed
    assert content(tmp_path / "many") == content(tmp_path / "one")
