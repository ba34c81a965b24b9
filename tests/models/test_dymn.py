"""Dynamic MobileNets: sizes of the published models, and the parts against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models.dymn import DyMN, DynamicReLU, depthwise_by_clip
from esc_jax.models.efficientat import head_width
from esc_jax.models.encoder import Classifier
from esc_jax.models.heads import Mlp
from esc_jax.ops.depthwise import depthwise_conv


# Millions of parameters in the table of fschmid56/EfficientAT's README, which counts running statistics as well.
@pytest.mark.parametrize(("width", "millions"), [(0.4, 1.97), (1.0, 10.57), (2.0, 40.02)])
def test_number_of_parameters_is_the_published_one(width, millions):
    model = Classifier(DyMN(width), Mlp(527, head_width(width)))
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 32)))
    count = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_depthwise_convolution_of_each_clip(size, stride):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 7, 6, 4)).astype(np.float32)
    kernels = rng.normal(size=(3, size, size, 1, 4)).astype(np.float32)
    pads = ((size // 2, size // 2),) * 2
    expected = [depthwise_conv(x[n : n + 1], kernels[n], (stride, stride), pads)[0] for n in range(3)]
    np.testing.assert_allclose(depthwise_by_clip(x, kernels, stride), np.stack(expected), atol=1e-5)


def test_dynamic_relu_is_relu_at_coefficients_of_zero():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    h = jnp.ones((2, 8))
    variables = jax.tree.map(jnp.zeros_like, DynamicReLU().init(jax.random.key(0), x, h))
    np.testing.assert_allclose(DynamicReLU().apply(variables, x, h), jnp.maximum(x, 0.0))
