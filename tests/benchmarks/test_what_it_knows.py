"""what_it_knows.py: what counts as right."""

import numpy as np

from benchmarks.what_it_knows import Source, drawing_to_emoji, right_of


def test_classes_that_are_called_the_same_are_all_right():
    right = right_of(np.array([0, 2]), ["fox", "owl", "fox"])
    np.testing.assert_array_equal(right, [[True, False, True], [True, False, True]])


def test_a_drawing_finds_an_emoji_of_its_word_among_the_nearest():
    emoji = Source("emoji", [], np.array([0, 1, 2]), {"en": ["Cat", "dog", "sun"]})
    drawings = Source("drawings", [], np.array([0, 1, 1, 2]), {"en": ["cat", "sun", "no emoji"]})
    zemoji = np.eye(3)
    zdrawings = np.array([[0.9, 0.1, 0.0], [0.5, 0.6, 0.1], [0.1, 0.0, 0.9], [1.0, 0.0, 0.0]])
    found = drawing_to_emoji(drawings, zdrawings, emoji, zemoji, k=1)
    assert found.n == 3
    assert found.value == 2 / 3
    assert drawing_to_emoji(drawings, zdrawings, emoji, zemoji, k=3).value == 1
