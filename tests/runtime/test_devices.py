"""Mapping over devices: positions, keys and constants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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

    mapped, constants = devices.pmap_step(step), devices.replicate({"factor": jnp.float32(2.0)})
    state = devices.replicate(jnp.float32(1.0))
    for expected in (57.0, 113.0):
        state, metrics = mapped(state, np.arange(8, dtype=np.float32), constants=constants)
        assert float(state) == expected and float(metrics["total"]) == 56.0


@pytest.mark.parametrize("has_cpu", [True, False])
def test_a_program_runs_on_the_host_and_returns_arrays_of_the_default_device(monkeypatch, has_cpu):
    first, other = jax.devices()[:2]  # `other` stands in for the CPU of a machine with a GPU

    def local_devices(backend):
        if not has_cpu:
            raise RuntimeError("Unknown backend cpu")
        return {"cpu": [other]}[backend]

    ran_on = []

    def program():
        x = jnp.arange(4) * 2
        ran_on.append(x.devices())
        return {"x": x}

    monkeypatch.setattr(jax, "default_backend", lambda: "cuda")
    monkeypatch.setattr(jax, "local_devices", local_devices)
    outputs = devices.run_on_host(program)
    assert ran_on == [{other if has_cpu else first}]
    np.testing.assert_array_equal(outputs["x"], [0, 2, 4, 6])
    assert outputs["x"].devices() == {first} and not outputs["x"].committed


def test_a_batch_that_does_not_divide_over_the_devices_or_into_its_parts_is_an_error():
    devices.check_batch_size("train.batch_size", 8)
    devices.check_batch_size("train.batch_size", 8, 2)
    with pytest.raises(devices.DeviceError, match="train.batch_size=10 is not divisible by the 4 devices: take 8"):
        devices.check_batch_size("train.batch_size", 10)
    with pytest.raises(devices.DeviceError, match="batch_size=12 is not divisible by the 4 devices, each in 2 parts"):
        devices.check_batch_size("train.batch_size", 12, 2)
