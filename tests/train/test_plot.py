"""Plots are drawn of whatever there is."""

import pytest

from npsiglip.train.metrics_log import FILE as METRICS
from npsiglip.train.metrics_log import MetricsLog
from npsiglip.train.plot import draw_plot, draw_reliability
from tests.helpers.train_runs import line


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    log = MetricsLog(tmp_path, 0)
    assert not draw_plot(tmp_path)
    for step in range(1, 6):
        log.add(line(step, loss=8 / step, rate=1e-3, norm=3.0 / step))
    assert draw_plot(tmp_path)  # measured nothing yet, which is no warning
    log.add(line(5, seen=0.5, held_out=0.25))
    assert draw_plot(tmp_path, [3, 5])
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [METRICS, "plot.png"]


def test_reliability(tmp_path):
    pytest.importorskip("matplotlib")
    bins = {"ece": 0.01, "probability": [0.1, 0.9], "matched": [0.2, 0.8], "count": [5, 7]}
    results = {f"calibration{kind}": bins for kind in ("", "_balanced", "_corrected")}
    assert draw_reliability(tmp_path, results, 8)
    assert [path.name for path in tmp_path.iterdir()] == ["reliability.png"]
    assert (tmp_path / "reliability.png").read_bytes().startswith(b"\x89PNG")
