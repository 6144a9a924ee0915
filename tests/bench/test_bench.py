"""`npsiglip bench`: the pipe to the workers, what is refused, the arithmetic that is counted. No test looks at a time.

tests/parity/test_bench_parity.py runs the real peer.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip import SigLIP
from npsiglip.bench import machine
from npsiglip.bench.cases import Case, default_cases, parse_case, random_inputs
from npsiglip.bench.engines import limits
from npsiglip.bench.flop import blocks_flop, case_flop, image_flop, text_flop
from npsiglip.bench.measure import AGREEMENT, PAUSE, WARMUP, Bench
from npsiglip.bench.peers import PEERS, Engine, choose_peers, own_engine, peer_engine
from npsiglip.bench.process import WORKER, MissingModule, Worker, WorkerError
from npsiglip.bench.report import header
from npsiglip.bench.stats import ratio, summarize
from npsiglip.checkpoint import Checkpoint, save_npz
from npsiglip.cli import bench as command
from npsiglip.config import SigLIPConfig
from npsiglip.element_types import DTYPES, LANES
from npsiglip.errors import InputError, NpsiglipError
from npsiglip.params import param_shapes, random_params
from npsiglip.variants import variant
from tests.helpers.golden_data import ROOT, TINY

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


# -- arithmetic ---------------------------------------------------------------------------------------------------


def test_flop_of_released_models():
    """The numbers that are commonly given for these towers, in GFLOP, as multiply-adds counted twice."""
    base, so400m = variant("siglip-base-patch16-224"), variant("siglip-so400m-patch14-384")
    assert image_flop(base.image) / 1e9 == pytest.approx(35, rel=0.015)
    assert image_flop(so400m.image) / 1e9 == pytest.approx(666, rel=0.01)
    assert case_flop(Case("image", 8), base) == 8 * image_flop(base.image)
    assert case_flop(Case("text", 3), base) == 3 * text_flop(base.text)


@pytest.mark.parametrize(("tower", "flop"), [("image", image_flop), ("text", text_flop)])
def test_flop_is_that_of_the_products_of_a_trace(tower, flop, tiny_config, tiny_params):
    """Counted from shapes of what a forward pass leaves behind, instead of from the config."""
    model = SigLIP(tiny_config, tiny_params)
    inputs = random_inputs(Case(tower, 1), tiny_config)
    trace = model.trace(**{f"{tower}s": inputs})
    total = 0
    for name, shape in param_shapes(tiny_config).items():
        layer = name.removesuffix(".w")
        if name.startswith(tower) and name.endswith(".w") and layer != "image.map_head.attn.q":
            total += 2 * (trace[layer].size // shape[1]) * shape[0] * shape[1]
    for name, tap in trace.items():
        if name.endswith(".probs"):
            width = trace[name.replace(".probs", ".mix")].shape[-1]
            total += 2 * 2 * tap.size * width // tap.shape[1]
    assert flop(getattr(tiny_config, tower)) == total
    assert blocks_flop(getattr(tiny_config, tower)) < total


# -- statistics ---------------------------------------------------------------------------------------------------

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30)


@given(times, st.randoms(use_true_random=False))
def test_summary_is_ordered_and_knows_no_order(values, rng):
    summary = summarize(values)
    assert min(values) == summary.min <= summary.q1 <= summary.median <= summary.q3 <= summary.max == max(values)
    for side in ([v for v in values if v < summary.median], [v for v in values if v > summary.median]):
        assert len(side) <= len(values) / 2
    rng.shuffle(values)
    assert summarize(values) == summary


@given(st.lists(st.floats(1, 2), min_size=5, max_size=30), st.floats(100, 1e6))
def test_one_disturbed_run_leaves_the_median_among_the_others(values, disturbed):
    assert summarize([*values, disturbed]).q3 <= 2


@given(times, st.floats(0.01, 100))
def test_ratio_within_rounds_does_not_see_what_slows_both(theirs, factor):
    ours = [factor * t for t in theirs]
    result = ratio(ours, theirs)
    assert result.of_medians == pytest.approx(factor)
    assert [result.per_round.min, result.per_round.max] == pytest.approx([factor, factor])


def test_ratio_is_ours_to_theirs():
    assert ratio([1.0, 1.0, 3.0], [2.0, 2.0, 2.0]).of_medians == 0.5
    assert ratio([1.0, 1.0, 3.0], [2.0, 2.0, 2.0]).per_round.max == 1.5


# -- cases --------------------------------------------------------------------------------------------------------


def test_cases(tiny_config):
    assert [str(case) for case in default_cases(tiny_config)] == ["image:1", "text:1"]
    assert parse_case("image:8", tiny_config) == Case("image", 8)
    pixels, ids = (random_inputs(parse_case(case, tiny_config), tiny_config) for case in ("image:3", "text:5"))
    assert (pixels.shape, pixels.dtype) == ((3, 3, 38, 38), np.float32)
    assert -1 <= pixels.min() < -0.9 < 0.9 < pixels.max() <= 1
    assert (ids.shape, ids.dtype) == ((5, 24), np.int64)
    assert 0 <= ids.min() < 100 < 900 < ids.max() < 1009
    np.testing.assert_array_equal(random_inputs(Case("image", 3), tiny_config), pixels)


@pytest.mark.parametrize("case", ["image", "image:0", "image:-1", "image:1.5", "audio:1", "image:1 ", ""])
def test_cases_that_are_refused(case, tiny_config):
    with pytest.raises(InputError, match="such as image:8"):
        parse_case(case, tiny_config)


def test_case_of_a_tower_that_is_not_there(tiny_config):
    alone = SigLIPConfig(tiny_config.image, None)
    assert default_cases(alone) == [Case("image", 1)]
    with pytest.raises(InputError, match="no text tower"):
        parse_case("text:1", alone)


# -- workers ------------------------------------------------------------------------------------------------------


def script(folder, code):
    """A file with the code, for a command."""
    path = folder / f"worker{len(list(folder.iterdir()))}.py"
    path.write_text(textwrap.dedent(code), encoding="utf-8")
    return str(path)


@pytest.fixture
def start(tmp_path):
    """Starts a worker whose engine is a class written in a test."""
    running = []

    def start_engine(engine):
        serve = """
            import ctypes, os, sys, time
            from npsiglip.bench.worker import Run, serve
            class Engine:
                about = {"engine": "test"}
                def prepare(self, case, inputs):
                    return Run(self.run, 7.0, "a setting")
        """
        serve = textwrap.dedent(serve) + textwrap.indent(textwrap.dedent(engine), "    ")
        serve += "\nserve(lambda folder, dtype, threads, say: say('loading ' + folder) or Engine())"
        command = [sys.executable, script(tmp_path, serve)]
        said = []
        worker = Worker("the test", command, {"PYTHONPATH": str(ROOT)}, said.append)
        running.append(worker.__enter__())
        assert worker.ask("load", folder="here", dtype="float32", threads=1) == {"about": {"engine": "test"}}
        assert said == ["loading here"]
        assert worker.ask("prepare", case="a", inputs=None) == {"work": 7.0, "setting": "a setting"}
        return worker

    yield start_engine
    for worker in running:
        worker.__exit__()


def test_worker_times_and_saves(start, tmp_path):
    worker = start("""
        def run(self):
            time.sleep(0.05)
            return [[1.0, 2.0]]
    """)
    assert worker.ask("time", case="a")["seconds"] >= 0.05
    worker.ask("output", case="a", file=str(tmp_path / "y.npy"))
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), [[1.0, 2.0]])


def test_stray_prints_are_no_answers(start):
    """Python's, the system's and C's; and an engine that reads stdin does not swallow requests."""
    worker = start("""
        def run(self):
            print('{"ok": {"seconds": -1}}', flush=True)
            os.write(1, b'{"ok": {"seconds": -2}}\\n')
            ctypes.CDLL(None).puts(b'{"ok": {"seconds": -3}}')
            ctypes.CDLL(None).fflush(None)
            assert sys.stdin.read() == ""
    """)
    for _ in range(3):
        assert worker.ask("time", case="a")["seconds"] >= 0


