"""Scores of several kinds: never in one column, and what models share is the order."""

import numpy as np
import pytest

from npsiglip import InputError
from npsiglip.comparison.scores import Scores, agreements, correlation
from npsiglip.outputs import sigmoid

LABELS = ("a", "b", "c")
COSINE = np.array([0.1, 0.3, 0.2])


def test_a_kind_has_its_own_columns():
    logit = 10 * COSINE - 2
    columns = {kind: list(Scores("m", kind, LABELS, COSINE, None if kind == "cosine" else logit).columns())
               for kind in ("sigmoid", "softmax", "cosine")}  # fmt: skip
    assert columns == {
        "sigmoid": ["cosine", "logit", "sigmoid", "softmax", "rank"],
        "softmax": ["cosine", "logit", "softmax", "rank"],
        "cosine": ["cosine", "rank"],
    }


def test_numbers():
    scores = Scores("m", "sigmoid", LABELS, COSINE, 10 * COSINE - 2)
    np.testing.assert_array_equal(scores.sigmoid, sigmoid(scores.logit))
    e = np.exp(10 * COSINE)
    np.testing.assert_allclose(scores.softmax, e / e.sum(), rtol=1e-6)
    assert scores.order.tolist() == [1, 2, 0]
    assert scores.rank.tolist() == [3, 1, 2]
    assert [row["rank"] for row in scores.to_dict()["scores"]] == [3, 1, 2]


def test_agreement():
    a = Scores("a", "cosine", LABELS, COSINE)
    b = Scores("b", "sigmoid", LABELS, COSINE, np.array([3.0, 2.0, 1.0]))
    (found,) = agreements([("a", a), ("b", b)])
    assert (found.first, found.second, found.same_best) == ("a", "b", False)
    assert found.correlation == pytest.approx(np.corrcoef(a.rank, b.rank)[0, 1])
    assert correlation(np.array([1, 2, 3]), np.array([3, 2, 1])) == -1
    assert correlation(np.array([1]), np.array([1])) is None


@pytest.mark.parametrize(
    ("kind", "cosine", "logit"),
    [
        ("probability", COSINE, None), ("cosine", COSINE, COSINE), ("softmax", COSINE, None),
        ("cosine", COSINE[:2], None), ("sigmoid", COSINE, np.array([1, 2, np.nan])),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(kind, cosine, logit):
    with pytest.raises(InputError, match="m: "):
        Scores("m", kind, LABELS, cosine, logit)
