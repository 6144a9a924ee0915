"""`npsiglip train` in the world itself, at its smallest; what is measured of a model."""

import json
import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from npsiglip import SigLIP
from npsiglip.train.config import load_config
from npsiglip.train.measure import top1
from npsiglip.train.trainer import Trainer
from tests.helpers.command import invoke
from tests.helpers.golden_data import ROOT, TINY
from tests.helpers.train_standin import StandIn

SETTINGS = """
model.image = { width = 16, depth = 1, num_heads = 2, mlp_dim = 24, image_size = 32, patch_size = 16 }
model.text = { width = 16, depth = 1, num_heads = 2, mlp_dim = 24, seq_len = 16, vocab_size = 200 }
train = { steps = 3, batch = 4 }
data.tokenizer_captions = 100
run = { log_every = 1, eval_pictures = 8, final_pictures = 8 }
"""


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    path = tmp_path_factory.mktemp("settings") / "settings.toml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, settings):
    """A run by the command, and what it told."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    return folder, train(settings, "--out", folder)


def train(*args):
    return invoke("train", *args)


def test_a_run_of_the_command(run, settings):
    folder, result = run
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert any(line.startswith("step 3/3  loss ") for line in lines)
    assert f"{folder / 'model'}: trained in 0:0" in lines[-1]
    for name in ("seen", "held-out", "image-to-text", "text-to-image"):
        assert name in lines[-1]
    results = json.loads((folder / "summary.json").read_text())["results"]
    assert set(results) >= {"seen", "held_out", "image_to_text", "text_to_image", "calibration"}
    assert sum(results["calibration"]["count"]) == 2 * 4 * 4
    assert sum(results["calibration_balanced"]["count"]) == 2 * 2 * 4
    assert sum(results["calibration_corrected"]["count"]) == 2 * 2 * 4
    scores = SigLIP.from_pretrained(folder / "model").classify(np.zeros((32, 32, 3), np.uint8), ["a", "b"])
    assert len(scores[0]) == 2


def test_a_finished_run_is_finished_again(run, settings):
    folder, _ = run
    model = (folder / "model" / "model.safetensors").read_bytes()
    (folder / "model" / "model.safetensors").unlink()
    result = train(settings, "--out", folder, "--resume")
    assert result.exit_code == 0, result.stderr
    assert "step" not in result.stderr
    assert (folder / "model" / "model.safetensors").read_bytes() == model


def test_export_only(run, settings, tmp_path):
    folder, _ = run
    (folder / "model" / "model.safetensors").unlink()
    before = (folder / "metrics.jsonl").read_bytes()
    result = train(settings, "--out", folder, "--export-only")
    assert result.exit_code == 0, result.stderr
    assert "the model after step 3" in result.stderr
    assert (folder / "model" / "model.safetensors").exists()
    assert (folder / "metrics.jsonl").read_bytes() == before
    result = train(settings, "--out", tmp_path / "nothing", "--export-only")
    assert result.exit_code == 2
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("optimizer.rat = 1", "unknown key `rat`: did you mean `rate`"),
        ("[[data.phases]]\ndifficultly = 1", "unknown key `difficultly`: did you mean `difficulty`"),
        ("[[data.phases]]\ndifficulty = 3", r"data.phases[0]: `difficulty` must lie between 0 and 1"),
    ],
)
def test_settings_are_refused_in_one_message(tmp_path, more, message):
    path = tmp_path / "settings.toml"
    text = SETTINGS.replace("data.tokenizer_captions = 100\n", "") if "data" in more else SETTINGS
    path.write_text(f"{text}\n{more}\n")
    result = train(path, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_run_in_the_way(run, settings):
    result = train(settings, "--out", run[0])
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert "holds a run already" in result.stderr


def test_locked_tower_by_option(run, settings, tmp_path):
    result = train(settings, "--out", tmp_path / "run", "--lock", "image")
    assert "needs a trained tower to lock" in result.stderr
    result = train(settings, "--out", tmp_path / "run", "--lock", "image", "--init", run[0] / "model")
    assert result.exit_code == 0, result.stderr
    read = load_config(settings, {"lock": "image", "init": str(run[0] / "model")})
    ours = Trainer(read, tmp_path / "run", resume=True).params.views["image.pos_embed"]
    theirs = SigLIP.from_pretrained(run[0] / "model")
    assert theirs.config.image.width == ours.shape[1]


def test_on_a_terminal_and_interrupted(settings, tmp_path):
    """A live display; Ctrl-C reaches all processes of the terminal, the run writes a checkpoint and goes on later."""
    path = tmp_path / "settings.toml"
    path.write_text(SETTINGS.replace("steps = 3", "steps = 100000"))
    main, terminal = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    command = [sys.executable, "-m", "npsiglip", "train", path, "--out", tmp_path / "run"]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=terminal, stderr=terminal, env=environment, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(terminal)
    seen = b""
    while b"pairs/s" not in seen:
        seen += os.read(main, 4096)
    os.write(main, b"\x03")
    try:
        while part := os.read(main, 4096):
            seen += part
    except OSError:
        pass  # how a terminal says that nobody writes to it any more
    os.close(main)
    assert process.wait(60) == 130
    text = seen.decode()
    assert "Traceback" not in text
    assert "go on with --resume" in text
    assert "/100000" in text
    result = train(path, "--out", tmp_path / "run", "--export-only")
    assert result.exit_code == 0, result.stderr


# -- what is measured -------------------------------------------------------------------------------------------------


def test_top1_is_what_classify_says(tiny_config):
    model = SigLIP.from_pretrained(TINY)
    size = tiny_config.image.image_size
    pictures, _ = StandIn(batch=12, size=size).batch(0)
    captions = ["a red square", "a blue square", "something else"]
    best = [scores[0]["label"] for scores in model.classify(list(pictures), captions, "{}")]
    labels = np.array([captions.index(label) for label in best])
    assert top1(model, pictures, labels, captions) == 1.0
    labels[:3] = (labels[:3] + 1) % 3
    assert top1(model, pictures, labels, captions) == pytest.approx(0.75)