def test_engine_that_fails_goes_on(start):
    worker = start("""
        failed = False
        def run(self):
            if not self.failed:
                self.failed = True
                raise RuntimeError("out of luck")
    """)
    with pytest.raises(WorkerError, match="the test could not time: RuntimeError: out of luck"):
        worker.ask("time", case="a")
    assert worker.ask("time", case="a")["seconds"] >= 0


def test_missing_module_is_told(start):
    worker = start("""
        def run(self):
            import a_module_that_is_not_there
    """)
    with pytest.raises(MissingModule) as error:
        worker.ask("time", case="a")
    assert error.value.args[1] == "a_module_that_is_not_there"
    assert str(error.value) == "the worker for the test could not time: No module named 'a_module_that_is_not_there'"


def test_crash_shows_the_last_lines(start):
    worker = start("""
        def run(self):
            print("\\n".join(f"line {i}" for i in range(100)), file=sys.stderr, flush=True)
            os._exit(3)
    """)
    with pytest.raises(WorkerError) as error:
        worker.ask("time", case="a")
    message = str(error.value)
    assert "the test ended with exit code 3 when it was asked to time" in message
    assert message.endswith("line 99")
    assert "line 50\n" not in message
    with pytest.raises(WorkerError, match="exit code 3"):
        worker.ask("time", case="a")


