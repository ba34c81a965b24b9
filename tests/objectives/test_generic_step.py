"""The generic training step with an objective that is defined here, against a plain loop with optax; the same numbers
on any number of devices for all objectives."""

import types
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax import config as configs
from esc_jax.augment import draws
from esc_jax.models import heads
from esc_jax.models import model as models
from esc_jax.models.encoder import Classifier, Encoded
from esc_jax.models.model import Model
from esc_jax.objectives import registry
from esc_jax.objectives.base import LossOutput, Objective, to_float
from esc_jax.objectives.masked import Masked, patch_grid
from esc_jax.objectives.simclr import SimCLR
from esc_jax.runtime import devices
from esc_jax.tokenizers.kmeans import Codebook
from esc_jax.tokenizers.targets import Targets
from esc_jax.training import optim
from esc_jax.training import state as states
from tests.training import helpers

DECAY = 0.8


class Pool(nn.Module):
    """An encoder: a linear layer on the mean of the frames."""

    @nn.compact
    def __call__(self, features: jax.Array, *, train: bool = False, padding: Any = None) -> Encoded:
        return Encoded(nn.Dense(3)(features.mean(1)), features)


def frames(audio: jax.Array, padding: Any = None) -> jax.Array:
    """(B, time) → (B, frames, 4)."""
    return audio.reshape(len(audio), -1, 4)


class Level(Objective):
    """Predicts a number of each clip, and embeds it as a slowly changing copy of the encoder does.

    (f(x) − y)² + w ‖e(x) − e'(x)‖²,   e' with the exponential moving average of the encoder's parameters

    A queue has the numbers of the last two batches.
    """

    name = "level"
    ranges = {"target_weight": (0, 10)}

    def __init__(self, config: Any, model: Model):
        self.module = Classifier(model.module.encoder, heads.Linear(classes=1))
        self.constants = {"noise": jnp.float32(0.01)}
        self._weight = config.target_weight
        self._model = model

    @staticmethod
    def defaults() -> dict[str, Any]:
        return {"target_weight": 0.5}

    @classmethod
    def create(cls, context):
        return cls(context.config.pretrain, context.model)

    def init_carry(self, variables):
        return {
            "encoder": jax.tree.map(jnp.copy, variables["params"]["encoder"]),
            "steps": jnp.int32(0),
            "queue": jnp.zeros(16),
        }

    def inputs(self, constants, key, batch):
        audio = to_float(batch["audio"])
        keys = draws.keys_at(key, devices.example_positions(len(audio)))
        noise = jax.vmap(lambda key: jax.random.normal(key, audio.shape[1:]))(keys)
        level = jnp.sqrt(jnp.square(audio).mean(-1))
        return self._model.frontend(audio + constants["noise"] * noise), 10.0 * level + batch["label"].astype(
            jnp.float32
        )

    def loss(self, variables, carry, constants, inputs, keys):
        x, y = inputs
        target = self.module.apply({"params": {"encoder": carry["encoder"]}}, x, method="encode").embedding
        embedding = self.module.apply(variables, x, method="encode").embedding
        error = self.module.apply(variables, x, train=True, rngs=keys.rngs())[:, 0] - y
        distance = jnp.square(embedding - target)
        metrics = {"error": error**2, "distance": distance}  # one value and three values of each example
        return LossOutput(error**2 + self._weight * distance.sum(-1), metrics, variables["batch_stats"], {"y": y})

    def after_step(self, carry, params, step, outputs):
        encoder = optax.incremental_update(params["encoder"], carry["encoder"], 1.0 - DECAY)
        return {"encoder": encoder, "steps": step, "queue": jnp.concatenate([outputs["y"], carry["queue"]])[:16]}

    def summarize(self, metrics):
        return metrics | {"rmse": jnp.sqrt(metrics["error"])}


@pytest.fixture
def level():
    """The objective on a linear model of the waveform."""
    model = Model(Classifier(Pool(), heads.Linear(classes=3)), frames, {}, tuple("abc"), 16_000, 0.5)
    return Level(types.SimpleNamespace(**Level.defaults()), model)


@pytest.fixture
def start(level):
    """Variables to start from."""
    params = level.module.init(jax.random.key(0), jnp.zeros((1, 2000, 4)))["params"]
    return {"params": jax.tree.map(np.asarray, params), "batch_stats": {}}


