"""The training step: the same numbers on any number of devices, and the parts it is made of."""

import dataclasses
import os
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax import build
from esc_jax import config as configs
from esc_jax.frontends import registry as frontends
from esc_jax.objectives import supervised
from esc_jax.ops.dropout import Dropout
from esc_jax.runtime import devices, xla
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps
from tests.training import few


@pytest.fixture
def config():
    config = configs.defaults("resnet")
    config.data.sample_rate = 16_000
    config.data.clip_s = 0.5
    config.frontend.update(n_fft=512, hop=256, mels=16)
    config.model.encoder.update(stage_sizes=(1, 1), width=8)
    config.model.head.dropout = 0.3
    config.augment.update(
        roll=1.0, crop_s=0.4, speed_octaves=0.2, gain_db=6.0, noise=0.1, mixup_alpha=0.5, frequency_warp=0.1,
        time_mask=4, freq_mask=4,
    )  # fmt: skip
    config.train.update(batch_size=8, ema=0.9, label_smoothing=0.1)
    config.optim.clip_norm = 1.0
    return config


@pytest.mark.parametrize("mixup_on", ["waveform", "spectrogram"])
def test_any_number_of_devices_gives_the_same_run(config, noise_clips, mixup_on):
    config.augment.mixup_on = mixup_on
    _, state_one, one = few.train(config, noise_clips, 20)
    for devices in (2, 4):
        _, state, other = few.train(config, noise_clips, 20, devices)
        # Sums over the batch are taken in another order: rounding grows a little with every step.
        np.testing.assert_allclose(one, other, rtol=1e-5)
        for a, b in zip(jax.tree.leaves(state_one.ema), jax.tree.leaves(state.ema), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-3)
    assert len(set(one)) == 20


def test_a_frozen_part_keeps_its_bits_and_a_slow_one_moves_less(config, noise_clips):
    config.optim.groups = (("encoder/stem/.*", 0.0), ("encoder/.*", 0.01))
    before, state, _ = few.train(config, noise_clips, 3)

    def moved(path):
        one, other = before["params"], state.params
        for key in path.split("/"):
            one, other = one[key], other[key]
        return float(jnp.abs(one - other).max())

    assert moved("encoder/stem/kernel") == 0.0
    assert 0 < moved("encoder/stage1_block1/conv1/kernel") < 0.05 * moved("head/classifier/kernel")


def test_a_group_that_matches_nothing_is_refused(config):
    config.optim.groups = (("encoder/nothing/.*", 0.0),)
    with pytest.raises(optim.OptimError, match="'encoder/nothing/.\\*' matches no parameter"):
        optim.build(config.optim, {"encoder": {"stem": jnp.zeros(3)}}, 10, 1)
    config.optim.groups = (("encoder/(", 0.0),)
    with pytest.raises(optim.OptimError, match="is not a regular expression"):
        optim.build(config.optim, {"encoder": {"stem": jnp.zeros(3)}}, 10, 1)


def test_adamw_equals_optax_with_the_same_schedule(config):
    config.optim.update(
        cycle_momentum=False, schedule="linear", warmup_percent=10.0, lr=0.1, weight_decay=0.2, clip_norm=0.0
    )
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    ours = optim.build(config.optim, params, total=20, per_epoch=5)
    rate, _ = optim.schedule(config.optim, 20, 5)
    plain = optax.adamw(rate, weight_decay=0.2, mask={"kernel": True, "bias": False})
    a, b = (params, ours.init(params)), (params, plain.init(params))
    for i in range(5):
        grads = jax.tree.map(lambda p, i=i: jnp.sin(p + i), params)
        ua, sa = ours.update(grads, a[1], a[0])
        with jax.numpy_dtype_promotion("standard"):
            ub, sb = plain.update(grads, b[1], b[0])
        a, b = (optax.apply_updates(a[0], ua), sa), (optax.apply_updates(b[0], ub), sb)
    for key in params:
        np.testing.assert_allclose(a[0][key], b[0][key], rtol=1e-6)


def test_average_of_weights_equals_a_loop():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(30).astype(np.float32)
    average, expected = {"w": jnp.float32(0)}, 0.0
    for step, value in enumerate(values):
        average = states.update_ema(average, {"w": value}, jnp.int32(step), 0.8)
        d = min(0.8, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * value
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)


def test_views_are_rotations_and_the_first_is_the_clip():
    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    for k, view in enumerate(steps.tta_views(x, 5)):
        np.testing.assert_array_equal(view, np.roll(x, 20 * k, axis=1))


