"""In which order the pictures of a source come."""

from itertools import pairwise

import pytest

from npsiglip.train.order import Order


def test_every_class_comes_once_a_round_and_its_pictures_in_turn():
    order = Order(1, "x", range(12), [*"aaaaaaaa", *"bbb", "c"])
    kinds = "aaaaaaaabbbc"
    rounds = [[order(3 * turn + k) for k in range(3)] for turn in range(24)]
    assert all(sorted(kinds[i] for i in found) == ["a", "b", "c"] for found in rounds)
    of_b = [i for found in rounds for i in found if kinds[i] == "b"]
    assert all(sorted(of_b[k : k + 3]) == [8, 9, 10] for k in range(0, 24, 3))
    of_a = [i for found in rounds for i in found if kinds[i] == "a"]
    assert sorted(of_a[:8]) == list(range(8))
    assert of_a[:8] != of_a[8:16]  # another order each time


@pytest.mark.parametrize("window", [0, 4, 10, 64])
def test_all_pictures_come_before_any_comes_again(window):
    order = Order(1, "x", range(10, 20), [None] * 10, window)
    epochs = [[order(10 * epoch + k) for k in range(10)] for epoch in range(3)]
    assert all(sorted(found) == list(range(10, 20)) for found in epochs)
    assert epochs[0] != epochs[1]
    if window == 4:  # windows of 4, 4 and 2 neighbours, one after the other
        blocks = [(i - 10) // 4 for i in epochs[0]]
        assert sum(a != b for a, b in pairwise(blocks)) == 2


def test_neighbours_come_together_every_class_once_a_round():
    order = Order(1, "x", range(20), [str(i // 2) for i in range(20)], neighbours=4)
    rounds = [[order(10 * turn + k) // 2 for k in range(10)] for turn in range(200)]
    assert all(sorted(found) == list(range(10)) for found in rounds)
    breaks = [{a for a, b in pairwise(found) if b != a + 1} for found in rounds]
    assert all(len(found) <= 3 for found in breaks)  # at most four runs, the first and the last perhaps shorter
    assert set.union(*breaks) == set(range(10))  # they end anywhere
    assert len({tuple(found) for found in rounds}) > 10


def test_more_neighbours_than_classes_are_all_of_them():
    order = Order(1, "x", range(6), [*"abcdef"], neighbours=100)
    assert sorted(order(k) for k in range(6)) == list(range(6))


@pytest.mark.parametrize(
    ("classes", "count", "whole"),
    [
        ("aabbbc", 1, 3),  # rounds of three classes
        ("aabbbc", 3, 3),
        ("aabbbc", 4, 6),
        ("aabbbc", 100, 102),
        ([None] * 6, 5, 5),  # within the first round
        ([None] * 6, 6, 6),
        ([None] * 6, 7, 12),
    ],
)
def test_where_an_order_may_begin_again(classes, count, whole):
    assert Order(1, "x", range(6), [*classes]).whole(count) == whole