def by_hand(objective, optimizer, start, batches, seed):
    """Parameters, moving average, carry and metrics of whole batches without any of the step's machinery."""
    params, opt_state = start["params"], optimizer.init(start["params"])
    average, carry, lines = params, {"encoder": params["encoder"], "steps": 0, "queue": np.zeros(16)}, []

    def loss(params, x, y):
        def embed(encoder):
            kernel, bias = encoder["Dense_0"]["kernel"], encoder["Dense_0"]["bias"]
            return jnp.einsum("bfi,io->bo", x, kernel) / x.shape[1] + bias[None]

        head = params["head"]["classifier"]
        z, target = embed(params["encoder"]), embed(carry["encoder"])
        errors, distances = (z @ head["kernel"] + head["bias"][None])[:, 0] - y, (z - target) ** 2
        metrics = {"error": (errors**2).mean(), "distance": distances.mean()}
        return (errors**2).mean() + 0.5 * distances.sum(1).mean(), metrics

    for number, batch in enumerate(batches):
        key = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))[0]
        audio = batch["audio"].astype(np.float32) / 32768
        noise = np.stack([jax.random.normal(jax.random.fold_in(key, i), (8000,)) for i in range(len(audio))])
        y = 10 * np.sqrt((audio**2).mean(1)) + batch["label"].astype(np.float32)
        (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(params, frames(audio + 0.01 * noise), y)
        lines.append({"loss": value, "rmse": jnp.sqrt(metrics["error"]), "grad_norm": optax.global_norm(grads)})
        lines[-1] |= metrics
        updates, opt_state = optimizer.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        decay = min(0.9, (1 + number) / (10 + number))
        average = jax.tree.map(lambda a, p, d=decay: d * a + (1 - d) * p, average, params)
        encoder = jax.tree.map(lambda a, p: DECAY * a + (1 - DECAY) * p, carry["encoder"], params["encoder"])
        queue = np.concatenate([y, carry["queue"]])[:16]
        carry = {"encoder": encoder, "steps": number + 1, "queue": queue}
    return params, average, carry, lines


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (4, 1), (1, 4), (2, 2)])
def test_the_step_equals_a_loop_with_optax(level, start, noise_clips, count, accumulate):
    optimizer, optim_config, steps = optax.sgd(0.1, momentum=0.5), configs.defaults("resnet").optim, 5
    state = states.create(jax.tree.map(np.array, start), optimizer, ema=True, seed=3, carry=level.init_carry(start))
    state, lines = helpers.run_steps(
        level, optimizer, optim_config, state, noise_clips, steps, count, ema=0.9, accumulate=accumulate
    )
    batches = helpers.pipeline.train_batches(noise_clips, range(12), 8, seed=0)
    params, average, carry, expected = by_hand(level, optimizer, start, [next(batches) for _ in range(steps)], 3)
    assert int(state.step) == steps
    pairs = ((state.params, params), (state.ema["params"], average), (state.carry, carry))
    for one, other in pairs:
        assert jax.tree.structure(one) == jax.tree.structure(other)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for line, values in zip(lines, expected, strict=True):
        assert line.keys() == values.keys()
        for name, value in values.items():
            np.testing.assert_allclose(line[name], value, rtol=1e-4, atol=1e-9, err_msg=name)
    assert lines[0]["distance"] == 0 < lines[1]["distance"]  # the average starts as a copy


def test_frozen_parameters_of_any_objective_keep_their_bits(level, start, noise_clips):
    config = configs.defaults("resnet").optim
    config.groups = (("encoder/.*", 0.0),)
    optimizer = optim.build(config, start["params"], total=3, per_epoch=3)
    state = states.create(jax.tree.map(np.array, start), optimizer, ema=False, carry=level.init_carry(start))
    state, _ = helpers.run_steps(level, optimizer, config, state, noise_clips, 3)
    jax.tree.map(np.testing.assert_array_equal, state.params["encoder"], start["params"]["encoder"])
    assert np.abs(state.params["head"]["classifier"]["kernel"] - start["params"]["head"]["classifier"]["kernel"]).max()


def small_config(objective, **changes):
    """A config of a small CNN or patch transformer with a self-supervised stage."""
    model = "resnet" if objective == "simclr" else "patch_transformer"
    config = configs.defaults(model)
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.frontend.update(n_fft=512, hop=256, mels=16)
    if model == "resnet":
        config.model.encoder.update(stage_sizes=(1, 1), width=8)
    else:
        config.model.encoder.update(patch=8, stride=4, layers=1, width=16, heads=2, ffn=16, table=(4, 2))
        config.model.encoder.update(drop_path=0.5, dropout=0.1, patchout=0.0)
    config.pretrain = configs.pretrain_defaults(objective)
    config.pretrain.update({"batch_size": 8, "background_mix": 0.3} | changes)
    config.pretrain.augment.update(crop_s=0.4, speed_octaves=0.1, gain_db=6.0)
    return config


