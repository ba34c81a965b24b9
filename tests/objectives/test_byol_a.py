"""BYOL-A: views against plain numpy, the loss and the target network against their formulas, devices against one."""

import hypothesis
from hypothesis import strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.data import pipeline
from esc_jax.errors import ConfigError
from esc_jax.frontends import registry as frontends
from esc_jax.models import model as models
from esc_jax.objectives import byol_a
from esc_jax.objectives.base import Keys
from esc_jax.runtime import devices
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps
from tests.training import helpers


@pytest.fixture
def config():
    """A small ResNet with a BYOL-A stage."""
    config = helpers.resnet()
    config.pretrain = configs.pretrain_defaults("byol_a")
    config.pretrain.update(batch_size=8, epochs=2, projection_hidden=16, projection_dim=8, momentum=0.9)
    config.pretrain.augment.update(roll=1.0, gain_db=6.0)
    config.pretrain.optim.update(lr=1e-2, schedule="constant", warmup_percent=-1.0)
    return config


def create(config):
    """Model, objective and the variables of its module."""
    model = models.create(config, ("a", "b", "c"))
    objective = byol_a.ByolA(config.pretrain, model)
    features = model.frontend(jnp.zeros((1, 8000)))
    variables = objective.init(jax.random.key(0), features)
    return model, objective, {"params": variables["params"], "batch_stats": variables["batch_stats"]}


def train(config, clips, count, count_devices=1):
    """Final state and losses of a few steps."""
    _, objective, variables = create(config)
    optimizer = optim.build(config.pretrain.optim, variables["params"], total=count, per_epoch=count)
    carry = objective.init_carry(variables)
    state = devices.replicate(states.create(variables, optimizer, ema=False, carry=carry), count_devices)
    step = devices.pmap_step(steps.train_step(objective, optimizer, config.pretrain.optim), count_devices)
    batches = pipeline.train_batches(clips, range(len(clips)), 8, seed=0)
    history = []
    for _ in range(count):
        state, metrics = step(state, next(batches))
        history.append({key: float(value) for key, value in metrics.items()})
    return state, history


@hypothesis.given(
    share=strategies.floats(0.0, 0.99),
    scale=strategies.floats(0.5, 4.0),
    seed=strategies.integers(0, 99),
)
def test_log_mixup_mixes_powers(share, scale, seed):
    powers = np.random.default_rng(seed).uniform(1e-3, 10.0, (2, 5, 4))
    x, y = np.log(powers).astype(np.float32) / np.float32(scale)
    expected = np.log((1 - share) * powers[0] + share * powers[1]) / scale
    mixed = byol_a.log_mixup(jnp.float32(share), x, y, scale)
    np.testing.assert_allclose(mixed, expected, rtol=1e-4, atol=1e-5)  # float32 exponentials


def test_clips_have_one_level_and_silence_stays_silent():
    audio = np.random.default_rng(0).standard_normal((3, 1000)).astype(np.float32) * [[0.01], [1.0], [0.0]]
    levels = np.sqrt(np.square(byol_a.normalize_rms(jnp.float32(audio))).mean(1))
    np.testing.assert_allclose(levels, [byol_a.LEVEL, byol_a.LEVEL, 0.0], rtol=1e-5)


def test_a_crop_of_unchanged_size_is_a_slice_of_the_padded_spectrogram():
    x = np.random.default_rng(0).standard_normal((20, 6)).astype(np.float32)
    canvas = np.pad(x, ((5, 5), (0, 0)))
    crop = jax.jit(lambda key: byol_a.random_resize_crop(key, jnp.asarray(x), 1.0, 1.0))
    slices = [canvas[start : start + 20] for start in range(11)]
    offsets = set()
    for seed in range(60):
        result = np.asarray(crop(jax.random.key(seed)))
        errors = [np.abs(result - expected).max() for expected in slices]
        offsets.add(int(np.argmin(errors)))
        assert min(errors) < 1e-5
    assert len(offsets) > 8  # of eleven positions


def test_a_ramp_stays_a_ramp_with_the_slope_of_the_drawn_size():
    """Cubic interpolation reproduces linear functions away from the borders; its anti-aliasing ripples by 3 %."""
    x = jnp.broadcast_to(jnp.arange(100, dtype=jnp.float32)[:, None] + 1000.0, (100, 16))
    crop = jax.jit(lambda key: byol_a.random_resize_crop(key, x, 0.6, 1.5))
    slopes = []
    for seed in range(40):
        result = np.asarray(crop(jax.random.key(seed)))[:, 8]
        inside = result[result > 999.0]  # without the padding
        middle = np.diff(inside[10:-10])
        if len(middle) > 10:
            np.testing.assert_allclose(middle, middle.mean(), rtol=0.05)
            slopes.append(middle.mean())
    assert len(slopes) > 20 and 0.55 < min(slopes) < 0.8 and 1.2 < max(slopes) < 1.55


