"""Against XLA's own convolution, in value and in both gradients."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops import convolution


def xla(x, kernel, strides, pads):
    """The definition."""
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def check(shape, size, channels, strides, pads, form=convolution.conv):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal(shape), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((*size, shape[-1], channels)), jnp.float32)
    weights = jnp.asarray(rng.standard_normal(xla(x, kernel, strides, pads).shape), jnp.float32)

    def value_and_gradients(conv):
        out, transpose = jax.vjp(lambda x, kernel: conv(x, kernel, strides, pads), x, kernel)
        return out, *transpose(weights)

    result, expected = jax.jit(lambda: value_and_gradients(form))(), jax.jit(lambda: value_and_gradients(xla))()
    for name, a, b in zip(("output", "input gradient", "kernel gradient"), result, expected, strict=True):
        # Sums of a few hundred float32 products of order 1, in another order.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("size, stride", [(3, 1), (3, 2), (1, 2), (7, 2)])
def test_equals_xlas(size, stride):
    check((3, 13, 10, 4), (size, size), 5, (stride, stride), ((size // 2, size // 2),) * 2)


# A CPU does not use the second form.
@pytest.mark.parametrize(("form", "channels"), [(convolution.conv, 3), (convolution.space_to_depth_conv, 1)])
@settings(max_examples=8)
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
)
def test_any_shape(form, channels, size, kernel, strides, pads):
    check((2, *size, channels), kernel, 2, strides, pads, form)


def test_resnets_first_layer_for_cuda():
    check((2, 26, 16, 1), (7, 7), 4, (2, 2), ((3, 3), (3, 3)), convolution.space_to_depth_conv)


@pytest.mark.parametrize(("taps", "stride"), [(5, 1), (4, 3)])
def test_one_row_for_cuda(monkeypatch, taps, stride):
    monkeypatch.setattr(lax, "platform_dependent", lambda *arguments, cuda, **_: cuda(*arguments))
    check((2, 1, 23, 3), (1, taps), 4, (1, stride), ((0, 0), (2, 1)))
    check((2, 1, 23, 3), (1, taps), 4, (1, stride), ((1, 0), (2, 1)))  # two rows with the padding


def test_the_kernel_gradient_of_one_row_has_one_dimension_for_cuda():
    """XLA for CUDA takes the form with two dimensions for a convolution with a window of the size of the map."""
    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 1, 23, 3), (1, 5, 3, 4)))
    total = jax.jit(jax.grad(lambda x, k: convolution.conv(x, k, (1, 1), ((0, 0), (0, 0))).sum(), argnums=(0, 1)))
    text = total.trace(x, kernel).lower(lowering_platforms=("cuda",)).as_text()
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 2 and all("[b, 0, f]" in line or "[f, 0, b]" in line for line in convolutions)
