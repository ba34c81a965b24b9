"""Convolutions over time against XLA's own, in value and in gradients."""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops import conv1d


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def by_xla(x, kernel, stride=1, dilation=1, groups=1):
    return lax.conv_general_dilated(
        x, kernel, (stride,), "VALID", rhs_dilation=(dilation,), feature_group_count=groups,
        dimension_numbers=("NWC", "WIO", "NWC"),
    )  # fmt: skip


def assert_same(form, reference, *arguments):
    def run(function, *arguments):
        y, transpose = jax.vjp(function, *arguments)
        return y, *transpose(normal(*y.shape, seed=1))

    results = zip(run(form, *arguments), run(reference, *arguments), strict=True)
    for result, expected in results:
        # float32 sums over a few hundred products in another order.
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("inputs", "taps"), [(1, 7), (3, 5), (3, 1)])
def test_conv1d(inputs, taps):
    assert_same(conv1d.conv1d, by_xla, normal(2, 40, inputs), normal(taps, inputs, 6))


@pytest.mark.parametrize(("time", "taps", "dilation"), [(20, 5, 1), (20, 3, 3), (9, 3, 4), (24, 2, 4)])
def test_depthwise_conv1d(time, taps, dilation):

    def reference(x, kernel):
        return by_xla(x, kernel[:, None], dilation=dilation, groups=3)

    def form(x, kernel):
        return conv1d.depthwise_conv1d(x, kernel, dilation)

    assert_same(form, reference, normal(2, time, 3), normal(taps, 3))


@pytest.mark.parametrize(("stride", "time"), [(1, 7), (2, 8), (2, 9), (3, 10), (4, 21)])
def test_anti_aliased_downsample(stride, time):
    taper = np.convolve(np.ones(stride + 1), np.ones(stride + 1))
    np.testing.assert_allclose(conv1d.triangle(stride), taper / taper.sum(), rtol=1e-6)
    kernel = jnp.tile(jnp.asarray(taper / taper.sum(), jnp.float32)[:, None, None], (1, 1, 3))

    def reference(x):
        return by_xla(jnp.pad(x, ((0, 0), (stride, stride), (0, 0)), mode="reflect"), kernel, stride, groups=3)

    x = normal(2, time, 3)
    assert conv1d.anti_aliased_downsample(x, stride).shape == (2, -(-time // stride), 3)
    assert_same(lambda x: conv1d.anti_aliased_downsample(x, stride), reference, x)


def test_downsampling_keeps_constants_and_removes_the_highest_frequency():
    alternating = jnp.tile(jnp.asarray([1.0, -1.0]), 20)
    x = jnp.stack([jnp.ones(40), alternating], -1)[None]
    y = conv1d.anti_aliased_downsample(x, 4)
    np.testing.assert_allclose(y[0, :, 0], 1.0, rtol=1e-6)
    np.testing.assert_allclose(y[0, :, 1], 1 / 25, rtol=1e-5)  # |Σ ±taps| of the triangle 1 … 5 … 1


def test_sums_of_bfloat16_are_computed_in_float32():
    x = normal(1, 40, 2).astype(jnp.bfloat16)
    y = conv1d.anti_aliased_downsample(x, 4)
    expected = conv1d.anti_aliased_downsample(x.astype(jnp.float32), 4).astype(jnp.bfloat16)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(y, np.float32), np.asarray(expected, np.float32))


@pytest.mark.parametrize("time", [1, 3, 9])
def test_signals_of_any_length_are_reflected(time):
    x = np.arange(float(time), dtype=np.float32)
    result = conv1d.reflect_pad(jnp.asarray(x)[None, :, None], 5)
    np.testing.assert_array_equal(result[0, :, 0], np.pad(x, 5, mode="reflect"))
