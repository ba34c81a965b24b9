"""The training step: the same numbers on any number of devices, and its parts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax import config as configs
from esc_jax.data import pipeline
from esc_jax.models import model as models
from esc_jax.objectives.base import LossOutput
from esc_jax.objectives.supervised import Supervised
from esc_jax.runtime import devices
from esc_jax.tasks import registry as tasks
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps
from tests.training import helpers


@pytest.fixture
def config():
    """A small CNN with all augmentations, an average of the weights and clipping."""
    config = helpers.resnet()
    config.model.head.dropout = 0.3
    config.augment.update(
        roll=1.0, crop_s=0.4, speed_octaves=0.2, gain_db=6.0, noise=0.1, mixup_alpha=0.5, frequency_warp=0.1,
        time_mask=4, freq_mask=4,
    )  # fmt: skip
    config.train.update(batch_size=8, ema=0.9, label_smoothing=0.1)
    config.optim.clip_norm = 1.0
    return config


@pytest.mark.slow
@pytest.mark.parametrize("mixup_on", ["waveform", pytest.param("spectrogram", marks=pytest.mark.extended)])
def test_any_number_of_devices_gives_the_same_run(config, noise_clips, mixup_on):
    config.augment.mixup_on = mixup_on
    _, state_one, one = helpers.train(config, noise_clips, 20)
    _, state, other = helpers.train(config, noise_clips, 20, 4)
    # Sums over the batch have another order: rounding errors grow with every step.
    np.testing.assert_allclose(one, other, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(state_one.ema), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)
    assert len(set(one)) == 20


@pytest.mark.extended
def test_every_augmentation_draws_the_same_on_any_number_of_devices(config, noise_clips):
    """Resampling for the batch and mixing of statistics across the batch included; and stochastic depth."""
    config.augment.update(
        resample=(0.8, 1.25), resample_probability=0.7, flip_sign=0.5, equalizer_bands=2, wave_mask=0.1,
        color_noise=("pink", "violet"), color_noise_snr_min=0.0, color_noise_snr_max=10.0, freq_mixstyle_alpha=0.5,
        filter_db=6.0, filter_bands_min=2, filter_bands_max=3, filter_narrowest=3,
    )  # fmt: skip
    config.model.encoder.drop_path = 0.4
    config.model.head.pooling = "attention"
    _, _, one = helpers.train(config, noise_clips, 4)
    _, _, other = helpers.train(config, noise_clips, 4, 4)
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert np.isfinite(one).all() and len(set(one)) == 4


@pytest.mark.slow
@pytest.mark.parametrize(("loss", "task"), [("binary", "single_label"), ("task", "multi_label")])
def test_binary_targets_are_not_smoothed(config, loss, task):
    config.train.loss = loss
    config.augment.mixup_alpha = 0.0
    task = tasks.get(task)
    labels = np.arange(4) if task.name == "single_label" else np.eye(4, 3, dtype=bool)
    batch = {"audio": np.ones((4, 8000), np.int16), "label": labels}
    objective = Supervised(config, models.abstract(config, "abcd" if labels.ndim == 1 else "abc")[0], task)
    examples = objective.inputs(None, jax.random.key(0), batch)
    np.testing.assert_array_equal(examples.targets, np.eye(4)[:, : 4 if labels.ndim == 1 else 3])


@pytest.mark.slow
def test_groups_freeze_parameters_and_scale_their_learning_rate(config, noise_clips):
    config.optim.groups = (("encoder/stem/.*", 0.0), ("encoder/.*", 0.01))
    before, state, _ = helpers.train(config, noise_clips, 3)

    def change(path):
        one, other = before["params"], state.params
        for key in path.split("/"):
            one, other = one[key], other[key]
        return float(jnp.abs(one - other).max())

    assert change("encoder/stem/kernel") == 0.0
    assert 0 < change("encoder/stage1_block1/conv1/kernel") < 0.05 * change("head/classifier/kernel")


def test_a_group_that_matches_nothing_is_an_error(config):
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
    rate = optim.schedule(config.optim, 20, 5)
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


def test_one_program_serves_trainings_of_any_length(config, noise_clips):
    """The text of the compiled step does not depend on the number of epochs, and the schedule does."""
    config.optim.update(schedule="one_cycle", groups=(("encoder/.*", 0.1),))
    model = models.create(config, noise_clips.classes)
    objective = Supervised(config, model, tasks.get("single_label"))
    batch = pipeline.read_rows(noise_clips, range(4))
    texts, rates = [], []
    for total in (40, 4000):
        optimizer = optim.build(config.optim, model.variables["params"], total, 20)
        state = states.create(model.variables, optimizer, ema=False)
        step = steps.train_step(objective, optimizer, config.optim)
        arguments = jax.tree.map(lambda x: x[None], (state, batch))
        texts.append(jax.jit(jax.vmap(step, axis_name=devices.AXIS)).lower(*arguments).as_text())
        rates.append(float(optim.schedule(config.optim, total, 20)(jnp.int32(20))))
    assert texts[0] == texts[1] and rates[0] != rates[1]


@pytest.mark.parametrize("count_devices", [1, 4])
def test_sharpness_aware_steps_follow_the_definition(count_devices):
    """On ½ Σ λ (w − x)², whose gradient is λ (w − mean x): the gradient of the step is taken at w + ρ g/‖g‖."""
    curvature, start, x = np.array([1.0, 4.0, 9.0]), np.array([3.0, -2.0, 1.0]), np.arange(8.0)
    config = configs.defaults("resnet").optim
    config.update(sam_rho=0.5, groups=(("frozen", 0.0),))

    class Quadratic:
        def inputs(self, constants, key, batch):
            return batch["x"]

        def loss(self, variables, carry, constants, inputs, keys):
            w = variables["params"]["w"] + variables["params"]["frozen"]
            each = 0.5 * (jnp.float32(curvature)[None] * (w[None] - inputs[:, None]) ** 2).sum(-1)
            return LossOutput(each, {}, {})

        def summarize(self, metrics):
            return metrics

        def after_step(self, carry, params, step, outputs):
            return carry

    params = {"w": jnp.float32(start), "frozen": jnp.zeros(3)}
    optimizer = optax.sgd(0.1)
    state = states.create({"params": params, "batch_stats": {}}, optimizer, ema=False)
    step = devices.pmap_step(steps.train_step(Quadratic(), optimizer, config), count_devices)
    state, metrics = step(devices.replicate(state, count_devices), {"x": np.float32(x)})
    g = curvature * (start - x.mean())
    expected = curvature * (start + 0.5 * g / np.linalg.norm(g) - x.mean())
    np.testing.assert_allclose(state.params["w"], start - 0.1 * expected, rtol=1e-6)
    np.testing.assert_array_equal(state.params["frozen"], 0.0)
    losses = [0.5 * (curvature * (start - value) ** 2).sum() for value in x]
    np.testing.assert_allclose(metrics["loss"], np.mean(losses), rtol=1e-6)


def test_the_learning_rate_grows_with_the_batch(config):
    config.optim.update(lr=0.01, lr_examples=32, schedule="constant", warmup_percent=0.0)
    for batch_size, expected in ((32, 0.01), (256, 0.08), (8, 0.0025)):
        scaled = optim.for_batch(config.optim, batch_size)
        assert float(optim.schedule(scaled, 10, 5)(jnp.int32(3))) == pytest.approx(expected)
    assert config.optim.lr == 0.01
    config.optim.lr_examples = 0
    assert optim.for_batch(config.optim, 256).lr == 0.01


def test_average_of_weights_equals_a_loop():
    rng = np.random.default_rng(0)
    values = rng.standard_normal(30).astype(np.float32)
    average, expected = {"w": jnp.float32(0)}, 0.0
    for step, value in enumerate(values):
        average = states.update_ema(average, {"w": value}, jnp.int32(step), 0.8)
        d = min(0.8, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * value
    np.testing.assert_allclose(average["w"], expected, rtol=1e-5)


def shorten(clips):
    """The clips cut to 0.1 to 0.5 s, in batches with a padding mask."""
    lengths = np.random.default_rng(5).integers(1600, 8001, len(clips))
    lengths[3] = clips.length
    return dataclasses.replace(clips, samples=lengths, fetch=lambda i: clips.fetch(i)[: lengths[i]], mask_padding=True)


@pytest.fixture
def hubert():
    """A config of a model with a padding mask, with mixing and rotation."""
    config = helpers.hubert()
    config.augment.update(roll=1.0, gain_db=6.0, noise=0.1, mixup_alpha=0.5, mixup_probability=0.7)
    config.optim.clip_norm = 1.0
    return config


@pytest.mark.slow
@pytest.mark.parametrize("mixup_on", ["waveform", "spectrogram"])
def test_a_mixture_ends_with_the_longer_of_its_clips(hubert, noise_clips, mixup_on):
    """The targets show which clips are mixed: every clip has a class of its own."""
    hubert.augment.mixup_on = mixup_on
    hubert.augment.noise = 0.0
    clips = shorten(noise_clips)
    batch = {"audio": clips.read(range(8)), "label": np.arange(8), "samples": clips.valid(range(8))}
    objective = Supervised(hubert, models.create(hubert, "abcdefgh"), tasks.get("single_label"))
    mapped = jax.vmap(lambda batch: objective.inputs(None, jax.random.key(1), batch), axis_name=devices.AXIS)
    examples = jax.tree.map(lambda x: np.asarray(x)[0], mapped(jax.tree.map(lambda x: x[None], batch)))
    mixed = 0
    for features, target, padding in zip(*examples, strict=True):
        partners = np.flatnonzero(target)
        mixed += len(partners) == 2
        end = batch["samples"][partners].max()
        np.testing.assert_array_equal(padding, np.arange(8000) >= end)
        assert not features[end:].any() and (features[:end] != 0).mean() > 0.99
    assert 0 < mixed < 8


@pytest.mark.extended
def test_the_padding_mask_changes_training_and_the_number_of_devices_does_not(hubert, noise_clips):
    clips = shorten(noise_clips)
    _, _, one = helpers.train(hubert, clips, 6)
    hubert.train.accumulate = 2
    _, _, parts = helpers.train(hubert, clips, 6, 2)
    _, _, unmasked = helpers.train(hubert, dataclasses.replace(clips, mask_padding=False), 6)
    # Sums over the batch have another order.
    np.testing.assert_allclose(parts, one, rtol=1e-5)
    assert np.abs(np.subtract(unmasked, one)).max() > 1e-3


@pytest.mark.slow
def test_predictions_do_not_depend_on_what_is_in_the_padding(hubert, noise_clips):
    """In all steps that predict, and every view is the prediction of that view alone."""
    model = models.create(hubert, noise_clips.classes)
    task = tasks.get("single_label")
    clips = shorten(noise_clips)
    quiet, samples = clips.read(range(4)), clips.valid(range(4))
    loud = np.where(np.arange(8000) < samples[:, None], quiet, noise_clips.read(range(4, 8)))
    rotated = np.stack([np.concatenate([np.roll(x[:n], n // 3), x[n:]]) for x, n in zip(quiet, samples, strict=True)])

    def predict_step(model, views=1):
        return steps.predict_step(model, task, views)

    for make_step in (steps.logits_step, predict_step, steps.embed_step):
        step = make_step(model, 3)
        output = step(model.variables, quiet, samples)
        assert output.shape[:2] == (3, 4)
        np.testing.assert_array_equal(output, step(model.variables, loud, samples))
        assert np.abs(output - step(model.variables, quiet)).max() > 1e-4
        # One program has three views, the other has one.
        np.testing.assert_allclose(output[1], make_step(model)(model.variables, rotated, samples)[0], atol=1e-5)


def test_probabilities_are_the_activation_of_the_logits(config, noise_clips):
    model, task = models.create(config, noise_clips.classes), tasks.get("single_label")
    audio = noise_clips.read(range(4))
    logits = steps.logits_step(model, 2)(model.variables, audio)
    probabilities = steps.predict_step(model, task, 2)(model.variables, audio)
    np.testing.assert_allclose(probabilities, task.probabilities(logits), rtol=1e-5)


@pytest.mark.parametrize("name", ["config", "hubert"])
def test_logits_and_embeddings_of_one_pass_are_those_of_two(request, noise_clips, name):
    model = models.create(request.getfixturevalue(name), noise_clips.classes)
    clips = shorten(noise_clips)
    inputs = (clips.read(range(4)), clips.valid(range(4)))[: 1 + model.mask_padding]
    logits, embeddings = steps.outputs_step(model)(model.variables, *inputs)
    np.testing.assert_array_equal(logits, steps.logits_step(model)(model.variables, *inputs))
    np.testing.assert_array_equal(embeddings, steps.embed_step(model)(model.variables, *inputs))
