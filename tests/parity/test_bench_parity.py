"""`npsiglip bench` beside the real peer: that it finds the same embeddings there; no test looks at a time."""

import sys
from dataclasses import replace

import pytest

from npsiglip.bench.cases import default_cases, parse_case
from npsiglip.bench.measure import bench
from npsiglip.bench.peers import peer_engine
from npsiglip.checkpoint import save_folder
from npsiglip.config import SigLIPConfig
from npsiglip.errors import NpsiglipError
from npsiglip.params import param_shapes, random_params

# Two float32 computations of three blocks; 7e-7 was measured.
APART = 5e-6


def measure(folder, config, cases):
    return bench(folder, config, cases, 1, [peer_engine("transformers")], threads=1)


def test_transformers_agrees(tiny_folder, tiny_config):
    cases = [parse_case(case, tiny_config) for case in ("image:2", "text:3")]
    report = measure(tiny_folder, tiny_config, cases)
    assert [case.case for case in report.cases] == ["image:2", "text:3"]
    for case in report.cases:
        ours, theirs = case.timings
        assert (ours.engine, theirs.engine) == ("npsiglip", "transformers")
        assert 0 < theirs.agreement < APART
        assert theirs.setting in ("sdpa attention", "eager attention")
    assert {"torch", "transformers"} < set(report.engines["transformers"])


@pytest.mark.parametrize("tower", ["image", "text"])
def test_single_tower(tower, tiny_config, tiny_params, tmp_path):
    other = {"image": "text", "text": "image"}[tower]
    config: SigLIPConfig = replace(tiny_config, **{other: None})
    save_folder(tmp_path, config, {name: tiny_params[name] for name in param_shapes(config)})
    (case,) = measure(tmp_path, config, default_cases(config)).cases
    assert 0 < case.timings[1].agreement < APART


def test_other_weights_are_not_timed(tiny_folder, tiny_config, tmp_path):
    """The peer is given another folder behind the bench's back."""
    other = tmp_path / "other"
    save_folder(other, tiny_config, random_params(tiny_config, 1))
    code = f"""
from npsiglip.bench.engines import peer_transformers
from npsiglip.bench.worker import serve
serve(lambda folder, *options: peer_transformers.load({str(other)!r}, *options))
"""
    peer = replace(peer_engine("transformers"), command=[sys.executable, "-c", code])
    with pytest.raises(NpsiglipError, match="nothing was timed"):
        bench(tiny_folder, tiny_config, default_cases(tiny_config), 1, [peer], threads=1)
