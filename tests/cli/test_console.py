"""What a person is told on stderr or on a terminal: warnings, compilation, progress."""

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import npsiglip
from tests.helpers.command import LABEL_OPTIONS, environment, lines_of_json, run
from tests.helpers.golden_data import TINY

# The command


def test_warnings_are_one_line_without_source(images, monkeypatch):
    load = npsiglip.SigLIP.from_pretrained

    def warn(*args, **options):
        warnings.warn("something\nodd", RuntimeWarning, stacklevel=1)
        return load(*args, **options)

    monkeypatch.setattr(npsiglip.SigLIP, "from_pretrained", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("classify", "one.png", "-l", "a")
    assert result.exit_code == 0
    assert result.stderr == "warning: something\nodd\n"


def test_a_cache_that_cannot_be_written_is_one_warning(images, monkeypatch):
    from npsiglip.kernels import cache

    def no_room(path, parts):
        raise OSError(28, "No space left on device")

    def compile_two(*args, **options):
        for key in ("a", "b"):
            cache.save(Path(key), key.encode(), b"code")
        return load(*args, **options)

    load = npsiglip.SigLIP.from_pretrained
    monkeypatch.setattr(cache, "_write", no_room)
    monkeypatch.setattr(cache, "_told", set())
    monkeypatch.setattr(npsiglip.SigLIP, "from_pretrained", compile_two)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        result = run("classify", "one.png", "-l", "a")
    assert result.exit_code == 0
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: the kernel cache ")
    assert "(No space left on device)" in line
    assert line.endswith("set NUMBA_CACHE_DIR to a folder that can be written")


def compile_two(callback):
    callback("linear")
    callback("attention")


@pytest.mark.parametrize(
    ("compile_some", "writable", "stderr"),
    [
        (compile_two, True, "Compiling kernels (first run only) ...\n"),
        (compile_two, False, "Compiling kernels ...\n"),
        (lambda callback: None, True, ""),
    ],
)
def test_compiling_is_told_once(images, monkeypatch, compile_some, writable, stderr):
    @contextlib.contextmanager
    def on_compile(callback):
        compile_some(callback)
        yield

    monkeypatch.setattr("npsiglip.kernels.jit.on_compile", on_compile)
    monkeypatch.setattr("npsiglip.kernels.cache.is_writable", lambda: writable)
    result = run("classify", "one.png", "-l", "a")
    assert (result.exit_code, result.stderr) == (0, stderr)


# A terminal


def on_terminal(args, **options):
    """Exit code, stdout, and what a terminal shows of stderr."""
    import pty

    leader, terminal = pty.openpty()
    options = {"stdout": subprocess.PIPE, "stderr": terminal, "text": True, **options}
    env = environment(TERM="xterm", COLUMNS="80")
    with subprocess.Popen([sys.executable, *args], env=env, **options) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # how Linux tells that the other side is closed
            while part := os.read(leader, 4096):
                shown += part
        os.close(leader)
        stdout = process.stdout.read()
    return process.returncode, stdout, shown.decode()


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_on_a_terminal_progress_is_shown_there_and_results_go_to_stdout(images):
    script = (
        "import sys, npsiglip.kernels.jit as jit, npsiglip.inputs as inputs, contextlib\n"
        "from npsiglip.cli import main\n"
        "@contextlib.contextmanager\n"
        "def on_compile(callback):\n"
        "    callback('linear')\n"
        "    yield\n"
        "jit.on_compile, inputs.TOKENS_PER_PASS = on_compile, 25\n"  # one image in a pass
        "main()"
    )
    args = ["-c", script, "classify", *images, *LABEL_OPTIONS, "--json", "--model", str(TINY)]
    returncode, stdout, shown = on_terminal(args)
    assert returncode == 0
    assert [entry["image"] for entry in lines_of_json(stdout)] == images
    for phrase in ("Loading the model", "Compiling kernels (first run only): linear", "Images", "1/3", "0:00:0"):
        assert phrase in shown
    assert "score" not in shown
    assert shown.endswith("\x1b[2K")  # nothing is left


@pytest.mark.skipif(os.name != "posix", reason="pseudo-terminals are POSIX's")
def test_progress_of_quantize(tmp_path):
    args = ["-m", "npsiglip", "quantize", str(TINY), "-o", str(tmp_path / "new")]
    returncode, _, shown = on_terminal(args, cwd=tmp_path)
    assert returncode == 0
    for phrase in ("Quantising image.patch_embed", "0/125"):
        assert phrase in shown
    assert "int8, 0.2 MB" in shown.rsplit("\x1b[2K")[-1]  # what is left
