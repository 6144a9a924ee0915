"""A model is opened once, whatever a command asks of it first; compilation and progress are told."""

import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from npsiglip import Checkpoint, InputError, SigLIP, save_folder
from npsiglip.config import ClassifierConfig, ImageConfig, SigLIPConfig
from npsiglip.params import random_params
from tests.helpers.command import LABEL_OPTIONS, environment, invoke, lines_of_json, run
from tests.helpers.golden_data import TINY

IMAGE = ImageConfig(width=24, depth=1, num_heads=2, mlp_dim=32, image_size=28, patch_size=7)


@pytest.fixture
def opened(monkeypatch):
    """What was opened, in order."""
    found, own = [], Checkpoint.open.__func__

    def count(cls, folder, *args, **options):
        found.append(str(folder))
        return own(cls, folder, *args, **options)

    monkeypatch.setattr(Checkpoint, "open", classmethod(count))
    return found


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.filterwarnings("ignore:.*no preprocessor_config")
def test_a_classifier_is_opened_once(tmp_path, picture, opened):
    config = SigLIPConfig(IMAGE, None, ClassifierConfig(("cat", "dog"), False))
    save_folder(tmp_path / "model", config, random_params(config, seed=3))
    result = invoke("classify", picture, "--model", tmp_path / "model")
    assert (result.exit_code, len(opened)) == (0, 1), result.output
    assert "cat" in result.stdout and "dog" in result.stdout


def test_a_model_with_labels_is_opened_once(picture, opened):
    result = invoke("classify", picture, "-l", "a", "--model", TINY)
    assert (result.exit_code, len(opened)) == (0, 1), result.output


def test_a_model_without_labels_of_its_own_is_not_loaded(picture, opened):
    result = invoke("classify", picture, "--model", TINY)
    assert (result.exit_code, len(opened)) == (2, 1)
    assert "give labels" in result.stderr


def test_the_model_of_an_open_checkpoint(picture):
    loaded, made = SigLIP.from_pretrained(TINY), SigLIP.from_checkpoint(Checkpoint.open(TINY), threads=1)
    assert (made.threads, made.dtype) == (1, "float32")
    for model in (loaded, made):
        assert np.isfinite(model.encode_image(picture)).all()
    np.testing.assert_array_equal(made.encode_image(picture), loaded.encode_image(picture))
    np.testing.assert_array_equal(made.encode_text(["a"]), loaded.encode_text(["a"]))
    with pytest.raises(InputError, match="sixteen_bit"):
        SigLIP.from_checkpoint(Checkpoint.open(TINY), sixteen_bit="cut")


# Compilation and progress


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
    assert "int8, 0.2 MB" in " ".join(shown.rsplit("\x1b[2K")[-1].split())  # what is left, in lines that fit
