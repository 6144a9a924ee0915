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
    zdrawings = np.array([[0.9, 0.1, 0.0], [0.5, 0.6, 0.1], [0.1, 0.8, 0.5], [1.0, 0.0, 0.0]])
    every, shared = drawing_to_emoji(drawings, zdrawings, emoji, zemoji, k=1)
    assert (every.n, shared.n) == (3, 3)
    assert every.value == 1 / 3  # the second and the third are nearest to the dog
    assert shared.value == 2 / 3  # and without the dog to the cat and the sun
    every, shared = drawing_to_emoji(drawings, zdrawings, emoji, zemoji, k=2)
    assert (every.value, shared.value) == (2 / 3, 1)
