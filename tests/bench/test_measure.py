"""What is compared before it is timed, the order of rounds, exports, dtypes, on stand-ins. No test looks at a time.

tests/parity/test_bench_parity.py runs the real peers.

Covers bench/machine.py, bench/report.py and bench/results.py as well.
"""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npsiglip.bench import machine
from npsiglip.bench.cases import Case
from npsiglip.bench.flop import text_flop
from npsiglip.bench.measure import AGREEMENT, PAUSE, WARMUP, Bench
from npsiglip.bench.peers import Engine
from npsiglip.bench.process import Worker, WorkerError
from npsiglip.bench.report import header
from npsiglip.element_types import DTYPES
from npsiglip.errors import InputError, NpsiglipError
from tests.helpers.bench_worker import script
from tests.helpers.golden_data import TINY

TEXT = Case("text", 1)


# A worker written from the description of the protocol alone. Its arguments: the file that it gives as its output, the
# file that it logs requests to, the seconds that a run takes by its own account, and a module that it has to miss.
STAND_IN = """
    import json, os, shutil, sys
    _, output, log, seconds, missing = sys.argv
    dtype = ""
    for line in sys.stdin:
        request = json.loads(line)
        do = request["do"]
        dtype = request.get("dtype", dtype)
        print(do, request.get("case", request.get("tower", "")), file=open(log, "a"))
        print(json.dumps({**request, "environment": dict(os.environ)}), file=open(log + ".json", "a"))
        if do == "output":
            in_dtype = output.replace(".npy", "." + dtype + ".npy")
            shutil.copyfile(in_dtype if os.path.exists(in_dtype) else output, request["file"])
        if do == "export" and float(seconds) < 0:
            print(json.dumps({"error": "OSError: no space left", "missing": None}), flush=True)
            continue
        if missing:
            print(json.dumps({"error": "No module", "missing": missing}), flush=True)
            continue
        print(json.dumps({"say": "busy with " + do}), flush=True)
        print(json.dumps({"ok": {
            "load": {"about": {"stand-in": "1"}},
            "prepare": {"work": 5e9, "setting": "by hand"},
            "output": {},
            "time": {"seconds": float(seconds)},
            "export": {},
        }[do]}), flush=True)
"""


# -- measuring ----------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(tmp_path):
    """Makes a stand-in for an engine, which gives `output` and logs to NAME.log."""
    code = script(tmp_path, STAND_IN)

    def make(name, output, seconds=1.0, missing="", **options):
        files = tmp_path / f"{name}.npy", tmp_path / f"{name}.log"
        np.save(files[0], output)
        return Engine(name, [sys.executable, code, *map(str, files), str(seconds), missing], **options)

    return make


@pytest.fixture
def requests(tmp_path):
    """The requests that a stand-in was sent, with the environment that it had."""
    return lambda name: [json.loads(line) for line in (tmp_path / f"{name}.log.json").read_text().splitlines()]


OUTPUT = np.random.default_rng(0).standard_normal((1, 36)).astype(np.float32)


def measure(engine, config, *peers, rounds=4, threads=1):
    engines = [engine("ours", OUTPUT), *(engine(f"peer{i}", output, 2.0 + i) for i, output in enumerate(peers))]
    with Bench(TINY, config, engines, engine("limits", OUTPUT), threads) as bench:
        return bench.run([TEXT], rounds)


def test_report(engine, tiny_config, tmp_path):
    near = OUTPUT * np.float32(1 + 5e-5)
    report = measure(engine, tiny_config, OUTPUT, near)
    (case,) = report.cases
    ours, same, other = case.timings
    assert (case.case, case.inputs) == ("text:1", [1, 24])
    assert [t.engine for t in case.timings] == ["ours", "peer0", "peer1"]
    assert ours.runs == [1.0] * 4
    assert ours.seconds.median == 1.0
    assert ours.ratio is ours.agreement is None
    assert same.ratio.of_medians == same.ratio.per_round.median == 0.5
    assert other.ratio.of_medians == other.ratio.per_round.median == pytest.approx(1 / 3)
    assert same.agreement == 0.0
    assert other.agreement == pytest.approx(5e-5, rel=1e-2)
    assert ours.setting == "by hand"
    assert case.gflop == text_flop(tiny_config.text) / 1e9 == ours.gflops
    assert set(case.limits) == {"multiply_add:1", "read:1"}
    assert case.limits["multiply_add:1"].median == 5.0
    assert ours.of_limit == pytest.approx(ours.gflops / 5.0)
    assert report.engines["peer1"] == {"stand-in": "1"}
    assert any("width 40" in line for line in header(report))
    log = (tmp_path / "peer0.log").read_text().split("\n")
    assert log[:3] == ["load ", "prepare text:1", "output text:1"]
    assert log[3:-1] == ["time text:1"] * (WARMUP + 4)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (OUTPUT * np.float32(1.001), r"peer0 and ours are 1\.0e-03 apart .* at most 1e-04\); nothing was timed"),
        (np.roll(OUTPUT, 1), "nothing was timed"),
        (np.where(np.arange(36) == 3, np.nan, OUTPUT), "are nan apart"),
        (np.full_like(OUTPUT, np.inf), "are inf apart|are nan apart"),
        (np.concatenate([OUTPUT, OUTPUT]), r"peer0 gives embeddings \[2, 36\], ours \[1, 36\]; nothing was timed"),
    ],
)
def test_peer_that_computes_something_else_is_not_timed(engine, tiny_config, tmp_path, output, message):
    with pytest.raises(NpsiglipError, match=message):
        measure(engine, tiny_config, output)
    assert "time" not in (tmp_path / "peer0.log").read_text()
    assert "time" not in (tmp_path / "ours.log").read_text()


