"""Panel 11: what comes with the package, and what a run and its checkpoints give."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from npsiglip.errors import InputError
from npsiglip.explain.training import PROBE, curve, default, in_a_row, joined, probes, step_of, training
from tests.helpers.explain import PICTURE, model
from tests.helpers.golden_data import ROOT


def test_the_default():
    found = default()
    assert found["about"] and len(found["loss"]) > 20 and found["accuracy"]
    steps = [one["step"] for one in found["checkpoints"]]
    assert steps == sorted(steps) and len(steps) >= 4
    for one in found["checkpoints"]:
        assert len(one["probes"]) == len(found["pictures"])
        np.testing.assert_allclose(np.sum(one["probes"], axis=1), 1, atol=1e-3)  # five decimals of each patch
    assert training(None, [], None, "") is found


def test_a_curve_keeps_the_mean():
    lines = [{"step": 10 * (i + 1), "loss": float(i)} for i in range(1000)] + [
        {"step": 5000, "seconds": 1.0, "seen": 0.5}
    ]
    found = curve(lines)
    assert found["accuracy"] == {"seen": [[5000, 0.5]]}
    assert len(found["loss"]) == 160 and found["loss"][-1][0] == 10_000
    sizes = [len(part) for part in np.array_split(range(1000), 160)]
    assert np.average([x for _, x in found["loss"]], weights=sizes) == pytest.approx(499.5)


def test_runs_that_go_on_from_each_other_are_counted_through(tmp_path):
    for name, steps in (("a", (1, 2)), ("b", (1, 3))):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": step, "loss": 1.0}) for step in steps]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert [line["step"] for line in in_a_row([tmp_path / "a", tmp_path / "b"])] == [1, 2, 3, 5]


def test_a_later_run_goes_on_from_the_curve_that_is_there():
    first = {"loss": [[1, 8.0], [3, 6.0]], "accuracy": {"seen": [[2, 0.25]], "held_out": [[2, 0.5]]}}
    then = {"loss": [[1, 5.0]], "accuracy": {"seen": [[2, 0.75]], "emoji": [[2, 0.1]]}}
    assert joined(first, then) == {
        "loss": [[1, 8.0], [3, 6.0], [4, 5.0]],
        "accuracy": {"seen": [[2, 0.25], [5, 0.75]], "held_out": [[2, 0.5]], "emoji": [[5, 0.1]]},
    }


def test_a_run_without_metrics(tmp_path):
    with pytest.raises(InputError, match=r"metrics\.jsonl"):
        training(tmp_path, [], None, "")


def test_a_run_and_checkpoints(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + "\n", encoding="utf-8")
    folder = tmp_path / "step00012"
    shutil.copytree(ROOT / "npsiglip" / "data" / "builtin", folder)
    found = training(tmp_path, [folder], str(PICTURE), "data:picture")
    assert found["loss"] == [[1, 2.0]] and found["pictures"] == [{"picture": "data:picture", "caption": ""}]
    (one,) = found["checkpoints"]
    expected = model().trace(images=[str(PICTURE)])[PROBE][0, :, 0].mean(axis=0)
    assert one["step"] == 12
    np.testing.assert_allclose(one["probes"][0], expected, atol=6e-6)  # five decimals
    assert probes([], [str(PICTURE)]) == []


def test_steps_in_names():
    assert [step_of(Path(name)) for name in ("step00400", "a1-200", "model")] == [400, 200, 0]
