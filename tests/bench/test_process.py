"""process.py and worker.py: the pipe between them, and a worker that fails, is killed or writes what is no answer.

Covers bench/worker.py as well.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from npsiglip.bench.process import WORKER, MissingModule, Worker, WorkerError
from npsiglip.errors import InputError
from tests.helpers.bench_worker import script
from tests.helpers.golden_data import ROOT


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
