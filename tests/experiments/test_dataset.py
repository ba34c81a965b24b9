"""The data set of a run and its task."""

import dataclasses

import numpy as np
import pytest

from esc_jax.data import folds
from esc_jax.experiments import dataset
from esc_jax.tasks import registry as tasks


@pytest.mark.parametrize(("missing", "named"), [([], ""), ([0], "a"), ([0, 2], "a, c")])
def test_classes_that_are_tested_and_not_trained_are_named(noise_clips, caplog, missing, named):
    """`missing` classes have no clip outside of the test fold."""
    labels = noise_clips.labels.copy()
    outside = np.array(noise_clips.folds) != 1
    labels[outside & np.isin(labels, missing)] = 1
    clips = dataclasses.replace(noise_clips, labels=labels)
    split = folds.split(clips.folds, clips.sources, "holdout", 1)
    with caplog.at_level("WARNING"):
        dataset.log_split(tasks.get("single_label"), clips, split)
    assert caplog.messages == ([f"no training clip has one of the test classes {named}"] if missing else [])
