"""The schedule of the learning rate, by hand."""

import pytest

from npsiglip.train.schedule import schedule


def test_schedule_by_hand():
    assert [schedule(i, 8, 4) for i in range(8)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 0.8535533905932737, 0.5, 0.14644660940672627]
    )
    assert [schedule(i, 2, 0) for i in range(2)] == pytest.approx([1.0, 0.5])
    assert schedule(99, 100, 0, floor=0.1) == pytest.approx(0.1, abs=1e-3)
    assert schedule(50, 100, 0, floor=0.1) == pytest.approx(0.55)
