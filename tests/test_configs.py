"""Every config of the repository: it loads, passes its checks, and describes a model that builds."""

import pathlib

import jax
import pytest

from esc_jax import config as configs
from esc_jax.augment import compose
from esc_jax.experiments import workdir
from esc_jax.frontends import registry as frontends
from esc_jax.models import registry as models
from esc_jax.training import optim

FILES = sorted((pathlib.Path(__file__).parents[1] / "configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_config(path):
    config = configs.load(path)
    configs.check(config)
    assert f"--config=configs/{path.name}" in path.read_text().split('"""')[1]
    rate = config.data.sample_rate
    samples = round((config.augment.crop_s or config.data.clip_s) * rate)
    model, frontend = models.build(config.model, 50), frontends.build(config.frontend, rate)

    def logits(key, audio):
        features = frontend(compose.waveforms(config.augment, key, jax.numpy.arange(2), audio, rate))
        features = compose.spectrograms(config.augment, key, jax.numpy.arange(2), features)
        return model.init_with_output(key, features)

    clip = jax.ShapeDtypeStruct((2, round(config.data.clip_s * rate)), jax.numpy.float32)
    found, variables = jax.eval_shape(logits, jax.random.key(0), clip)
    assert found.shape == (2, 50) and samples <= clip.shape[1]
    optim.build(config.optim, variables["params"], total=100, per_epoch=10)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("augment.crop_s", 9.0, "augment.crop_s=9 is longer than the clips"),
        ("augment.speed_octaves", 0.1, "speed_octaves needs a crop to stretch"),
        ("train.epochs", 0, "train.epochs=0 is out of range: it goes from 1"),
        ("optim.lr", 0.0, "optim.lr=0.0 must be above 0"),
        ("model.dtype", "float16", "choose one of float32, bfloat16"),
    ],
)
def test_what_cannot_run_is_said_early(key, value, message):
    config = configs.defaults("resnet")
    config.update_from_flattened_dict({key: value})
    with pytest.raises(configs.ConfigError, match=message):
        configs.check(config)


def test_flattened_keys_and_differences():
    config = configs.defaults("resnet")
    flat = configs.flatten(config)
    assert flat["train.batch_size"] == 32 and flat["model.encoder.width"] == 64
    other = configs.defaults("resnet")
    other.optim.lr = 0.5
    other.data.dir = "elsewhere"  # where the data lie is not part of the experiment
    assert workdir.differences(flat, configs.flatten(other)) == ["optim.lr (0.001, now 0.5)"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("train.epoch", "config.train.epochs"),
        ("optm.lr", "config.optim.lr"),
        ("mixup_alpha", "config.augment.mixup_alpha"),
        ("data.tset_fold", "config.data.test_fold"),
    ],
)
def test_nearest_key(key, expected):
    assert f"did you mean {expected}?" in configs.nearest(key, configs.defaults("resnet"))
