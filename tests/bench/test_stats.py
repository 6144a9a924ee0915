"""Summaries of times: their order, and what one disturbed run changes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npsiglip.bench.stats import ratio, summarize

times = st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=30)


@given(times, st.randoms(use_true_random=False))
def test_summary_is_ordered_and_knows_no_order(values, rng):
    summary = summarize(values)
    assert min(values) == summary.min <= summary.q1 <= summary.median <= summary.q3 <= summary.max == max(values)
    for side in ([v for v in values if v < summary.median], [v for v in values if v > summary.median]):
        assert len(side) <= len(values) / 2
    rng.shuffle(values)
    assert summarize(values) == summary


@given(st.lists(st.floats(1, 2), min_size=5, max_size=30), st.floats(100, 1e6))
def test_one_disturbed_run_leaves_the_median_among_the_others(values, disturbed):
    assert summarize([*values, disturbed]).q3 <= 2


@given(times, st.floats(0.01, 100))
def test_ratio_within_rounds_does_not_see_what_slows_both(theirs, factor):
    ours = [factor * t for t in theirs]
    result = ratio(ours, theirs)
    assert result.of_medians == pytest.approx(factor)
    assert [result.per_round.min, result.per_round.max] == pytest.approx([factor, factor])


def test_ratio_is_ours_to_theirs():
    assert ratio([1.0, 1.0, 3.0], [2.0, 2.0, 2.0]).of_medians == 0.5
    assert ratio([1.0, 1.0, 3.0], [2.0, 2.0, 2.0]).per_round.max == 1.5
