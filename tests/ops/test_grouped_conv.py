"""The grouped convolution against `lax.conv_general_dilated`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops.grouped_conv import grouped_conv1d


def _reference(x, kernel, groups, padding):
    return jax.lax.conv_general_dilated(
        x, kernel, (1,), (padding,), dimension_numbers=("NWC", "WIO", "NWC"), feature_group_count=groups
    )


@pytest.mark.parametrize(
    ("time", "taps", "channels", "outputs", "groups", "padding"),
    [
        (249, 128, 32, 32, 16, (64, 64)),  # HuBERT's kernel: several blocks
        (20, 128, 16, 16, 4, (64, 64)),  # one block, clip shorter than the kernel
        (17, 5, 6, 9, 3, (2, 1)),  # odd kernel, other width, unequal padding
    ],
)
def test_equals_lax_in_value_and_gradient(time, taps, channels, outputs, groups, padding):
    keys = jax.random.split(jax.random.key(time), 3)
    x = jax.random.normal(keys[0], (2, time, channels))
    kernel = jax.random.normal(keys[1], (taps, channels // groups, outputs)) / np.sqrt(taps * channels / groups)
    cotangent = jax.random.normal(keys[2], (2, time + sum(padding) - taps + 1, outputs))

    @jax.jit
    def run(x, kernel, cotangent):
        results = []
        for form in (grouped_conv1d, _reference):
            y, pullback = jax.vjp(lambda x, kernel, form=form: form(x, kernel, groups, padding), x, kernel)
            results.append((y, *pullback(cotangent)))
        return results

    ours, expected = run(x, kernel, cotangent)
    # Unit variance everywhere but in the kernel's gradient, which sums `time` products: float32 rounding.
    for name, a, b, atol in zip(("y", "dx", "dkernel"), ours, expected, (1e-5, 1e-5, 1e-4), strict=True):
        np.testing.assert_allclose(a, b, atol=atol, err_msg=name)


def test_bfloat16_jit_and_vmap():
    x = jax.random.normal(jax.random.key(0), (2, 3, 30, 8))
    kernel = jax.random.normal(jax.random.key(1), (8, 4, 8)) / 6
    y = jax.jit(jax.vmap(lambda x: grouped_conv1d(x, kernel, 2, (4, 4))))(x)
    np.testing.assert_allclose(y[1], _reference(x[1], kernel, 2, (4, 4)), atol=1e-5)
    conv = jax.jit(grouped_conv1d, static_argnums=(2, 3))
    half = conv(x[0].astype(jnp.bfloat16), kernel.astype(jnp.bfloat16), 2, (4, 4))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), y[0], atol=0.05)  # eight bits of significand