def test_every_engine_runs_once_a_round_in_changing_order(engine, tiny_config, tmp_path, monkeypatch):
    order = []
    ask = Worker.ask

    def logged(worker, do, **arguments):
        if do == "time" and arguments["case"] in ("text:1", "read:1"):
            order.append(worker.name)
        return ask(worker, do, **arguments)

    monkeypatch.setattr(Worker, "ask", logged)
    measure(engine, tiny_config, OUTPUT, rounds=12)
    rounds = [order[i : i + 3] for i in range(2 * WARMUP, len(order), 3)]
    assert len(rounds) == 12
    assert all(set(names) == {"ours", "peer0", "limits"} for names in rounds)
    assert {names[0] for names in rounds} == {"ours", "peer0", "limits"}


def test_pause_is_longer_than_threads_spin():
    assert PAUSE >= 0.01


def test_refused_before_anything_runs(engine, tiny_config, tmp_path):
    with pytest.raises(InputError, match=f"from 1 to {machine.cores()}, .* got {machine.cores() + 1}"):
        measure(engine, tiny_config, threads=machine.cores() + 1)
    with pytest.raises(InputError, match="at least one round"):
        measure(engine, tiny_config, rounds=0)
    with pytest.raises(InputError, match=r"dtype must be one of float32, .* got 'float8'"):
        Bench(TINY, tiny_config, [engine("other", OUTPUT)], engine("limits", OUTPUT), 1, dtype="float8")
    assert not (tmp_path / "other.log").exists()


# -- peers, and what they need ------------------------------------------------------------------------------------


def test_missing_packages(engine, tiny_config, tmp_path, requests):
    """The engine's own or its exporter's: one that may be left out is, with a warning, and its worker ends."""
    exporter = engine("exporter", OUTPUT, missing="onnx")
    engines = [
        engine("ours", OUTPUT),
        engine("first", OUTPUT, missing="torch", install="by hand", optional=True),
        engine("second", OUTPUT, exporter=exporter, optional=True),
        engine("third", OUTPUT),
    ]
    reason = f"{sys.executable} has no module 'onnx'; install it there"
    with pytest.warns(RuntimeWarning) as caught:
        bench = Bench(TINY, tiny_config, engines, engine("limits", OUTPUT), 1, left_out={"zeroth": "too old"})
    assert [str(warning.message).split(":")[0] for warning in caught] == ["first is left out", "second is left out"]
    assert str(caught[1].message).startswith(f"second is left out: {reason}")
    with bench:
        report = bench.run([TEXT], 1)
    assert [timing.engine for timing in report.cases[0].timings] == ["ours", "third"]
    assert list(report.left_out) == ["zeroth", "first", "second"]
    assert report.left_out["first"] == f"{sys.executable} has no module 'torch'; install it there (by hand)"
    assert set(report.engines) == {"ours", "third", "limits"}
    assert [request["do"] for request in requests("second")] == ["load"]
    assert [request["do"] for request in requests("exporter")] == ["load"]
    with pytest.raises(InputError, match=f"second cannot be timed: {reason} .*--peer-python"):
        Bench(TINY, tiny_config, [engines[0], replace(engines[2], optional=False)], engine("limits", OUTPUT), 1)


def test_exports(engine, tiny_config, tmp_path, requests):
    """One exporter, in float32, writes each tower once, before anyone who reads it is asked for a case."""
    exporter = engine("exporter", OUTPUT)
    peers = [engine(name, OUTPUT, exporter=exporter) for name in ("peer0", "peer1")]
    cases = [Case("text", 1), Case("text", 2)]
    with Bench(TINY, tiny_config, [engine("ours", OUTPUT), *peers], engine("limits", OUTPUT), 1, dtype="int8") as bench:
        bench.run(cases, 1)
        times = {name: len(requests(name)) for name in ("exporter", "peer0")}
        folder = Path(requests("peer0")[0]["folder"])
        assert folder.is_dir()
        assert times["exporter"] == 2
        bench.run([*cases, Case("image", 1)], 1)
    assert not folder.exists()
    loaded, *exported = requests("exporter")
    assert (loaded["folder"], loaded["dtype"], loaded["threads"]) == (str(TINY), "float32", 1)
    assert [(r["do"], r["tower"], r["folder"]) for r in exported] == [
        ("export", tower, str(folder)) for tower in ("text", "image")
    ]
    for name in ("peer0", "peer1"):
        assert (requests(name)[0]["folder"], requests(name)[0]["dtype"]) == (str(folder), "int8")
    assert requests("ours")[0]["folder"] == str(TINY)


