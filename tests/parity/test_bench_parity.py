"""`npsiglip bench` beside the real peers: that it finds the same embeddings there; no test looks at a time.

Covers bench/engines/peer_transformers.py and bench/engines/peer_openvino.py as well.
"""

import sys
from dataclasses import replace

import numpy as np
import pytest

from npsiglip.bench.cases import default_cases, parse_case, random_inputs
from npsiglip.bench.measure import bench
from npsiglip.bench.peers import choose_peers, peer_engine
from npsiglip.bench.process import Worker
from npsiglip.config import SigLIPConfig
from npsiglip.errors import NpsiglipError
from npsiglip.params import param_shapes, random_params
from npsiglip.save import save_folder

# Two float32 computations of three blocks; 7e-7 was measured.
APART = 5e-6

# The same blocks in fewer bits; 0.008 to 0.016 in bfloat16 and 0.026 to 0.034 in int8 were measured. Below the range
# it would be float32 by another name.
FEWER_BITS = {"bfloat16": (1e-3, 0.05), "int8": (3e-3, 0.1)}

CASES = ("image:1", "image:2", "text:3", "text:1")


def measure(folder, config, cases, names=("transformers",), dtype="float32"):
    engines, _ = choose_peers(names, dtype)
    return bench(folder, config, [parse_case(case, config) for case in cases], 1, engines, threads=1, dtype=dtype)


def test_all_agree_in_float32(tiny_folder, tiny_config):
    """Two batches of each tower: what fixes the batch must not keep it."""
    names = ("transformers", "onnxruntime", "openvino")
    report = measure(tiny_folder, tiny_config, CASES, names)
    assert tuple(case.case for case in report.cases) == CASES
    for case in report.cases:
        ours, *theirs = case.timings
        assert ours.engine == "npsiglip"
        assert tuple(timing.engine for timing in theirs) == names
        assert all(0 < timing.agreement < APART for timing in theirs)
        transformers, onnxruntime, openvino = (timing.setting for timing in theirs)
        assert transformers in ("sdpa attention", "eager attention")
        assert (onnxruntime, openvino) == ("", "f32")
    assert {"torch", "transformers"} < set(report.engines["transformers"])
    assert {"onnxruntime"} < set(report.engines["onnxruntime"])
    assert {"openvino"} < set(report.engines["openvino"])
    assert {"torch", "onnx", "onnxscript"} < set(report.engines["the ONNX export"])


@pytest.mark.parametrize(
    ("dtype", "names", "settings"),
    [
        ("bfloat16", ("transformers", "openvino"), {"sdpa attention", "eager attention", "bf16", "f32"}),
        ("int8", ("onnxruntime",), {"dynamic"}),
    ],
)
def test_fewer_bits(tiny_folder, tiny_config, dtype, names, settings):
    low, high = FEWER_BITS[dtype]
    report = measure(tiny_folder, tiny_config, CASES, names, dtype)
    for case in report.cases:
        assert tuple(timing.engine for timing in case.timings[1:]) == names
        for timing in case.timings[1:]:
            assert timing.setting in settings
            # OpenVINO takes float32 where the CPU has no bfloat16, and the report says so
            assert timing.agreement < APART if timing.setting == "f32" else low < timing.agreement < high


@pytest.mark.parametrize("tower", ["image", "text"])
def test_single_tower(tower, tiny_config, tiny_params, tmp_path):
    other = {"image": "text", "text": "image"}[tower]
    config: SigLIPConfig = replace(tiny_config, **{other: None})
    save_folder(tmp_path, config, {name: tiny_params[name] for name in param_shapes(config)})
    (case,) = measure(tmp_path, config, [f"{tower}:1"], ("transformers", "onnxruntime")).cases
    assert all(0 < timing.agreement < APART for timing in case.timings[1:])


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


@pytest.fixture(scope="module")
def exported(tiny_folder, tmp_path_factory):
    """A folder with the text tower of the tiny model."""
    exporter, folder = peer_engine("openvino").exporter, tmp_path_factory.mktemp("exports")
    variables = {**exporter.environment, "TMPDIR": str(tmp_path_factory.mktemp("scratch"))}
    with Worker(exporter.name, exporter.command, variables, print) as worker:
        worker.ask("load", folder=str(tiny_folder), dtype="float32", threads=1)
        worker.ask("export", tower="text", folder=str(folder))
    return folder


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_peers_report_nothing_to_their_makers(name, exported, tiny_config, tmp_path, monkeypatch):
    """What reports keeps an identity in the home folder, or what it could not send, unless it believes to be in CI."""
    for variable in ("CI", "XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY"):
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    case = parse_case("text:1", tiny_config)
    np.save(tmp_path / "x.npy", random_inputs(case, tiny_config))
    engine = peer_engine(name)
    variables = {**engine.environment, "HOME": str(home), "TMPDIR": str(home)}
    with Worker(name, engine.command, variables, print) as worker:
        worker.ask("load", folder=str(exported), dtype="float32", threads=1)
        worker.ask("prepare", case="text:1", inputs=str(tmp_path / "x.npy"))
        worker.ask("output", case="text:1", file=str(tmp_path / "y.npy"))
    assert list(home.iterdir()) == []


def test_onnxruntime_options(exported, tiny_config):
    from npsiglip.bench.engines import peer_onnxruntime

    ort = peer_onnxruntime.onnxruntime
    peer = peer_onnxruntime.load(str(exported), "float32", 1, print)
    peer.prepare("text:3", random_inputs(parse_case("text:3", tiny_config), tiny_config))
    options = peer.session.get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)
    assert options.execution_mode == ort.ExecutionMode.ORT_SEQUENTIAL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
    assert peer.session.get_inputs()[0].shape == [3, tiny_config.text.seq_len]
    assert peer.session.get_providers() == ["CPUExecutionProvider"]
    with pytest.raises(ValueError, match="bfloat16"):
        peer_onnxruntime.load(str(exported), "bfloat16", 1, print)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_openvino_options(exported, tiny_config, dtype):
    from npsiglip.bench.engines import peer_openvino

    peer = peer_openvino.load(str(exported), dtype, 1, print)
    run = peer.prepare("text:3", random_inputs(parse_case("text:3", tiny_config), tiny_config))
    compiled = peer.request.get_compiled_model()
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    assert str(compiled.get_property("PERFORMANCE_HINT")).endswith("LATENCY")
    assert compiled.inputs[0].shape == [3, tiny_config.text.seq_len]
    has_bfloat16 = "BF16" in peer.core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    assert run.setting == ("bf16" if dtype == "bfloat16" and has_bfloat16 else "f32")
    assert not np.shares_memory(run.function(), run.function())  # the next run must not write into what was given out
