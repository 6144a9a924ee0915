"""What a run tells of pictures that are in its sources and in its tests."""

import pytest

from npsiglip.train import duplicates, saving
from npsiglip.train.duplicates import report_duplicates
from tests.helpers import pairs_data
from tests.helpers.train_runs import Recorder, run
from tests.helpers.train_standin import config


def settings(root, tests, seconds=20.0, world=({"kind": "world"},)):
    sources = [{"kind": "classes", "path": str(root / "train")}, *world]
    tests = [{"kind": "classes", "path": str(root / tests), "name": "held out"}, *world]
    return config(data={"sources": sources, "tests": tests}, run={"duplicate_seconds": seconds})


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Classes to train on; a test with two of their pictures, and one with none."""
    root = tmp_path_factory.mktemp("root")
    pairs_data.class_folder(root / "train")
    for test, moved in (("leaking", 0), ("clean", 70)):
        for name, colour in list(pairs_data.COLOURS.items())[:2]:
            folder = root / test / f"a_{name}-thing"
            folder.mkdir(parents=True)
            other = tuple((c + moved) % 256 for c in colour)
            pairs_data.picture(other, (25, 20)).save(folder / "x.png")
            pairs_data.picture((9, 9, 9), (60, 20)).save(folder / "y.png")
    return root


def told(*arguments):
    watcher = Recorder()
    report_duplicates(settings(*arguments), watcher)
    return watcher.told


def test_what_is_told(root):
    (line,) = told(root, "leaking")
    assert line.startswith("duplicates: 2 of 4 pictures of the test 'held out' are in the source 'classes' as well")
    assert f"{root / 'leaking' / 'a_green-thing' / 'x.png'} is {root / 'train' / 'a_green-thing'}" in line
    assert told(root, "clean") == []


def test_it_can_be_left_out_and_says_what_it_did_not_see(root, monkeypatch):
    assert told(root, "leaking", 0) == []
    assert told(root, "leaking", 1e-9) == ["duplicates: 0 of 13 pictures were looked at (run.duplicate_seconds 1e-09)"]
    monkeypatch.setattr(duplicates, "open_pairs", None)  # nothing is opened where there is nothing to compare
    watcher = Recorder()
    report_duplicates(config(data={"tests": [{"kind": "world"}]}), watcher)
    assert watcher.told == []


def test_a_run_tells_once_and_has_the_same_weights(root, tmp_path):
    wanted, watcher, resumed, silent = settings(root, "leaking", world=()), Recorder(2), Recorder(), Recorder()
    run(tmp_path / "run", wanted, watcher=watcher).run()
    assert sum(line.startswith("duplicates:") for line in watcher.told) == 1
    run(tmp_path / "run", wanted, resume=True, watcher=resumed)
    other = run(tmp_path / "other", settings(root, "leaking", 0, world=()), watcher=silent)
    assert not any(line.startswith("duplicates:") for line in resumed.told + silent.told)
    assert other.state.settings == saving.load_state(tmp_path / "run").settings


def test_strokes_that_are_shaken_are_found_as_they_are(tmp_path):
    path = str(pairs_data.drawings(tmp_path / "d.ndjson.gz"))
    sources = [{"kind": "drawings", "path": path, "augment": {"shake": 1.0}}]
    tests = [{"kind": "drawings", "path": path, "name": "held out"}]
    watcher = Recorder()
    report_duplicates(config(data={"sources": sources, "tests": tests}), watcher)
    assert "pictures of the test 'held out' are in the source 'drawings' as well" in watcher.told[0]