def test_views_of_a_short_clip_are_rotations_of_what_sounds():
    x = np.random.default_rng(0).standard_normal((2, 100)).astype(np.float32)
    samples = np.array([63, 100], np.int32)
    for k, view in enumerate(steps.tta_views(x, 5, samples)):
        for row, (clip, own) in enumerate(zip(x, samples, strict=True)):
            np.testing.assert_array_equal(view[row], np.concatenate([np.roll(clip[:own], own // 5 * k), clip[own:]]))


def short(clips):
    """The clips cut to 0.1 to 0.5 s, and batches that say so."""
    lengths = np.random.default_rng(5).integers(1600, 8001, len(clips))
    lengths[3] = clips.length
    return dataclasses.replace(clips, samples=lengths, fetch=lambda i: clips.fetch(i)[: lengths[i]], mask_padding=True)


@pytest.fixture
def hubert():
    """A config of a model that is told of padding, with mixing and rotation."""
    config = few.hubert()
    config.augment.update(roll=1.0, gain_db=6.0, noise=0.1, mixup_alpha=0.5, mixup_probability=0.7)
    config.optim.clip_norm = 1.0
    return config


@pytest.mark.parametrize("mixup_on", ["waveform", "spectrogram"])
def test_a_mixture_ends_with_the_longer_of_its_clips(hubert, noise_clips, mixup_on):
    """Who is mixed with whom is read from the targets: every clip has a class of its own."""
    hubert.augment.mixup_on = mixup_on
    hubert.augment.noise = 0.0
    clips = short(noise_clips)
    batch = {"audio": clips.read(range(8)), "label": np.arange(8), "samples": clips.valid(range(8))}
    frontend = frontends.build(hubert.frontend, 16_000)

    def examples(batch):
        return steps.examples(frontend, hubert, 8, jax.random.key(1), batch)

    alone = jax.vmap(examples, axis_name=devices.AXIS)
    found = jax.tree.map(lambda x: np.asarray(x)[0], alone(jax.tree.map(lambda x: x[None], batch)))
    mixed = 0
    for features, target, padding in zip(found.features, found.target, found.padding, strict=True):
        partners = np.flatnonzero(target)
        mixed += len(partners) == 2
        end = batch["samples"][partners].max()
        np.testing.assert_array_equal(padding, np.arange(8000) >= end)
        assert not features[end:].any() and (features[:end] != 0).mean() > 0.99
    assert 0 < mixed < 8


def test_padding_makes_a_difference_in_training_and_devices_none(hubert, noise_clips):
    clips = short(noise_clips)
    _, _, one = few.train(hubert, clips, 6)
    hubert.train.accumulate = 2
    _, _, parts = few.train(hubert, clips, 6, 2)
    _, _, untold = few.train(hubert, dataclasses.replace(clips, mask_padding=False), 6)
    # Sums over the batch are taken in another order.
    np.testing.assert_allclose(parts, one, rtol=1e-5)
    assert np.abs(np.subtract(untold, one)).max() > 1e-3


def test_what_is_in_the_padding_is_not_heard(hubert, noise_clips):
    """By any step that predicts; every view is the clip of that view alone."""
    model, frontend, variables = build.build(hubert, 3)
    clips = short(noise_clips)
    quiet, samples = clips.read(range(4)), clips.valid(range(4))
    loud = np.where(np.arange(8000) < samples[:, None], quiet, noise_clips.read(range(4, 8)))
    for make in (steps.logits_step, steps.predict_step, steps.embed_step):
        step = make(model, frontend, 3)
        found = step(variables, quiet, samples)
        np.testing.assert_array_equal(found, step(variables, loud, samples))
        assert np.abs(found - step(variables, quiet)).max() > 1e-4
        turned = np.stack(
            [np.concatenate([np.roll(x[:n], n // 3), x[n:]]) for x, n in zip(quiet, samples, strict=True)]
        )
        # One program holds three views, the other one.
        np.testing.assert_allclose(found[1], make(model, frontend)(variables, turned, samples)[0], atol=1e-5)


def test_dropout_has_its_rate_and_keeps_the_mean():
    x = jnp.ones((64, 1000))
    found = Dropout(0.3).apply({}, x, train=True, rngs={"dropout": jax.random.key(0)})
    assert abs(float((found == 0).mean()) - 0.3) < 0.01
    np.testing.assert_allclose(found[found != 0], 1 / 0.7, rtol=1e-6)
    assert len(np.unique(np.asarray(found), axis=0)) == 64
    np.testing.assert_array_equal(Dropout(0.3).apply({}, x, train=False), x)


def test_loss_equals_the_formula():
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((5, 4)).astype(np.float32)
    target = supervised.targets(jnp.array([0, 1, 2, 3, 0]), 4, 0.1)
    np.testing.assert_allclose(target.sum(1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(target[0], [0.925, 0.025, 0.025, 0.025], rtol=1e-6)
    expected = -(np.asarray(target) * (logits - np.log(np.exp(logits).sum(1, keepdims=True)))).sum(1)
    np.testing.assert_allclose(supervised.loss(logits, target), expected, rtol=1e-5)


def test_batches_that_do_not_divide_are_refused():
    devices.check_batch_size("train.batch_size", 8)
    with pytest.raises(devices.DeviceError, match="train.batch_size=10 is not divisible by the 4 devices: take 8"):
        devices.check_batch_size("train.batch_size", 10)


def test_a_program_without_its_time_is_removed_from_the_cache(tmp_path):
    def entry(name, age, *suffixes):
        for suffix in suffixes:
            path = tmp_path / f"{name}-{suffix}"
            path.touch()
            os.utime(path, (time.time() - age,) * 2)

    entry("whole", 100, "cache", "atime")
    entry("killed", 100, "cache")
    entry("being-written", 0, "cache")
    xla._remove_incomplete(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["being-written-cache", "whole-atime", "whole-cache"]
    xla._remove_incomplete(tmp_path / "nothing")
