"""Ctrl-C while kernels are compiled: a KeyboardInterrupt each time, and what was interrupted can be done again.

benchmarks/robustness.py interrupts whole processes at many moments; here the moments are chosen.
"""

import ast
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest
from numba.core import event
from numba.core.registry import cpu_target

from npsiglip import SigLIP, cli, interrupts
from npsiglip.interrupts import check, deferred
from npsiglip.kernels import cache, jit, tasks
from npsiglip.towers.blocks import Pass
from tests.helpers.golden_data import ROOT, TINY

TYPES = numba.types.void(numba.float32[::1])


@pytest.fixture(autouse=True)
def handler():
    """As Python sets it, before and after; a shell's background process ignores SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    after = signal.signal(signal.SIGINT, before)
    assert after is signal.default_int_handler
    assert interrupts._pending.depth == 0


def interrupt():
    signal.raise_signal(signal.SIGINT)


# -- deferring --------------------------------------------------------------------------------------------------------


def test_it_waits_for_the_end():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        interrupt()
        done.append(1)
    assert done == [1]


def test_several_are_one():
    with pytest.raises(KeyboardInterrupt), deferred():
        interrupt()
        interrupt()


def test_none_is_none():
    with deferred():
        check()
    with pytest.raises(KeyError), deferred():
        raise KeyError


def test_it_waits_for_the_outermost_end_or_a_check():
    done = []
    with pytest.raises(KeyboardInterrupt), deferred():
        with deferred():
            interrupt()
        done.append("inner")
        check()
        done.append("never")
    assert done == ["inner"]
    with deferred():
        check()  # it was taken


def test_an_error_does_not_hide_it():
    with pytest.raises(KeyboardInterrupt), deferred():
        interrupt()
        raise KeyError


def test_handlers_of_others_stay():
    got = []
    before = signal.signal(signal.SIGINT, lambda *_: got.append(1))
    try:
        with deferred():
            interrupt()
            assert got == [1]
        check()
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_change_nothing():
    found = []

    def other():
        with deferred():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]


# -- compiling --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache."""
    monkeypatch.setattr(cache, "FOLDER", tmp_path)
    return tmp_path


def new_kernel():
    def fill(out):
        for i in range(out.size):
            out[i] = 7

    return jit.callback(fill)


class AtPass(event.Listener):
    """An interrupt at one of the compiler's passes."""

    def __init__(self, number):
        self.number = number

    def on_start(self, event):
        self.number -= 1
        if self.number == 0:
            interrupt()

    def on_end(self, event):
        pass


def usable(kernel):
    out = np.zeros(3, np.float32)
    assert jit.address(kernel, TYPES)
    numba.njit(lambda x: kernel(x))(out)
    return out.tolist() == [7, 7, 7]


@pytest.mark.parametrize("number", [1, 5, 15, 25])
def test_in_a_pass_of_the_compiler(folder, number):
    kernel, listener = new_kernel(), AtPass(number)
    with pytest.raises(KeyboardInterrupt), event.install_listener("numba:run_pass", listener):
        jit.address(kernel, TYPES)
    assert listener.number <= 0
    assert usable(kernel)


@pytest.mark.parametrize("hook", ["_object_cache_notify", "_object_cache_getbuffer"])
def test_in_a_callback_of_llvm(folder, monkeypatch, hook):
    """Python drops exceptions there."""
    engine = cpu_target.target_context.codegen()._engine._ee
    kernel, original, calls = new_kernel(), getattr(engine, hook), []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 1:
            interrupt()
        return original(*args)

    monkeypatch.setattr(engine, hook, interrupted)
    with pytest.raises(KeyboardInterrupt):
        jit.address(kernel, TYPES)
    assert calls
    assert usable(kernel)


