"""Heads in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax.models import heads


@pytest.mark.parametrize("head", [heads.Linear, heads.Projected, heads.Mlp])
def test_logits_are_not_rounded_to_bfloat16(head):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((8, 16)) * 10, jnp.float32)
    model = head(50, dtype=jnp.bfloat16)
    logits, _ = model.init_with_output(jax.random.key(0), x)  # not compiled: XLA may leave the rounding out
    assert logits.dtype == jnp.float32
    assert (logits != logits.astype(jnp.bfloat16).astype(jnp.float32)).mean() > 0.9
