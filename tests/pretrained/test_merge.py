"""Initialization of models with published weights."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors.numpy

from esc_jax import config as configs
from esc_jax.models import model as models
from esc_jax.pretrained import load, merge, registry
from esc_jax.pretrained.published import PretrainedError, PublishedCheckpoint


@pytest.fixture
def config():
    config = configs.defaults("resnet")
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.frontend.update(n_fft=512, hop=256, mels=16)
    config.model.pretrained = "published"
    return config


@pytest.fixture
def published(config, monkeypatch):
    """A checkpoint of a small ResNet with three classes, and the registry that reads it."""
    small = config.copy_and_resolve_references()
    small.model.encoder.update(stage_sizes=(1,), width=8)
    small.frontend.mels = 20
    arrays = jax.tree.map(lambda a: np.asarray(a) + 1, models.create(small, "abc").variables)
    checkpoint = PublishedCheckpoint(
        architecture="resnet",
        options={"stage_sizes": (1,), "width": 8},
        variables=arrays,
        head={"name": "linear", "classes": 3},
        frontend={"name": "log_mel", "mels": 20, "sample_rate": 16_000},
        labels=("a", "b", "c"),
    )
    monkeypatch.setitem(registry.READERS, "resnet", lambda path: checkpoint)
    return checkpoint


def test_a_run_starts_from_the_checkpoint_and_its_frontend(config, published):
    config, model = load.initialize(config, "abc")
    assert config.model.encoder.width == 8 and model.module.encoder.width == 8 and model.frontend.mels == 20
    assert model.frontend.n_fft == 512  # the checkpoint has no such setting
    for one, other in zip(jax.tree.leaves(model.variables), jax.tree.leaves(published.variables), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_head_of_other_classes_is_initialized(config, published):
    variables = load.initialize(config, "abcde")[1].variables
    assert variables["params"]["head"]["classifier"]["kernel"].shape == (8, 5)
    np.testing.assert_array_equal(
        variables["params"]["encoder"]["stem"]["kernel"], published.variables["params"]["encoder"]["stem"]["kernel"]
    )


def test_arrays_that_do_not_fit_are_listed(config, published):
    variables = models.create(merge.with_checkpoint_options(config, published), "abc").variables
    encoder = published.variables["params"]["encoder"]
    encoder["extra"] = encoder.pop("stem")
    encoder["bn_stem"] = {"scale": np.ones(9), "bias": np.ones(8)}
    with pytest.raises(PretrainedError) as error:
        merge.merge(variables, published)
    assert "not in the model: extra/kernel" in str(error.value)
    assert "not in the checkpoint: stem/kernel" in str(error.value)
    assert "of another shape: bn_stem/scale" in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(published, value):
    variables = jax.tree.map(np.copy, published.variables)
    variables["params"]["encoder"]["stem"]["kernel"][0, 0, 0, 0] = value
    with pytest.raises(PretrainedError, match="NaN or infinity in 1 arrays, such as params/encoder/stem/kernel"):
        dataclasses.replace(published, variables=variables)


def test_another_sample_rate_is_refused(config, published):
    config.data.sample_rate = 32_000
    with pytest.raises(PretrainedError, match="trained at 16000 Hz: set config.data.sample_rate=16000"):
        merge.with_checkpoint_options(config, published)


def test_a_published_head_is_put_in_the_order_of_our_classes(config, published):
    kernel = published.variables["params"]["head"]["classifier"]["kernel"]
    head = load.initialize(config, "cab")[1].variables["params"]["head"]["classifier"]
    np.testing.assert_array_equal(head["kernel"], kernel[:, [2, 0, 1]])
    other = load.initialize(config, "abd")[1].variables["params"]["head"]["classifier"]  # as many classes, but others
    assert not np.array_equal(other["kernel"], kernel)


@pytest.mark.parametrize(("labels", "warned"), [(("a", "b", "c"), False), (None, True)])
def test_a_head_without_class_names_causes_a_warning(config, published, caplog, labels, warned):
    variables = models.create(merge.with_checkpoint_options(config, published), "abc").variables
    merge.merge(variables, dataclasses.replace(published, labels=labels), "abc")
    assert ("no class names" in caplog.text) == warned


def test_overrides_of_the_config_have_precedence_over_the_checkpoint(config, published):
    config.model.overrides = ("frontend.mels", "encoder.zero_init")
    published.options["zero_init"] = True
    config.model.encoder.zero_init = False
    merged = merge.with_checkpoint_options(config, published)
    assert merged.frontend.mels == 16 and not merged.model.encoder.zero_init and merged.model.encoder.width == 8
    config.model.overrides = ("encoder.colour",)
    with pytest.raises(PretrainedError, match="there is no option encoder.colour; the options are encoder.drop_path"):
        merge.with_checkpoint_options(config, published)


def test_architecture_and_sample_rate_are_detected(published, monkeypatch, tmp_path):
    def refuse(path):
        raise PretrainedError("not mine.")

    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"weight": np.zeros(1, np.float32)}, path)
    for name in registry.READERS:
        if name != "resnet":
            monkeypatch.setitem(registry.READERS, name, refuse)
    assert merge.identify(path) is published
    assert merge.sample_rate(published) == 16_000
    with pytest.raises(PretrainedError, match="trained at 16000 Hz"):
        merge.sample_rate(published, 8_000)
    monkeypatch.setitem(registry.READERS, "resnet", refuse)
    with pytest.raises(PretrainedError, match="not a known checkpoint: as beats, not mine; as .*, not mine$"):
        merge.identify(path)


@pytest.mark.parametrize("name", ["absent.pt", "empty.pt", "cut.safetensors", "folder"])
def test_the_error_of_an_unreadable_file_occurs_once(tmp_path, name):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "cut.safetensors").write_bytes(b"cut")
    (tmp_path / "folder").mkdir()
    with pytest.raises(PretrainedError) as error:
        merge.identify(str(tmp_path / name))
    assert str(error.value).count(name) == 1 and "as beats" not in str(error.value)
