"""NT-Xent against a double loop, optax, and itself on several devices; advice."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax.objectives import simclr
from esc_jax.runtime import devices


def views(batch=6, width=5, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, 2, width)).astype(np.float32)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_equals_a_double_loop(temperature):
    z = views()
    result = simclr.nt_xent(z, z, 0, temperature)
    unit = (z / np.linalg.norm(z, axis=-1, keepdims=True)).reshape(-1, 5).astype(np.float64)
    for i in range(12):
        j = i + 1 if i % 2 == 0 else i - 1
        others = [k for k in range(12) if k != i]
        total = sum(np.exp(unit[i] @ unit[k] / temperature) for k in others)
        row = (i // 2, i % 2)
        # float32 cosines divided by a temperature of a tenth.
        np.testing.assert_allclose(
            result.loss[row], -np.log(np.exp(unit[i] @ unit[j] / temperature) / total), rtol=1e-4
        )
        assert result.hit[row] == (max(others, key=lambda k: unit[i] @ unit[k]) == j)
        np.testing.assert_allclose(result.alignment[row], ((unit[i] - unit[j]) ** 2).sum(), rtol=1e-4)
        potential = np.mean([np.exp(-2 * ((unit[i] - unit[k]) ** 2).sum()) for k in others])
        np.testing.assert_allclose(result.potential[row], potential, rtol=1e-4)


def test_mean_equals_optax():
    z = views(seed=1)
    flat, labels = z.reshape(-1, 5), jnp.repeat(jnp.arange(6), 2)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = optax.losses.ntxent(flat, labels, 0.3)
    np.testing.assert_allclose(simclr.nt_xent(z, z, 0, 0.3).loss.mean(), expected, rtol=1e-5)


def test_loss_and_gradient_are_the_same_on_one_and_on_four_devices():
    x, weights = views(8, 6, seed=2), np.random.default_rng(3).standard_normal((6, 4)).astype(np.float32)

    def step(weights, x):
        def loss(weights):
            z = x @ weights
            return simclr.nt_xent(z, devices.all_gather(z), devices.example_positions(len(z))[0], 0.2).loss.mean()

        value, grads = jax.value_and_grad(loss)(weights)
        return devices.all_mean(grads), devices.all_mean(value)

    one, four = (devices.pmap_step(step, count)(jnp.array(weights), x) for count in (1, 4))
    np.testing.assert_allclose(one[1], four[1], rtol=1e-5)
    np.testing.assert_allclose(one[0], four[0], rtol=1e-5, atol=1e-6)
    z = lambda w: (x.reshape(-1, 6) @ w).reshape(8, 2, 4)  # noqa: E731
    whole = jax.grad(lambda w: simclr.nt_xent(z(w), z(w), 0, 0.2).loss.mean())(weights)
    np.testing.assert_allclose(four[0], whole, rtol=1e-4, atol=1e-6)


def test_the_gradient_of_zeros_is_finite():
    z = views().copy()
    z[0] = 0
    grads = jax.grad(lambda z: simclr.nt_xent(z, z, 0, 0.5).loss.mean())(z)
    assert np.isfinite(grads).all()


def test_advice_where_nearly_all_views_are_matched():
    objective = object.__new__(simclr.SimCLR)
    assert objective.advice({"pretext_accuracy": 0.95}) == ""
    advice = objective.advice({"pretext_accuracy": 0.987})
    assert advice.startswith("98.7 % of the views are matched") and "pretrain.background_mix" in advice


def test_uniformity_is_the_logarithm_of_the_mean_potential():
    objective = object.__new__(simclr.SimCLR)
    summary = objective.summarize({"uniformity": jnp.float32(0.25), "loss": jnp.float32(1.0)})
    np.testing.assert_allclose(summary["uniformity"], np.log(0.25), rtol=1e-6)
    assert summary["loss"] == 1.0