def test_killed_worker(start):
    worker = start("""
        def run(self):
            os.kill(os.getpid(), 9)
    """)
    with pytest.raises(WorkerError, match=r"by signal SIGKILL, .* memory runs out"):
        worker.ask("time", case="a")


@pytest.mark.parametrize("line", ["hello", "[1]", '"ok"', "3", "null"])
def test_what_is_no_answer(tmp_path, line):
    command = [sys.executable, "-c", f"input(); print({line!r})"]
    with Worker("the test", command, {}, print) as worker, pytest.raises(WorkerError, match="wrote what is no answer"):
        worker.ask("load")


def test_leaving_ends_a_busy_worker():
    with Worker("the test", [sys.executable, "-c", "import time; time.sleep(1000)"], {}, print) as worker:
        process = worker._process
        assert process.poll() is None
    assert process.poll() is not None


def test_worker_ends_with_its_stdin(start):
    worker = start("def run(self): pass")
    worker._process.stdin.close()
    assert worker._process.wait(timeout=30) == 0


def test_python_that_is_not_there():
    with pytest.raises(InputError, match=r"'/no/such/python' cannot be run \(No such file"):
        Worker("the test", ["/no/such/python"], {}, print)


def test_worker_needs_no_installed_npsiglip(tmp_path):
    """It finds the package that its file belongs to, from any folder, and nothing that lies beside itself."""
    code = f"""
        import runpy, sys
        sys.argv = [{str(WORKER)!r}, "nothing"]
        sys.path[:] = [{str(WORKER.parent)!r}] + [p for p in sys.path if p not in ("", {str(ROOT)!r})]
        sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f).lower()]
        runpy.run_path({str(WORKER)!r}, run_name="__main__")
        import npsiglip.bench.cases
        try:
            import cases
        except ImportError:
            print(npsiglip.bench.cases.__file__, file=sys.stderr)
    """
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        input="", capture_output=True, text=True, check=True, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert Path(result.stderr.strip()) == ROOT / "npsiglip" / "bench" / "cases.py"


def test_peers_do_not_load_kernels():
    """A peer's engine imports nothing of ours but the worker, which imports nothing of ours."""

    def imported(path):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        names = {alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names}
        return {n for n in names | {n.module for n in nodes if isinstance(n, ast.ImportFrom)} if "npsiglip" in n}

    engines = WORKER.parent / "engines"
    assert imported(WORKER) == imported(engines / "__init__.py") == imported(WORKER.parent / "__init__.py") == set()
    for peer in PEERS.values():
        assert imported(engines / f"{peer.module}.py") == {"npsiglip.bench.worker"}
    allowed = {"npsiglip.bench.worker", "npsiglip.bench.engines.peer_transformers"}
    assert imported(engines / "export_onnx.py") == allowed


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


def names_of(engines):
    return [engine.name for engine in engines]


def test_peers_by_name():
    engines, left_out = choose_peers(["openvino", "transformers", "openvino"], "float32", "/a/python")
    assert (names_of(engines), left_out) == (["openvino", "transformers"], {})
    assert not any(engine.optional for engine in engines)
    assert {engine.command[0] for engine in engines} == {"/a/python"} == {engines[0].exporter.command[0]}
    assert choose_peers([], "int8") == ([], {})


@pytest.mark.parametrize(
    ("dtype", "there"),
    [
        ("float32", ["transformers", "onnxruntime", "openvino"]),
        ("bfloat16", ["transformers", "openvino"]),
        ("int8", ["onnxruntime"]),
    ],
)
def test_all_peers_are_those_that_have_the_dtype(dtype, there):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engines, left_out = choose_peers(["all"], dtype)
    assert names_of(engines) == there
    assert all(engine.optional for engine in engines)
    assert set(left_out) == set(PEERS) - set(there)
    assert [str(warning.message) for warning in caught] == [
        f"{name} is left out: {reason}" for name, reason in left_out.items()
    ]
    assert all(reason.endswith(f"not in {dtype}") for reason in left_out.values())


def test_a_name_beside_all_is_not_optional():
    engines, _ = choose_peers(["all", "onnxruntime"], "float32")
    assert {engine.name: engine.optional for engine in engines} == {
        "transformers": True,
        "onnxruntime": False,
        "openvino": True,
    }


