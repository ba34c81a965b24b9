"""What fine-tuning freezes, slows down, opens late or takes in parts, on one training step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax import build
from esc_jax import config as configs
from esc_jax.runtime import devices
from esc_jax.training import optim
from esc_jax.training import state as states
from esc_jax.training import step as steps
from tests.training import few


def resnet():
    config = configs.defaults("resnet")
    config.data.update(sample_rate=16_000, clip_s=0.5)
    config.frontend.update(n_fft=512, hop=256, mels=16)
    config.model.encoder.update(stage_sizes=(1, 1), width=8, zero_init=False)
    config.train.update(batch_size=8, ema=0.9)
    return config


def moved(before, after):
    """Largest change by path, over parameters or statistics."""
    flat = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    return {optim.path_of(path): float(np.abs(old - new).max()) for (path, old), new in flat}


def test_frozen_is_frozen_to_the_bit_statistics_and_average_included(noise_clips):
    config = resnet()
    config.optim.groups = (("encoder/(stem|bn_stem|stage1).*", 0.0),)
    before, state, _ = few.train(config, noise_clips, 3)
    for kind, now in (("params", state.params), ("batch_stats", state.batch_stats)):
        for found in (moved(before[kind], now), moved(before[kind], state.ema[kind])):
            for path, change in found.items():
                still = path.startswith(("encoder/stem", "encoder/bn_stem", "encoder/stage1"))
                assert (change == 0) == still, (kind, path, change)


def test_a_frozen_layer_has_no_dropout(noise_clips):
    config = few.hubert()
    model, frontend, variables = build.build(config, 3)
    features = frontend(jnp.asarray(noise_clips.read(range(4)), jnp.float32))

    def losses(pattern, groups):
        config.model.evaluating, config.optim.groups = pattern, groups
        loss = steps._loss(model, config, variables["params"])
        examples = steps.Examples(features, jax.nn.one_hot(jnp.arange(4) % 3, 3), None)
        keys = (jax.random.key(1), jax.random.key(2))
        return [float(loss(variables["params"], {}, examples, key)[0]) for key in keys]

    plain = losses("", ())
    assert plain[0] != plain[1]
    assert len(set(losses("encoder", ()))) == 1
    assert len(set(losses("", (("encoder/.*", 0.0),)))) == 1
    assert len(set(losses("encoder/layer_.", ()))) == 2  # what is before the layers still drops


def test_evaluating_modules_train_their_parameters_on_the_running_statistics(noise_clips):
    config = resnet()
    config.model.evaluating = "encoder/.*bn.*|encoder/.*norm"
    before, state, _ = few.train(config, noise_clips, 3)
    assert set(moved(before["batch_stats"], state.batch_stats).values()) == {0.0}
    assert min(moved(before["params"], state.params).values()) > 0


def test_layer_factors_fall_from_the_head_to_the_input():
    params = {
        "head": {"kernel": 0},
        "encoder": {"stem": {"kernel": 0}, "norm": 0, "block2": {"a": 0}, "block10": {"a": 0}, "last": {"b": 0}},
    }
    found = optim.layer_factors(params, 0.5)
    assert found == {
        "head": {"kernel": 1.0},
        "encoder": {
            "stem": {"kernel": 0.5**4}, "norm": 0.5**4, "block2": {"a": 0.5**3}, "block10": {"a": 0.5**2},
            "last": {"b": 0.5},
        },
    }  # fmt: skip


def test_layer_decay_and_groups_multiply(noise_clips):
    """Adam's first step is the learning rate times the sign of the gradient, whatever its size."""
    config = resnet()
    config.optim.update(schedule="constant", warmup_percent=-1.0, weight_decay=0.0, lr=1e-3, layer_decay=0.5)
    config.optim.groups = (("encoder/stage2.*", 0.1),)
    before, state, _ = few.train(config, noise_clips, 1)
    found = moved(before["params"], state.params)
    for path, factor in (("head/classifier/kernel", 1), ("encoder/stage2_block1/conv1/kernel", 0.05),
                         ("encoder/stage1_block1/conv1/kernel", 0.25), ("encoder/stem/kernel", 0.125)):  # fmt: skip
        assert found[path] == pytest.approx(1e-3 * factor, rel=1e-2), path


def test_unfreezing_waits_for_its_epoch(noise_clips):
    config = resnet()
    config.optim.update(schedule="constant", warmup_percent=-1.0, lr=1e-2)
    config.optim.unfreeze = (("encoder/stem/.*", 1.0), ("encoder/.*", 2.0))
    for count, awake in ((2, ()), (4, ("encoder/stem/kernel",)), (5, None)):  # two steps are an epoch
        before, state, _ = few.train(config, noise_clips, count)
        for path, change in moved(before["params"], state.params).items():
            expected = path.startswith("head") or awake is None or path in awake
            assert (change > 0) == expected, (count, path)


def test_accumulated_gradients_are_those_of_the_whole_batch(noise_clips):
    config = few.hubert()  # whose dropout draws the same for an example, in whatever part it is
    config.model.encoder.update(hidden_dropout=0.2, attention_dropout=0.1, activation_dropout=0.1, layerdrop=0.3)
    _, whole, losses = few.train(config, noise_clips, 3)
    for parts, devices in ((4, 1), (2, 2)):
        config.train.accumulate = parts
        _, state, found = few.train(config, noise_clips, 3, devices)
        np.testing.assert_allclose(found, losses, rtol=1e-5)  # sums in another order
        # Adam divides by the root of a mean of squares that is next to nothing for some weights.
        for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(state.params), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-5)


def test_a_batch_that_does_not_divide_into_its_parts_is_refused():
    devices.check_batch_size("train.batch_size", 8, 2)
    with pytest.raises(devices.DeviceError, match="batch_size=12 is not divisible by the 4 devices, each in 2 parts"):
        devices.check_batch_size("train.batch_size", 12, 2)


def test_the_start_has_its_share_of_the_end():
    start, end = {"w": np.array([1.0, 2.0], np.float32)}, {"w": np.array([3.0, 2.0], np.float32)}
    found = states.blend(start, 0.25, end)
    np.testing.assert_array_equal(found["w"], [2.5, 2.0])  # what did not move stays to the bit
    for ema in (None, {"params": end, "batch_stats": {}}):
        state = states.TrainState(jnp.int32(3), jnp.int32(0), end, {}, (), ema).with_weights(
            {"params": found, "batch_stats": {}}
        )
        np.testing.assert_array_equal(state.weights()["params"]["w"], found["w"])
