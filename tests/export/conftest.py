"""Runs of small models."""

from collections.abc import Callable
import functools
import pathlib

import pytest

from esc_jax.training.restore import Restored, restore
from tests.export.factories import normalize_logits, random_model, save_run, tiny_config


@pytest.fixture(scope="session")
def resnet_workdir(tmp_path_factory) -> pathlib.Path:
    """Work directory of a run of a small ResNet."""
    return save_run(tmp_path_factory.mktemp("resnet"), tiny_config("resnet"))


@pytest.fixture(scope="session")
def restored(tmp_path_factory) -> Callable[[str], Restored]:
    """Name of an architecture → a run of it, restored from its checkpoint."""

    @functools.cache
    def get(name: str) -> Restored:
        config = tiny_config(name)
        model = normalize_logits(random_model(config))
        return restore(save_run(tmp_path_factory.mktemp(name), config, model))

    return get
