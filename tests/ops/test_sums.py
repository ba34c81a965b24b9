"""Against NumPy's sums in double precision. The forms for a GPU are computed on the CPU here."""

import jax
import numpy as np
import pytest

from esc_jax.ops.sums import channel_sums_in_parts


@pytest.mark.parametrize("shape", [(4, 16, 6, 5), (7, 3), (1, 2), (1 << 17, 2)])  # 64, 1, 1 and 1024 partial sums
def test_sums_of_channels(shape):
    """Also mapped over an axis of runs."""
    x = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
    sums = jax.jit(jax.vmap(channel_sums_in_parts))(x, x * x, -x)
    axes = tuple(range(1, x.ndim - 1))
    double = x.astype(np.float64)
    for result, expected in zip(sums, (double, double**2, -double), strict=True):
        expected = expected.sum(axes)
        # float32 sums of up to 131,072 numbers of order 1 in a tree of two stages.
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-5 * np.sqrt(len(x[0]) + 100))
