"""The state before the first step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from esc_jax.training import state as states


@pytest.mark.parametrize("gpu", [False, True])
def test_a_state_begins_with_the_weights_and_an_empty_optimizer(monkeypatch, gpu):
    """On a machine with a GPU, it is computed on the CPU, for which a second device stands in here."""
    first, other = jax.devices()[:2]
    if gpu:
        monkeypatch.setattr(jax, "default_backend", lambda: "cuda")
        monkeypatch.setattr(jax, "local_devices", lambda backend: [other])
    variables = {"params": {"w": jnp.arange(3.0), "b": jnp.ones(())}, "batch_stats": {"mean": jnp.full(2, 5.0)}}
    state = states.create(variables, optax.adam(0.1), ema=True, seed=7)
    assert int(state.step) == 0 and int(state.seed) == 7 and state.params is variables["params"]
    jax.tree.map(np.testing.assert_array_equal, state.ema, variables)
    moments = state.opt_state[0]
    assert int(moments.count) == 0
    for tree in (moments.mu, moments.nu):
        jax.tree.map(lambda x, w: np.testing.assert_array_equal(x, np.zeros_like(w)), tree, variables["params"])
    for copy, weight in zip(jax.tree.leaves(state.ema), jax.tree.leaves(variables), strict=True):
        assert copy.devices() == {first} and copy.unsafe_buffer_pointer() != weight.unsafe_buffer_pointer()
    assert states.create(variables, optax.adam(0.1), ema=False).ema is None
