"""Cross-entropy with label smoothing, per example."""

import jax
import jax.numpy as jnp
import optax


def targets(labels: jax.Array, classes: int, smoothing: float = 0.0) -> jax.Array:
    """(B,) labels → (B, classes): one-hot · (1 − smoothing) + smoothing / classes (Szegedy et al. 2016)."""
    return jax.nn.one_hot(labels, classes, dtype=jnp.float32) * (1.0 - smoothing) + smoothing / classes


def loss(logits: jax.Array, soft_targets: jax.Array) -> jax.Array:
    """−Σ_c t_c log softmax(logits)_c, (B,)."""
    return optax.losses.softmax_cross_entropy(logits, soft_targets)