def simclr(model, config):
    config.pretrain.update(projection_dim=8, projection_hidden=16)
    config.pretrain.augment.freq_mask = 3
    return SimCLR(config.pretrain, model)


def masked(model, config):
    config.pretrain.update(patch_size=8, clusters=6)
    return masked_objective(model, config)


def visible(model, config):
    """The encoder sees the visible patches only, one of six."""
    config.pretrain.update(patch_size=8, clusters=6, mask_ratio=0.8, predictor_layers=1, clip_loss_weight=2.0)
    return masked_objective(model, config)


def masked_objective(model, config):
    centroids = np.random.default_rng(0).standard_normal((6, 64)).astype(np.float32)
    grid = patch_grid(model, 8, config.pretrain.augment.crop_s)
    return Masked(config.pretrain, model, Targets(8), {}, Codebook(centroids, 0.0, 0.0, 6, 0), grid)


@pytest.mark.parametrize(
    "build", [pytest.param(simclr, marks=pytest.mark.extended), pytest.param(visible, marks=pytest.mark.extended)]
)
def test_self_supervised_steps_are_the_same_on_any_number_of_devices(noise_clips, build):
    config = small_config("simclr" if build is simclr else "masked")
    if build is visible:
        config.model.encoder.update(stride=8, dropout=0.0)
    model = models.create(config, noise_clips.classes)
    objective = build(model, config)
    variables = jax.jit(objective.init)(jax.random.key(0), model.frontend(jnp.zeros((1, 6400))))
    variables = jax.tree.map(
        np.asarray, {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}
    )
    optimizer = optim.build(config.pretrain.optim, variables["params"], 20, 1)
    runs = []
    for count in (1, 4):
        state = states.create(jax.tree.map(np.array, variables), optimizer, ema=False)
        _, lines = helpers.run_steps(objective, optimizer, config.pretrain.optim, state, noise_clips, 20, count)
        runs.append([[line[name] for name in sorted(line)] for line in lines])
    # Sums over the batch have another order: rounding errors grow with every step.
    np.testing.assert_allclose(runs[1], runs[0], rtol=2e-5)
    assert len({line["loss"] for line in lines}) == 20
    expected = {
        simclr: {"pretext_accuracy", "alignment", "uniformity"},
        visible: {"pretext_accuracy", "token_loss", "clip_error"},
    }
    assert lines[0].keys() == {"loss", "grad_norm"} | expected[build]
    if build is visible:
        weighted = [line["token_loss"] + 2.0 * line["clip_error"] for line in lines]
        np.testing.assert_allclose([line["loss"] for line in lines], weighted, rtol=1e-5)


def test_tokens_for_pictures_follow_the_constants(noise_clips):
    """Constants are arguments: a teacher's weights inside the program would be compiled into it."""
    config = small_config("masked")
    objective = masked(models.create(config, noise_clips.classes), config)
    audio = noise_clips.read(range(3))
    features, tokens = jax.jit(objective.tokens)(objective.constants, audio)
    assert features.shape == (3, *features.shape[1:]) and tokens.shape == (3, features.shape[1] // 8, 2)
    vectors = np.asarray(features)[:, : tokens.shape[1] * 8].reshape(3, -1, 8, 2, 8).swapaxes(2, 3).reshape(-1, 1, 64)
    distances = ((vectors - np.asarray(objective.constants["centroids"])) ** 2).sum(-1)
    assert (distances.argmin(-1) == np.asarray(tokens).reshape(-1)).mean() > 0.99
    reverse = objective.constants | {"centroids": objective.constants["centroids"][::-1]}
    np.testing.assert_array_equal(jax.jit(objective.tokens)(reverse, audio)[1], 5 - tokens)


def test_defaults_of_every_objective_are_in_range():
    for name, objective in registry.PRETRAINING.items():
        assert objective.name == name
        keys = objective.defaults()
        assert set(objective.ranges) | set(objective.choices) <= set(keys)
        for key, (low, high) in objective.ranges.items():
            assert low <= keys[key] <= high, (name, key)
        for key, allowed in objective.choices.items():
            assert keys[key] in allowed
