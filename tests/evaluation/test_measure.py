"""What `npsiglip evaluate` counts, by hand; what it reads and says; a model that is measured on the world it knows.

Covers evaluation/scores.py, evaluation/plots.py and cli/evaluate.py as well.
"""

import json

import numpy as np
import pytest
from PIL import Image

from npsiglip import SigLIP
from npsiglip.errors import InputError
from npsiglip.evaluation.measure import class_texts, classification, opaque, retrieval, sample
from npsiglip.evaluation.scores import auroc, balanced, calibration, in_best, share
from npsiglip.pairs.guess import open_collection, open_pictures
from tests.helpers import pairs_data
from tests.helpers.command import run

SHAPES = ("circle", "star", "heart", "square")


def test_calibration_by_hand():
    probs = np.array([0.02, 0.02, 0.5, 0.5, 0.5, 0.5, 0.98, 1.0])
    matched = np.array([0, 1, 1, 1, 0, 0, 1, 1], bool)
    found = calibration(probs, matched)
    assert found.count == [2, 4, 2]
    assert found.probability == pytest.approx([0.02, 0.5, 0.99])
    assert found.matched == pytest.approx([0.5, 0.5, 1.0])
    assert found.ece == pytest.approx(2 / 8 * 0.48 + 2 / 8 * 0.01)
    # two that are wrong alone are right together: the bins are what the measure depends on
    assert calibration(np.array([0.48, 0.52]), np.array([1, 0], bool)).ece == pytest.approx(0.0)
    assert calibration(np.array([0.48, 0.52]), np.array([1, 0], bool), bins=2).ece == pytest.approx(0.52)


def test_hits_among_the_best_k():
    scores = np.array([[3.0, 2, 1], [1, 2, 3], [2, 3, 1], [1, 1, 1]])
    right = np.eye(3, dtype=bool)[[0, 1, 2, 0]]
    assert in_best(scores, right, 1).tolist() == [True, False, False, True]  # of equal ones, the first
    assert in_best(scores, right, 2).tolist() == [True, True, False, True]
    assert in_best(scores, right, 9).all()
    assert balanced(np.array([True, False, False, True]), np.array([0, 0, 0, 1])) == pytest.approx((1 / 3 + 1) / 2)


def test_wilsons_interval():
    """Against the values of Brown, Cai and DasGupta, Statistical Science 16 (2001), and where the plain one fails."""
    found = share(np.array([True] * 15 + [False] * 5))
    assert (found.value, found.n) == (0.75, 20)
    assert (found.low, found.high) == pytest.approx((0.5313, 0.8881), abs=5e-5)
    none = share(np.zeros(10, bool))
    assert (none.low, none.high) == pytest.approx((0.0, 0.2775), abs=5e-5)


def test_area_under_the_curve_by_pairs():
    rng = np.random.default_rng(0)
    positive, negative = rng.integers(0, 6, 40).astype(float), rng.integers(0, 5, 30).astype(float)
    pairs = [(p > n) + (p == n) / 2 for p in positive for n in negative]
    assert auroc(positive, negative) == pytest.approx(np.mean(pairs))
    assert auroc(np.ones(3), np.zeros(2)) == 1.0


def test_a_sample_is_the_same_each_time():
    assert sample(5, None) == [0, 1, 2, 3, 4]
    assert sample(100, 7) == sample(100, 7)
    assert len(set(sample(100, 7))) == 7


def test_a_cut_out_stands_on_white():
    block = Image.fromarray(np.full((4, 4, 4), (9, 9, 9, 0), np.uint8))
    assert np.asarray(opaque(block)).tolist() == np.full((4, 4, 3), 255).tolist()


# -- the built-in model, on pictures of the world in a user's folders -------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return SigLIP.from_pretrained("builtin")


