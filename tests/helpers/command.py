"""The command line in a process of its own or in this one, and what it said."""

import json
import os
import subprocess
import sys

import numpy as np
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from npsiglip.cli import app
from tests.helpers.golden_data import ROOT, TINY
from tests.helpers.model_folders import FC1

LABELS = ["a cat", "two dogs"]
LABEL_OPTIONS = ["-l", "a cat", "-l", "two dogs"]


def invoke(*args, **options):
    """The command line in this process."""
    return CliRunner().invoke(app, [*map(str, args)], **options)


def run(command, *args, model=TINY):
    """A command on the tiny model, or on another, or on none."""
    return invoke(command, *(["--model", model] if model else []), *args)


def environment(**changes):
    """Of a process that runs the code of this tree."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **changes}


def lines_of_json(stdout):
    """JSON Lines, and JSON: what Python reads beyond it, such as NaN, is refused."""

    def refuse(name):
        raise ValueError(name)

    return [json.loads(line, parse_constant=refuse) for line in stdout.splitlines()]


def run_process(*args, **options):
    """Python in a process of its own."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), **options}
    return subprocess.run([sys.executable, *map(str, args)], text=True, timeout=120, check=False, **options)


def assert_refused(result, *phrases):
    """One message on stderr, exit code 1, nothing on stdout, no traceback."""
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    for phrase in phrases:
        assert phrase in result.stderr


def change_weights(edit):
    """What does `edit` to the tensors of a folder."""

    def change(folder):
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")

    return change


def set_nan(tensors):
    tensors[FC1][1, 2] = np.nan
