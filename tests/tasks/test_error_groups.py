"""Groups of incorrect decisions, and labels as text."""

import numpy as np
import pytest

from esc_jax.tasks.single_label import SingleLabel

CLASSES = ("rain", "sea_waves", "dog")


def test_pairs_of_classes_are_counted_in_both_directions():
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    decisions = [(1, 0.6), (1, 0.9), (0, 0.8), (0, 0.7), (1, 0.8), (2, 0.9), (0, 0.5)]
    scores = np.zeros((len(labels), 3))
    for row, (decision, confidence) in enumerate(decisions):
        scores[row] = (1 - confidence) / 2
        scores[row, decision] = confidence
    waves, dog = SingleLabel().error_groups(labels, scores, CLASSES)
    assert waves.rows == (1, 3, 0)  # by confidence
    assert waves.description == "2 of 3 “rain” classified as “sea waves”, 1 of 2 the other way round"
    assert dog.rows == (6,)
    assert dog.description == "1 of 2 “dog” classified as “rain”, none the other way round"
    assert SingleLabel().error_groups(labels, np.eye(3)[labels], CLASSES) == []


def test_labels_are_read_as_they_are_written():
    task = SingleLabel()
    assert [task.parse_label(task.label_text(label, CLASSES), CLASSES) for label in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="'cat' is not a class"):
        task.parse_label("cat", CLASSES)