def test_export_that_fails(engine, tiny_config, requests):
    peer = engine("peer", OUTPUT, exporter=engine("the export", OUTPUT, seconds=-1.0))
    with (
        Bench(TINY, tiny_config, [engine("ours", OUTPUT), peer], engine("limits", OUTPUT), 1) as bench,
        pytest.raises(WorkerError, match="the worker for the export could not export: OSError: no space left"),
    ):
        bench.run([TEXT], 1)
    assert [request["do"] for request in requests("peer")] == ["load"]


def test_what_workers_are_given(engine, tiny_config, requests, monkeypatch):
    """As many threads as were asked for, whatever the user's shell says, and a folder for what they leave behind."""
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    peer = engine("peer", OUTPUT, environment={"HELLO": "you"}, exporter=engine("exporter", OUTPUT))
    with Bench(TINY, tiny_config, [engine("ours", OUTPUT), peer], engine("limits", OUTPUT), 1) as bench:
        bench.run([TEXT], 1)
    for name in ("ours", "peer", "exporter", "limits"):
        given = requests(name)[0]["environment"]
        assert {given[v] for v in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")} == {"1"}
        assert given["TMPDIR"] == str(Path(requests("peer")[0]["folder"]).parent)
        assert not Path(given["TMPDIR"]).exists()
    assert requests("peer")[0]["environment"]["HELLO"] == "you"


# -- other dtypes -------------------------------------------------------------------------------------------------


def away(distance):
    """Embeddings at a relative L2 from OUTPUT."""
    return OUTPUT * np.float32(1 + distance)


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_other_dtypes_are_compared_with_our_float32(engine, tiny_config, tmp_path, requests, dtype):
    """Ours too; and the worker that knows float32 is gone before anything is timed."""
    engines = [engine("ours", away(0.1)), engine("peer", away(-0.05))]
    np.save(tmp_path / "ours.float32.npy", OUTPUT)
    alive = []
    time_one = Bench._time_case

    def time_case(bench, *arguments):
        alive.append([request["do"] for request in requests("ours")])
        return time_one(bench, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "_time_case", time_case)
        with Bench(TINY, tiny_config, engines, engine("limits", OUTPUT), 1, dtype=dtype) as bench:
            report = bench.run([TEXT], 1)
    assert alive == [["load", "load", "prepare", "output"]]
    ours, peer = report.cases[0].timings
    assert [ours.agreement, peer.agreement] == pytest.approx([0.1, 0.05], rel=1e-3)
    assert (ours.ratio, peer.ratio.of_medians) == (None, 1.0)
    assert report.dtype == dtype
    assert [request["dtype"] for request in requests("ours") if request["do"] == "load"] == [dtype, "float32"]
    assert set(report.engines) == {"ours", "ours in float32", "peer", "limits"}
    assert f"{dtype}, 1 threads, 1 rounds" in list(header(report))


def test_every_dtype_has_a_bound():
    assert set(AGREEMENT) == set(DTYPES)
    assert AGREEMENT["float32"] < AGREEMENT["bfloat16"] < AGREEMENT["int8"] < 0.6  # swapped axes are 0.7 away


@pytest.mark.parametrize(("dtype", "who"), [("float32", 1), ("bfloat16", 0), ("bfloat16", 1), ("int8", 0), ("int8", 1)])
def test_bound_of_a_dtype(engine, tiny_config, tmp_path, dtype, who):
    """Of ours, where that is not what is compared with, as of the others'."""

    def run(distance):
        outputs = [away(distance if i == who else 0) for i in range(2)]
        engines = [engine(name, output) for name, output in zip(("ours", "peer"), outputs, strict=True)]
        np.save(tmp_path / "ours.float32.npy", OUTPUT)
        with Bench(TINY, tiny_config, engines, engine("limits", OUTPUT), 1, dtype=dtype) as bench:
            bench.run([TEXT], 1)

    run(AGREEMENT[dtype] * 0.95)
    wrong = ["ours", "peer"][who]
    right = "ours" if dtype == "float32" else "ours in float32"
    with pytest.raises(NpsiglipError, match=f"embeddings of {wrong} and {right} are .* nothing was timed"):
        run(AGREEMENT[dtype] * 1.05)


def test_workers_end_when_one_cannot_start(engine, tiny_config, tmp_path):
    processes = []
    start = subprocess.Popen

    class Popen(start):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            processes.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subprocess, "Popen", Popen)
        engines = [engine("ours", OUTPUT), Engine("broken", [sys.executable, "-c", "raise SystemExit(5)"])]
        with pytest.raises(WorkerError, match=r"broken ended with exit code 5 when .* load\. It wrote nothing"):
            Bench(TINY, tiny_config, engines, engine("limits", OUTPUT), 1)
    assert len(processes) == 2
    assert all(process.poll() is not None for process in processes)