def test_peers_that_are_refused():
    expected = "'caffe' is not known; expected one of: transformers, onnxruntime, openvino, all"
    with pytest.raises(InputError, match=expected):
        choose_peers(["all", "caffe"], "float32")
    with pytest.raises(InputError, match=expected):
        peer_engine("caffe")
    with pytest.raises(
        InputError, match="onnxruntime cannot be timed: it computes in float32 or int8, not in bfloat16"
    ):
        choose_peers(["onnxruntime"], "bfloat16")
    with pytest.warns(RuntimeWarning), pytest.raises(InputError, match=r"openvino .* float32 or bfloat16, not in int8"):
        choose_peers(["all", "openvino"], "int8")


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


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_do_what_they_say(monkeypatch, dtype):
    """Twos in every place: each step of a chain adds 4 for each number that it takes."""
    monkeypatch.setattr(limits, "STEPS", 10)
    kernels = limits.limit_kernels
    work = limits.load("", dtype, 1, print).prepare("multiply_add:1", None).work
    assert work == 10 * kernels.operations_per_step(dtype)
    twos = {"float32": 0x40000000, "bfloat16": 0x40004000, "int8": 0x02020202}[dtype]
    out = np.zeros(3, np.int32)
    kernels.STEPS[dtype](twos, 10, out)
    sums = out.view(np.float32) if dtype != "int8" else out
    added = sums - sum(range(kernels.CHAINS))  # chain i starts at i
    np.testing.assert_array_equal(added, 4 * work / (2 * LANES))


def test_memory_is_read(monkeypatch):
    monkeypatch.setattr(limits, "BLOCKS", 2)
    block = limits.limit_kernels.BLOCK
    assert limits.load("", "int8", 1, print).prepare("read:1", None).work == 2 * 4 * block
    x = np.arange(2 * block, dtype=np.float32) % 7
    sums = np.empty(2, np.float32)
    limits.limit_kernels.read(x, sums)
    np.testing.assert_array_equal(sums, x.reshape(2, -1).sum(1, dtype=np.float64))


def test_limits_refuse_another_dtype():
    with pytest.raises(InputError, match="'float8'"):
        limits.load("", "float8", 1, print)


# -- the command --------------------------------------------------------------------------------------------------


def run_command(*arguments, **environment):
    result = subprocess.run(
        [sys.executable, "-m", "npsiglip", "bench", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "40", **environment},
    )  # fmt: skip
    assert "Traceback" not in result.stderr
    return result


def test_command_table():
    result = run_command("--model", TINY, "--runs", 2, "--threads", 1, "--case", "text:2")
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    (row,) = [line for line in result.stdout.splitlines() if line.startswith("text:2  npsiglip ")]
    assert row.rstrip().endswith("%")  # of the limit
    assert sum("GB/s" in line for line in result.stdout.splitlines()) == 1
    assert "float32, 1 threads, 2 rounds" in result.stdout
    assert "starting npsiglip ..." in result.stderr
    assert "…" not in result.stdout


