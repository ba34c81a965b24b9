"""Against XLA's own grouped convolution, in value and in both gradients."""

from hypothesis import given, settings
from hypothesis import strategies as st
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.ops import depthwise
from esc_jax.ops.depthwise import depthwise_conv, pointwise_conv

SHAPES = {
    "size": st.tuples(st.integers(5, 9), st.integers(5, 9)),
    "kernel": st.tuples(st.integers(1, 5), st.integers(1, 5)),
    "strides": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "padding": st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
}


def grouped(x, kernel, strides, padding):
    """The definition, by XLA."""
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=layout, feature_group_count=x.shape[-1]
    )


def value_and_gradients(conv, x, kernel, weights, strides, padding):
    """Output and the gradients of its weighted sum; the weights make every output count differently."""

    def run(x, kernel, weights):
        out, transpose = jax.vjp(lambda x, kernel: conv(x, kernel, strides, padding), x, kernel)
        return out, *transpose(weights)

    return jax.jit(run)(x, kernel, weights)


def check(shape, size, strides, padding, channels=None):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*size, 1, channels or shape[-1])), jnp.float32)
    out_shape = jax.eval_shape(lambda x, kernel: grouped(x, kernel, strides, padding), x, kernel).shape
    weights = jnp.asarray(rng.normal(size=out_shape), jnp.float32)
    ours = value_and_gradients(depthwise_conv, x, kernel, weights, strides, padding)
    xlas = value_and_gradients(grouped, x, kernel, weights, strides, padding)
    for name, a, b in zip(("output", "input gradient", "kernel gradient"), ours, xlas, strict=True):
        # Sums of up to a few hundred float32 products of order 1, in another order.
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(
    ("shape", "kernel", "stride"),
    [((2, 9, 8, 5), 3, 1), ((1, 7, 10, 4), 5, 1), ((2, 9, 8, 5), 3, 2), ((1, 8, 7, 3), 5, 2)],
)
def test_equals_grouped_convolution(shape, kernel, stride):
    pad = kernel // 2
    check(shape, (kernel, kernel), (stride, stride), ((pad, pad), (pad, pad)))


@settings(max_examples=6, deadline=None, derandomize=True)
@given(**SHAPES)
def test_any_kernel_stride_and_padding(size, kernel, strides, padding):
    check((1, *size, 2), kernel, strides, padding)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(**SHAPES, channels=st.sampled_from([1, 3]))
def test_kernel_gradient_for_cuda(size, kernel, strides, padding, channels):
    """The form that a CPU does not use."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, channels)), jnp.float32)
    taps = jnp.asarray(rng.normal(size=(*kernel, 1, 3)), jnp.float32)
    out, transpose = jax.vjp(lambda kernel: grouped(x, kernel, strides, padding), taps)
    weights = jnp.asarray(rng.normal(size=out.shape), jnp.float32)
    result = jax.jit(lambda: depthwise._kernel_gradient_by_sums(x, weights, kernel, strides, padding))()
    # Sums of up to a few hundred float32 products of order 1, in another order.
    np.testing.assert_allclose(result, transpose(weights)[0], rtol=1e-4, atol=1e-4)


def test_one_input_channel_seen_by_every_kernel():
    check((2, 9, 8, 1), (3, 3), (2, 2), ((1, 1), (1, 1)), channels=6)


def test_same_padding_of_an_even_size_is_one_sided():
    check((1, 8, 6, 2), (3, 3), (2, 2), "SAME")


def test_vmap_over_kernels_trains_several_folds_at_once():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(2, 1, 6, 5, 3)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(2, 3, 3, 1, 3)), jnp.float32)

    def gradient(conv):
        one = jax.grad(lambda k, x: (conv(x, k, (1, 1), ((1, 1), (1, 1))) ** 2).sum())
        return jax.jit(jax.vmap(one))(kernels, x)

    # Two sums of 30 products, in float32.
    np.testing.assert_allclose(gradient(depthwise_conv), gradient(grouped), rtol=1e-4, atol=1e-4)


def test_bfloat16_is_rounded_once():
    rng = np.random.default_rng(2)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.bfloat16) for s in ((1, 6, 6, 3), (3, 3, 1, 3)))
    out = depthwise_conv(x, kernel, (1, 1), ((1, 1), (1, 1)))
    exact = grouped(x.astype(jnp.float32), kernel.astype(jnp.float32), (1, 1), ((1, 1), (1, 1)))
    assert out.dtype == jnp.bfloat16
    # bfloat16 keeps 8 significant bits: one rounding is at most 2^-9 relative, and a little for the float32 sum.
    np.testing.assert_allclose(np.asarray(out, np.float32), exact, rtol=2**-8, atol=1e-5)


def test_pointwise_equals_a_1x1_convolution():
    rng = np.random.default_rng(3)
    x, kernel = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((2, 5, 4, 3), (3, 7)))
    weights = jnp.asarray(rng.normal(size=(2, 5, 4, 7)), jnp.float32)
    layout = ("NHWC", "HWIO", "NHWC")

    def by_xla(x, kernel, strides, padding):
        return lax.conv_general_dilated(x, kernel[None, None], strides, padding, dimension_numbers=layout)

    ours = value_and_gradients(lambda x, kernel, *_: pointwise_conv(x, kernel), x, kernel, weights, (1, 1), "VALID")
    xlas = value_and_gradients(by_xla, x, kernel, weights, (1, 1), "VALID")
    for a, b in zip(ours, xlas, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)  # sums of at most 40 float32 products


@pytest.mark.parametrize(
    ("shape", "size", "strides", "channels"),
    [((2, 9, 8, 5), (3, 3), (2, 2), 5), ((2, 9, 8, 5), (3, 3), (1, 1), 5), ((2, 9, 1, 5), (3, 1), (1, 1), 5),
     ((2, 9, 8, 1), (3, 3), (2, 2), 6)],
)  # fmt: skip
def test_forms_for_cuda(monkeypatch, shape, size, strides, channels):
    """The forms that a CPU does not use, computed there."""
    monkeypatch.setattr(lax, "platform_dependent", lambda *arguments, cuda, **_: cuda(*arguments))
    check(shape, size, strides, ((1, 1), (size[1] // 2,) * 2), channels)


def test_lowering_for_another_platform_takes_the_grouped_convolution():
    x, kernel = jnp.zeros((1, 6, 6, 2)), jnp.zeros((3, 3, 1, 2))
    step = jax.jit(lambda x, kernel: depthwise_conv(x, kernel, (1, 1), ((1, 1), (1, 1))))
    on_cpu, on_gpu = (jax.export.export(step, platforms=[name])(x, kernel).mlir_module() for name in ("cpu", "cuda"))
    assert "stablehlo.convolution" not in on_cpu
    assert "stablehlo.convolution" in on_gpu