def pictures(root, shapes=SHAPES, count=6):
    """A folder a class, with pictures of the world of one colour."""
    from npsiglip.world import World

    world, index = World(seed=5, split="test", mix={"single": 1.0}, difficulty=0.3), 0
    for shape in shapes:
        (root / shape).mkdir(parents=True)
        kept = 0
        while kept < count:
            found = world.sample(index)
            index += 1
            if found.scene.things[0].shape == shape:
                found.image.save(root / shape / f"{kept}.png")
                kept += 1
    return root


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    return pictures(tmp_path_factory.mktemp("shapes") / "known")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Noise, which is no shape at all."""
    folder = tmp_path_factory.mktemp("others")
    rng = np.random.default_rng(0)
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


def test_classification_of_shapes(model, shapes, others):
    pairs = open_collection([str(shapes)])
    report = classification(model, pairs, ("a {}", "a red {}"), unknown=open_pictures([str(others)]))
    assert (report["pictures"], report["classes"], report["unknown"], report["skipped"]) == (24, 4, 12, {})
    assert list(report["texts"]) == ["a {}", "a red {}", "ensemble"]
    plain = report["texts"]["a {}"]
    assert plain["top1"]["value"] >= 0.9  # the model's card: 99.8 % with colours
    assert plain["top5"]["value"] == 1.0
    assert plain["top1"]["value"] == pytest.approx(np.mean(list(plain["classes"].values())))
    assert plain["unknown_auroc"] > 0.8
    assert sum(plain["calibration"]["count"]) == 24 * 4


def test_it_is_what_the_logits_say(model, shapes):
    """From the embeddings of the model itself, picture by picture."""
    pairs = open_collection([str(shapes)])
    names = sorted(SHAPES)
    report = classification(model, pairs, ("a {}",))
    right = [
        names[int(model(pairs.read(i, None), [f"a {name}" for name in names]).logits_per_image[0].argmax())]
        == pairs.class_of(i)
        for i in range(len(pairs))
    ]
    assert report["texts"]["a {}"]["top1"]["value"] == pytest.approx(np.mean(right))


def test_an_ensemble_is_the_mean_of_its_templates(model):
    found = class_texts(model, ["circle", "star"], ["a {}", "a red {}"])
    mean = (found["a {}"].astype(np.float64) + found["a red {}"]) / 2
    assert np.allclose(found["ensemble"], mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-7)
    assert list(class_texts(model, ["circle"], ["a {}"])) == ["a {}"]


def test_retrieval_with_several_captions_and_equal_ones(model, shapes, tmp_path):
    rows = []
    for shape in SHAPES:
        for i in range(2):
            name = f"{shape}{i}.png"
            Image.open(shapes / shape / f"{i}.png").save(tmp_path / name)
            rows.append({"picture": name, "said": [f"a {shape}", f"one {shape} {i}"]})
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = retrieval(model, open_collection([str(path)], captions=["said"]))
    assert (report["pictures"], report["captions"]) == (8, 16)
    assert report["image_to_text"]["1"]["value"] >= 0.75
    assert report["image_to_text"]["10"]["value"] == report["text_to_image"]["10"]["value"] == 1.0
    found = report["calibration"]
    # "a star" is right for both stars, "one star 0" for one
    matches = sum(p * n for p, n in zip(found["matched"], found["count"], strict=True))
    assert matches == pytest.approx(8 * 2 + 8)


def test_bad_pictures_are_passed_over_and_named(model, shapes, tmp_path):
    for name in ("circle", "star"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes((shapes / name / "0.png").read_bytes())
    (tmp_path / "star" / "bad.png").write_bytes(b"no picture")
    report = classification(model, open_collection([str(tmp_path)]))
    assert report["pictures"] == 2
    assert [name.rpartition("/")[2] for name in report["skipped"]] == ["bad.png"]
    for name in ("circle", "star"):
        (tmp_path / name / "0.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"not one of 3 pictures can be decoded; the first is .*0\.png"):
        classification(model, open_collection([str(tmp_path)]))


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def narrow(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")  # nothing may depend on it


def test_the_table(shapes, others, tmp_path):
    plot = tmp_path / "plot.png"
    result = run(
        "evaluate", str(shapes), "--template", "a {}", "--unknown", str(others), "--plot", str(plot), model=None
    )
    assert result.exit_code == 0, result.stderr
    first, heads, row = result.stdout.splitlines()
    assert first == "24 pictures of 4 classes, 12 of none of them"
    assert heads.split()[:3] == ["template", "top-1", "top-5"]
    assert row.startswith("a {}")
    assert "AUROC 0." in row or "AUROC 1." in row
    assert max(map(len, result.stdout.splitlines())) <= 120
    with Image.open(plot) as picture:
        assert picture.size[0] > 1000


def test_json_of_tars_and_tables(tmp_path):
    path = pairs_data.tar(tmp_path / "a.tar", 3, broken=("red1",))
    result = run("evaluate", str(path), "--label", "kind", "--json", "--limit", "8", model=None)
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["classes"] == 3
    assert report["pictures"] + len(report["skipped"]) == 8
    assert set(report["texts"]["This is a photo of {}."]["classes"]) <= {f"{name} block" for name in pairs_data.COLOURS}
    captions = run("evaluate", str(path), "--caption", "en", model=None)
    assert captions.exit_code == 0, captions.stderr
    assert captions.stdout.startswith("8 pictures, 8 captions; ECE 0.")
    assert "passed over" in captions.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{root}/nothing"], "finds nothing"),
        (["{root}/x.txt"], "is neither a folder nor one of"),
        (["{root}/a.tar"], "which key of a sample's JSON holds its name (--label)"),
        (["{root}/a.tar", "--label", "zzz"], "the samples' keys are en, kind"),
        (["{root}/one"], "at least two classes"),
        (["{root}/a.tar", "{root}/one"], "hold pairs in different ways"),
        (["{root}/a.tar", "--label", "kind", "--template", "a"], "must have exactly one {} for the label"),
        (["{root}/a.tar", "--label", "kind", "--unknown", "{root}/empty"], "no pictures there"),
    ],
)
def test_what_cannot_be_evaluated(tmp_path, arguments, message):
    pairs_data.tar(tmp_path / "a.tar")
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "class").mkdir(parents=True)
    pairs_data.picture((1, 2, 3)).save(tmp_path / "one" / "class" / "0.png")
    result = run(
        "evaluate", *(argument.format(root=tmp_path) if "{root}" in argument else argument for argument in arguments)
    )
    assert result.exit_code == 1
    assert message in " ".join(result.stderr.split())
    assert result.stdout == ""