def test_command_json():
    result = run_command("--model", TINY, "--runs", 3, "--threads", 1, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert [case["case"] for case in report["cases"]] == ["image:1", "text:1"]
    for case in report["cases"]:
        (timing,) = case["timings"]
        assert len(timing["runs"]) == 3
        assert 0 < timing["seconds"]["min"] == min(timing["runs"])
        assert timing["gflops"] == pytest.approx(case["gflop"] / timing["seconds"]["median"])
        assert 0 < timing["of_limit"] < 1
    assert report["model"]["name"] == str(TINY)
    assert report["machine"]["cpu"]
    assert set(report["engines"]["npsiglip"]) == {"npsiglip", "numba", "numpy", "python"}


@pytest.fixture
def python_without(tmp_path):
    """Makes a Python that lacks modules; torch is there, if it is not one of them."""

    def make(*modules):
        python = tmp_path / "python"
        hide = f"import sys, runpy; sys.modules.update(dict.fromkeys({modules!r})); sys.argv[:] = sys.argv[1:]"
        stub = "import types; sys.modules.setdefault('torch', types.ModuleType('torch'))"
        run = "sys.path.insert(0, ''); runpy.run_path(sys.argv[0], run_name='__main__')"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{hide}; {stub}; {run}" "$@"\n')
        python.chmod(0o755)
        return python

    return make


@pytest.mark.parametrize(
    ("peer", "module"),
    [
        ("transformers", "torch"),
        ("transformers", "transformers"),
        ("onnxruntime", "onnxruntime"),
        ("openvino", "openvino"),
    ],
)
def test_command_without_the_peer(python_without, peer, module):
    python = python_without(module)
    result = run_command("--model", TINY, "--threads", 1, "--peer", peer, "--peer-python", python)
    assert result.returncode == 1
    assert result.stdout == ""
    message = " ".join(result.stderr.split())
    assert f"error: {peer} cannot be timed: {python} has no module '{module}'; install it there" in message
    assert "pip install 'npsiglip[bench]'" in message


def test_command_with_all_peers_of_which_none_is_there(python_without):
    python = python_without("torch", "onnxruntime", "openvino")
    arguments = ["--model", TINY, "--threads", 1, "--runs", 1, "--case", "text:1", "--dtype", "bfloat16"]
    result = run_command(*arguments, "--peer", "all", "--peer-python", python, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["dtype"] == "bfloat16"
    assert report["left_out"] == {
        "onnxruntime": "it computes in float32 or int8, not in bfloat16",
        **{
            peer: f"{python} has no module '{module}'; install it there (pip install 'npsiglip[bench]')"
            for peer, module in (("transformers", "torch"), ("openvino", "openvino"))
        },
    }
    (timing,) = report["cases"][0]["timings"]
    assert 0 < timing["agreement"] < 0.1
    for name, reason in report["left_out"].items():
        assert result.stderr.count(f"warning: {name} is left out: {reason}") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--peer", "caffe"], 1, "peer 'caffe' is not known"),
        (["--peer", "openvino", "--dtype", "int8"], 1, "openvino cannot be timed: it computes in float32 or bfloat16"),
        (["--dtype", "float8"], 1, "dtype must be one of float32, bfloat16, int8; got 'float8'"),
        (["--case", "image"], 1, "such as image:8"),
        (["--threads", "4096"], 1, "threads must be from 1 to"),
        (["--variant", "siglip-huge"], 1, "unknown checkpoint 'siglip-huge': did you mean siglip-"),
        (["--model", "no/such/folder"], 1, "does not exist"),
        (["--model", str(TINY), "--variant", "siglip-base-patch16-224"], 2, "not both"),
        (["--runs", "0"], 2, "--runs"),
    ],
)
def test_command_refuses_before_it_starts_anything(arguments, code, message):
    result = run_command(*arguments)
    assert result.returncode == code
    assert message in " ".join(result.stderr.split())
    assert "starting" not in result.stderr
    assert "random weights" not in result.stderr
    assert result.stdout == ""


def test_random_folder_is_the_model_and_is_deleted(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = []
    with command._random_folder("tiny", tiny_config, said.append) as folder:
        weights, stored = random_params(tiny_config, command.SEED), Checkpoint.open(folder)
        assert all(np.array_equal(stored[name], weights[name]) for name in stored)
        assert SigLIPConfig.from_folder(folder) == tiny_config
        assert Path(folder).parent == tmp_path
    assert list(tmp_path.iterdir()) == []
    assert said == ["random weights for tiny"]


def test_kernels_are_timed_in_the_shapes_of_a_block(tiny_folder):
    """Products, attention and LayerNorm of both towers, each beside its limit."""
    arguments = ["--model", str(tiny_folder), "--kernels", "--threads", "1", "--runs", "2", "--json"]
    result = run_command(*arguments, "--dtype", "int8", "--case", "image:2")
    report = json.loads(result.stdout)
    found = {kernel["kernel"]: kernel for kernel in report["kernels"]}
    names = ["LayerNorm + quantise", "q, k and v", "attention", "out + residual", "fc1 + GELU", "fc2 + residual"]
    assert list(found) == names
    assert found["q, k and v"]["shape"] == "50 x 36 x 108"
    assert found["q, k and v"]["dtype"] == "int8"
    assert found["attention"]["dtype"] == "float32"  # an odd head width
    for name in names[1:]:
        kernel = found[name]
        assert len(kernel["runs"]) == 2
        assert kernel["rate"] > 0
        assert 0 < kernel["of_limit"]["median"] < 2


def test_kernels_have_no_peers(tiny_folder):
    result = run_command("--model", str(tiny_folder), "--kernels", "--peer", "transformers", "--threads", "1")
    assert result.returncode == 2
    assert "nobody else can be timed" in " ".join(result.stderr.split())


def test_other_engines_cannot_read_an_npz(tiny_folder, tiny_config, tmp_path):
    path = tmp_path / "tiny.npz"
    save_npz(path, tiny_config, Checkpoint.open(tiny_folder))
    result = run_command("--model", str(path), "--peer", "transformers", "--threads", "1")
    assert result.returncode == 1
    assert f"npsiglip convert {path} FOLDER" in " ".join(result.stderr.split())