@pytest.mark.slow
def test_the_loss_is_the_formula_and_its_gradient_ignores_the_target(config, noise_clips):
    model, objective, variables = create(config)
    # Predictor and target network differ, as they do in training.
    target = jax.tree.map(lambda p: p + 0.01, {name: variables["params"][name] for name in ("encoder", "projector")})
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((4, 2, *model.frontend(jnp.zeros((1, 8000))).shape[1:])).astype(np.float32)
    keys = Keys(jax.random.key(1), jax.random.key(2))

    def run(params, carry):
        call = jax.vmap(
            lambda x: objective.loss({"params": params, "batch_stats": variables["batch_stats"]}, carry, None, x, keys),
            axis_name=devices.AXIS,
        )
        return jax.tree.map(lambda x: x[0], call(jnp.asarray(inputs)[None]))

    output = run(variables["params"], target)
    apply = {"train": True, "mutable": ["batch_stats"]}
    batch = jax.vmap(
        lambda x, method, params: objective.module.apply(
            {"params": params, "batch_stats": variables["batch_stats"]}, x, method=method, **apply
        )[0],
        axis_name=devices.AXIS, in_axes=(0, None, None),
    )  # fmt: skip
    flat = jnp.asarray(inputs).reshape(1, 8, *inputs.shape[2:])
    q = np.asarray(batch(flat, "__call__", variables["params"])[0], np.float64)
    z = np.asarray(batch(flat, "project", target)[0], np.float64)
    q, z = (v / np.linalg.norm(v, axis=-1, keepdims=True) for v in (q, z))
    for row in range(4):
        expected = sum(np.square(q[2 * row + a] - z[2 * row + 1 - a]).sum() for a in (0, 1)) / 2
        np.testing.assert_allclose(output.loss[row], expected, rtol=1e-4)
    slope = jax.grad(lambda carry: run(variables["params"], carry).loss.sum())(target)
    assert not any(np.asarray(leaf).any() for leaf in jax.tree.leaves(slope))


@pytest.mark.extended
def test_the_target_network_is_the_moving_average_of_the_online_network(config, noise_clips):
    _, objective, variables = create(config)
    optimizer = optim.build(config.pretrain.optim, variables["params"], total=3, per_epoch=3)
    state = states.create(variables, optimizer, ema=False, carry=objective.init_carry(variables))
    expected = jax.tree.map(np.array, state.carry)
    step = devices.pmap_step(steps.train_step(objective, optimizer, config.pretrain.optim), 1)
    state = devices.replicate(state, 1)
    for batch, _ in zip(pipeline.train_batches(noise_clips, range(12), 8, seed=0), range(3), strict=False):
        state, _ = step(state, batch)
        online = {name: state.params[name] for name in expected}
        expected = jax.tree.map(lambda t, o: 0.9 * t + 0.1 * np.asarray(o), expected, online)
    for ours, loop in zip(jax.tree.leaves(state.carry), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, loop, rtol=1e-5, atol=1e-7)


@pytest.mark.extended
def test_any_number_of_devices_gives_the_same_run(config, noise_clips):
    # Adam's first steps are the sign of the gradient, so rounding grows with the learning rate.
    config.pretrain.optim.lr = 1e-4
    _, one = train(config, noise_clips, 6)
    _, four = train(config, noise_clips, 6, 4)
    for key in ("loss", "cosine", "projection_spread"):
        # Sums over the batch are taken in another order.
        np.testing.assert_allclose([line[key] for line in one], [line[key] for line in four], rtol=2e-4, atol=1e-5)


@pytest.mark.extended
def test_training_brings_predictions_and_targets_together(config, noise_clips):
    _, history = train(config, noise_clips, 30)
    assert np.mean([line["cosine"] for line in history[-5:]]) > np.mean([line["cosine"] for line in history[:5]]) + 0.2


def test_impossible_settings_are_refused(config):
    configs.check(config)
    config.pretrain.update(crop_min=1.2, crop_max=0.8)
    with pytest.raises(ConfigError, match="crop_min=1.2 is above config.pretrain.crop_max=0.8"):
        configs.check(config)
    config.pretrain.update(crop_min=0.6, crop_max=1.5, momentum=1.5)
    with pytest.raises(ConfigError, match="momentum=1.5 is out of range"):
        configs.check(config)


@pytest.mark.parametrize("name", ["log_mel", "efficientat_mel", "kaldi_fbank"])
def test_the_scale_is_that_of_the_logarithm(name):
    """Twice the amplitude is ln 4 in the logarithm of a power."""
    frontend = frontends.build(frontends.defaults(name), 16_000 if name == "kaldi_fbank" else 32_000)
    audio = jnp.asarray(np.random.default_rng(0).standard_normal((1, 16_000)) * 0.1, jnp.float32)
    difference = np.asarray(frontend(2.0 * audio) - frontend(audio))
    np.testing.assert_allclose(np.median(difference), np.log(4.0) / frontend.log_scale, rtol=1e-3)


def test_a_frontend_without_a_logarithm_is_refused(config):
    with config.unlocked():
        config.frontend = frontends.defaults("raw")
    with pytest.raises(ConfigError, match="frontend.name=raw: config.pretrain.objective=byol_a mixes logarithmic"):
        byol_a.ByolA.check(config)


@pytest.mark.slow
def test_a_collapse_is_reported(config):
    _, objective, _ = create(config)
    assert "collapsed" in objective.advice({"projection_spread": 0.01})
    assert not objective.advice({"projection_spread": 0.9})
