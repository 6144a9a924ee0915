"""Every digit on demand: results beside float64, the digits that hold, from Python and from the commands."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from npsiglip import InputError, SigLIP, reference
from npsiglip.cli import app
from npsiglip.params import cast
from npsiglip.verify.checking import digits
from tests.helpers.golden_data import ROOT, TINY

PICTURE = str(ROOT / "docs" / "images" / "example.png")


@pytest.mark.parametrize(
    "value, truth, held", [(1.0, 1.0, 16), (1.2345, 1.2346, 4), (-2.0, 2.0, 0), (1.0, 0.0, 0), (float("nan"), 1.0, 0)]
)
def test_digits(value, truth, held):
    assert digits(value, truth) == held


@pytest.mark.parametrize("dtype, bound", [("float32", 1e-4), ("bfloat16", 0.2), ("int8", 0.5)])
def test_the_truth_is_the_references(dtype, bound):
    model = SigLIP.from_pretrained(TINY, dtype=dtype)
    pixels, ids = model.processor([PICTURE, PICTURE]), model.tokenizer(["a", "b c"])
    expected = {}
    reference.siglip(cast(model._params, np.float64), model.config, pixels, ids, expected)
    found = model.check([PICTURE, PICTURE], ["a", "b c"])
    assert list(found) == ["image.pooled", "zimg", "text.head", "ztxt", "logits", "probs"]
    for tap, each in found.items():
        assert np.isfinite(each.value).all()
        np.testing.assert_allclose(each.truth, expected[tap], rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(found["zimg"].value, model.encode_image([PICTURE, PICTURE]))
    np.testing.assert_array_equal(found["probs"].value, model([PICTURE, PICTURE], ["a", "b c"]).probs)
    assert found["probs"].deviation.max() <= bound
    assert found["probs"].digits.min() >= int(-np.log10(bound))
    assert list(model.check(texts="a")) == ["text.head", "ztxt"]
    with pytest.raises(InputError, match="needs images, texts or both"):
        model.check()


def test_commands(tmp_path):
    args = ["classify", PICTURE, "-l", "a", "-l", "b c", "--model", str(TINY), "--check"]
    result = CliRunner().invoke(app, [*args, "--json"])
    assert result.exit_code == 0, result.output
    scores = json.loads(result.stdout)["scores"]
    assert [set(score) for score in scores] == [{"label", "score", "float64", "deviation", "digits"}] * 2
    for score in scores:
        assert score["deviation"] == pytest.approx(abs(score["score"] - score["float64"]) / score["float64"])
    assert CliRunner().invoke(app, args).stdout.count("digits hold") == 2
    result = CliRunner().invoke(
        app, ["embed", PICTURE, "hello", "-o", str(tmp_path / "x.npy"), "--model", str(TINY), "--check"]
    )
    assert result.exit_code == 0, result.output
    assert result.stderr.count("of its length from float64") == 2
    result = CliRunner().invoke(app, ["classify", PICTURE, "--model", str(TINY), "--check"])
    assert result.exit_code == 2
