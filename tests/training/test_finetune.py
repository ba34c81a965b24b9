"""Fine-tuning options of a training step: frozen parts, learning rates by layer, unfreezing, accumulation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax.models import model as models
from esc_jax.objectives.supervised import Examples, Supervised
from esc_jax.runtime import devices
from esc_jax.tasks import registry as tasks
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps
from tests.training import helpers


def resnet():
    config = helpers.resnet()
    config.model.encoder.zero_init = False
    config.train.update(batch_size=8, ema=0.9)
    return config


def largest_changes(before, after):
    """Largest change by path, of parameters or statistics."""
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {optim.path_of(path): float(np.abs(old - new).max()) for (path, old), new in pairs}


def test_a_frozen_part_keeps_its_bits_with_its_statistics_and_average(noise_clips):
    config = resnet()
    config.optim.groups = (("encoder/(stem|bn_stem|stage1).*", 0.0),)
    before, state, _ = helpers.train(config, noise_clips, 3)
    for kind, now in (("params", state.params), ("batch_stats", state.batch_stats)):
        for changes in (largest_changes(before[kind], now), largest_changes(before[kind], state.ema[kind])):
            for path, change in changes.items():
                frozen = path.startswith(("encoder/stem", "encoder/bn_stem", "encoder/stage1"))
                assert (change == 0) == frozen, (kind, path, change)


class FixedInputs(Supervised):
    """Supervised learning on given features."""

    def inputs(self, constants, key, batch):
        return Examples(batch["features"], jax.nn.one_hot(batch["label"], len(self._model.classes)), None)


@pytest.mark.extended
def test_a_frozen_layer_has_no_dropout(noise_clips):
    config = helpers.hubert()
    model = models.create(config, noise_clips.classes)
    features = model.frontend(jnp.asarray(noise_clips.read(range(4)), jnp.float32))
    batch = {"features": features[None], "label": jnp.arange(4)[None] % 3}

    def losses(pattern, groups):
        """Of the same weights and examples with the dropout of two steps."""
        config.optim.groups = groups
        objective = FixedInputs(config, model, tasks.get("single_label"))
        optimizer = optax.identity()  # the loss is that before the step
        step = jax.vmap(steps.train_step(objective, optimizer, config.optim, eval_mode=pattern), axis_name=devices.AXIS)
        state = states.create(model.variables, optimizer, ema=False)
        stacked = [jax.tree.map(lambda x: x[None], state.replace(step=jnp.int32(number))) for number in (1, 2)]
        return [float(jax.jit(step)(state, batch)[1]["loss"][0]) for state in stacked]

    plain = losses("", ())
    assert plain[0] != plain[1]
    assert len(set(losses("encoder", ()))) == 1
    assert len(set(losses("", (("encoder/.*", 0.0),)))) == 1
    assert len(set(losses("encoder/layer_.", ()))) == 2  # dropout before the layers remains


def test_modules_in_eval_mode_train_their_parameters_on_running_statistics(noise_clips):
    config = resnet()
    config.model.eval_mode = "encoder/.*bn.*|encoder/.*norm"
    before, state, _ = helpers.train(config, noise_clips, 3)
    assert set(largest_changes(before["batch_stats"], state.batch_stats).values()) == {0.0}
    assert min(largest_changes(before["params"], state.params).values()) > 0


def test_layer_factors_fall_from_the_head_to_the_input():
    params = {
        "head": {"kernel": 0},
        "encoder": {"stem": {"kernel": 0}, "norm": 0, "block2": {"a": 0}, "block10": {"a": 0}, "last": {"b": 0}},
    }
    assert optim.layer_factors(params, 0.5) == {
        "head": {"kernel": 1.0},
        "encoder": {
            "stem": {"kernel": 0.5**4}, "norm": 0.5**4, "block2": {"a": 0.5**3}, "block10": {"a": 0.5**2},
            "last": {"b": 0.5},
        },
    }  # fmt: skip


def test_layers_are_nearer_to_the_head_than_stages():
    params = {"encoder": {"stage10_block1": 0, "stage2_block3": 0, "layer_0": 0, "layer_1": 0}}
    factors = {"stage2_block3": 0.5**4, "stage10_block1": 0.5**3, "layer_0": 0.5**2, "layer_1": 0.5}
    assert optim.layer_factors(params, 0.5) == {"encoder": factors}


def test_layer_decay_and_groups_multiply(noise_clips):
    """Adam's first step is the learning rate times the sign of the gradient, for gradients of any size."""
    config = resnet()
    config.optim.update(schedule="constant", warmup_percent=-1.0, weight_decay=0.0, lr=1e-3, layer_decay=0.5)
    config.optim.groups = (("encoder/stage2.*", 0.1),)
    before, state, _ = helpers.train(config, noise_clips, 1)
    changes = largest_changes(before["params"], state.params)
    for path, factor in (("head/classifier/kernel", 1), ("encoder/stage2_block1/conv1/kernel", 0.05),
                         ("encoder/stage1_block1/conv1/kernel", 0.25), ("encoder/stem/kernel", 0.125)):  # fmt: skip
        assert changes[path] == pytest.approx(1e-3 * factor, rel=1e-2), path


@pytest.mark.slow
def test_parameters_are_unfrozen_after_their_epochs(noise_clips):
    config = resnet()
    config.optim.update(schedule="constant", warmup_percent=-1.0, lr=1e-2)
    config.optim.unfreeze = (("encoder/stem/.*", 1.0), ("encoder/.*", 2.0))
    for count, unfrozen in ((2, ()), (4, ("encoder/stem/kernel",)), (5, None)):  # two steps are an epoch
        before, state, _ = helpers.train(config, noise_clips, count)
        for path, change in largest_changes(before["params"], state.params).items():
            expected = path.startswith("head") or unfrozen is None or path in unfrozen
            assert (change > 0) == expected, (count, path)


@pytest.mark.slow
@pytest.mark.parametrize(("parts", "count"), [(2, 2), pytest.param(4, 1, marks=pytest.mark.extended)])
def test_accumulated_gradients_are_those_of_the_whole_batch(noise_clips, parts, count):
    config = helpers.hubert()  # its dropout is the same for an example in any part
    config.model.encoder.update(hidden_dropout=0.2, attention_dropout=0.1, activation_dropout=0.1, layerdrop=0.3)
    _, whole, losses = helpers.train(config, noise_clips, 3)
    config.train.accumulate = parts
    _, state, accumulated = helpers.train(config, noise_clips, 3, count)
    np.testing.assert_allclose(accumulated, losses, rtol=1e-5)  # sums in another order
    # Adam divides by the root of a mean of squares, which is nearly 0 for some weights.
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(state.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_interpolation_of_weights():
    start, end = {"w": np.array([1.0, 2.0], np.float32)}, {"w": np.array([3.0, 2.0], np.float32)}
    mean = states.interpolate(start, 0.75, end)
    np.testing.assert_array_equal(mean["w"], [2.5, 2.0])  # a quarter of the start; equal weights keep their bits
    for ema in (None, {"params": end, "batch_stats": {}}):
        state = states.TrainState(jnp.int32(3), jnp.int32(0), end, {}, (), ema).with_weights(
            {"params": mean, "batch_stats": {}}
        )
        np.testing.assert_array_equal(state.weights()["params"]["w"], mean["w"])
