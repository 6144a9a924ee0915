"""Metrics go on where a run does, and an error says when they cannot be written."""

import errno
import json
from pathlib import Path

import pytest

from npsiglip.errors import InputError
from npsiglip.train.metrics_log import FILE as METRICS
from npsiglip.train.metrics_log import MetricsLog, read_metrics
from tests.helpers.train_runs import line


def test_metrics_go_on_from_a_step(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (1, 2, 3):
        log.add(line(step, loss=1 / step))
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"step": 4, "lo')  # cut short by a kill
    again = MetricsLog(tmp_path, 2)
    assert [entry["step"] for entry in read_metrics(tmp_path)] == [1, 2]
    again.add(line(3, loss=0.5))
    assert read_metrics(tmp_path)[-1] == {"step": 3, "seconds": 180.0, "loss": 0.5}
    assert all(json.loads(text) for text in (tmp_path / METRICS).read_text().splitlines())
    MetricsLog(tmp_path, 0)
    assert read_metrics(tmp_path) == []


def test_metrics_that_cannot_be_written(tmp_path, monkeypatch):
    log = MetricsLog(tmp_path, 0)

    def full(*args, **keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(InputError, match=r"metrics.jsonl cannot be written: .*No space left"):
        log.add(line(1))