def test_while_the_cache_is_written(folder, monkeypatch):
    original = cache._write

    def interrupted(*args):
        interrupt()
        original(*args)

    monkeypatch.setattr(cache, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jit.address(new_kernel(), TYPES)
    assert [path.suffix for path in folder.iterdir()] == [cache.SUFFIX]


def test_in_the_first_call_of_a_kernel(folder):
    def fill(out):
        for i in numba.prange(out.size):
            out[i] = 7

    kernel, out = jit.parallel_kernel(fill), np.zeros(3, np.float32)
    with jit.thread_count(1):
        with pytest.raises(KeyboardInterrupt), event.install_listener("numba:run_pass", AtPass(5)):
            kernel(out)
        kernel(out)
    assert out.tolist() == [7, 7, 7]


# -- encoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_in_a_pass_of_the_model(monkeypatch, place):
    """Between any two kernels of a first, a recorded and a repeated pass; the next pass gives the same bits."""
    pixels = np.random.default_rng(0).normal(0, 0.5, (2, 3, 38, 38)).astype(np.float32)
    model, original, calls = SigLIP.from_pretrained(TINY), tasks.launch, []
    expected = SigLIP.from_pretrained(TINY).encode_image(pixels)

    def interrupted(*args):
        calls.append(1)
        if len(calls) == place + 1:
            interrupt()
            check()  # as after a compilation
        original(*args)

    for name in ("attention", "gemm", "layer_norm", "map_pool", "pack", "patch_embed"):
        monkeypatch.setattr(f"npsiglip.kernels.{name}.launch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        for _ in range(3):
            model.encode_image(pixels)
    assert not tasks._recorders
    for _ in range(3):
        np.testing.assert_array_equal(model.encode_image(pixels), expected)


def test_a_recording_that_was_cut_short_is_none():
    def body(trace):
        raise KeyboardInterrupt

    run = Pass(body)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(None, True)
    assert not tasks._recorders


# -- the command ------------------------------------------------------------------------------------------------------


def command(tmp_path, seconds):
    """The command, interrupted so long after it began to compile."""
    process = subprocess.Popen(
        [sys.executable, "-m", "npsiglip", "classify", "docs/images/example.png", "-l", "a", "--model", str(TINY)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr.readline() == "Compiling kernels (first run only) ...\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    return process.returncode, output, errors


@pytest.mark.skipif(os.name != "posix", reason="SIGINT is POSIX's")
@pytest.mark.parametrize("seconds", [0.0, 0.3])
def test_the_command_ends_with_130(tmp_path, seconds):
    assert command(tmp_path, seconds) == (130, "", "")


def test_an_interrupt_that_was_lost_is_remembered():
    """In a callback, for one: Python prints it, and goes on."""
    code = (
        "import signal, sys, npsiglip.cli as cli\n"
        "class Lost:\n"
        "    def __del__(self):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "def lose(*args, **options):\n"
        "    Lost()\n"
        "cli.app = lose\n"
        "cli.main()\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 130
    code = code.replace("Lost()\n", "Lost()\n    with cli.interrupts.deferred():\n        print('not reached')\n")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (result.returncode, result.stdout) == (130, "")


# -- imports ----------------------------------------------------------------------------------------------------------

NATIVE = {"PIL", "matplotlib", "numpy", "pillow_heif", "safetensors", "sentencepiece", "tokenizers"}


def imports_that_can_be_interrupted(tree):
    """Lines of imports of compiled libraries, within functions and not within `deferred()`.

    Such a library, interrupted while it starts, loses the interrupt and raises an ImportError.
    """
    found = []

    def look(node, in_function):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.With) and any(ast.unparse(item) == "deferred()" for item in child.items):
                continue
            if isinstance(child, ast.Import | ast.ImportFrom) and in_function:
                names = [child.module or ""] if isinstance(child, ast.ImportFrom) else [a.name for a in child.names]
                found.extend(child.lineno for name in names if name.split(".")[0] in NATIVE)
            look(child, in_function or isinstance(child, ast.FunctionDef))

    look(tree, False)
    return found


@pytest.mark.parametrize("lines, expected", [("", 1), ("    with deferred():\n    ", 0)])
def test_such_imports_are_found(lines, expected):
    code = f"import numpy\ndef f():\n{lines}    from PIL import Image\n"
    assert len(imports_that_can_be_interrupted(ast.parse(code))) == expected


def test_imports_of_compiled_libraries_wait():
    for path in sorted((ROOT / "npsiglip").rglob("*.py")):
        if "engines" not in path.parts:  # each in a process of its own, which ends with the benchmark
            assert not imports_that_can_be_interrupted(ast.parse(path.read_text())), path


def test_an_error_that_follows_an_interrupt_is_the_interrupt(monkeypatch, capsys):
    def broken(app, tell):
        with contextlib.suppress(KeyboardInterrupt):
            interrupt()
        raise ImportError("initialization failed")

    monkeypatch.setattr(cli, "run", broken)
    with pytest.raises(SystemExit) as end:
        cli.main()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert end.value.code == 130
    assert capsys.readouterr().err == ""
