"""Mapping over devices: positions, keys and constants."""

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.runtime import devices


def test_positions_in_the_global_batch():
    np.testing.assert_array_equal(devices.example_positions(3), [0, 1, 2])

    def step(state, batch):
        whole = devices.example_positions(len(batch))
        with devices.accumulation_part(1, 2):  # the second half of this device's examples
            half = devices.example_positions(len(batch) // 2)
        return state, {"whole": devices.all_gather(whole), "half": devices.all_gather(half)}

    _, metrics = devices.pmap_step(step)(devices.replicate(jnp.zeros(())), np.zeros(16, np.float32))
    np.testing.assert_array_equal(metrics["whole"], np.arange(16))
    np.testing.assert_array_equal(metrics["half"], [2, 3, 6, 7, 10, 11, 14, 15])


def test_an_example_has_the_same_key_on_any_number_of_devices():
    def step(state, batch):
        keys = devices.example_keys(jax.random.key(0), len(batch))
        return state, devices.all_gather(jax.random.key_data(keys))

    one, four = (
        devices.pmap_step(step, count)(devices.replicate(jnp.zeros(()), count), np.zeros(8, np.float32))[1]
        for count in (1, 4)
    )
    np.testing.assert_array_equal(one, four)


def test_constants_are_passed_to_every_call():
    def step(state, batch, constants):
        total = jax.lax.psum(batch.sum() * constants["factor"], devices.AXIS)
        return state + total, {"total": total}

    mapped = devices.pmap_step(step, constants={"factor": jnp.float32(2.0)})
    state = devices.replicate(jnp.float32(1.0))
    for expected in (57.0, 113.0):
        state, metrics = mapped(state, np.arange(8, dtype=np.float32))
        assert float(state) == expected and float(metrics["total"]) == 56.0
