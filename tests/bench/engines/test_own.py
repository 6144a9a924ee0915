"""The worker's own engine gives our embeddings."""

import numpy as np
import pytest

from npsiglip import SigLIP
from npsiglip.bench.cases import Case, random_inputs
from npsiglip.bench.peers import own_engine
from npsiglip.bench.process import Worker, WorkerError


@pytest.mark.slow
def test_own_engine_gives_our_embeddings(tiny_folder, tiny_config, tmp_path):
    own = own_engine()
    with Worker(own.name, own.command, {}, print) as worker:
        worker.ask("load", folder=str(tiny_folder), dtype="float32", threads=1)
        for tower, encode in (("image", "encode_image"), ("text", "encode_text")):
            inputs = random_inputs(Case(tower, 2), tiny_config)
            np.save(tmp_path / "x.npy", inputs)
            worker.ask("prepare", case=f"{tower}:2", inputs=str(tmp_path / "x.npy"))
            worker.ask("output", case=f"{tower}:2", file=str(tmp_path / "y.npy"))
            expected = getattr(SigLIP.from_pretrained(tiny_folder), encode)(inputs, normalize=False)
            np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
        with pytest.raises(WorkerError, match=r"could not load: InputError: .* 'float8'"):
            worker.ask("load", folder=str(tiny_folder), dtype="float8", threads=1)
