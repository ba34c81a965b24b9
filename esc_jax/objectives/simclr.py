"""NT-Xent: two views of a clip find each other among all views of the global batch.

T. Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020.
"""

from flax import struct
import jax
import jax.numpy as jnp


@struct.dataclass
class Contrast:
    """What the anchors of this device found, each (rows, 2): a row per clip, a column per view.

    Attributes:
        loss: NT-Xent of every anchor.
        hit: whether the other view of its clip was the nearest of all.
        alignment: squared distance of an anchor to its other view (T. Wang and P. Isola, ICML 2020).
        potential: mean over the other views of e^(−2 distance²); its mean's logarithm is their uniformity.
    """

    loss: jax.Array
    hit: jax.Array
    alignment: jax.Array
    potential: jax.Array


def normalise(z: jax.Array) -> jax.Array:
    """To unit length along the last axis; zeros stay zeros, with a gradient that is a number."""
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, -1, keepdims=True), 1e-12))


def nt_xent(own: jax.Array, all_views: jax.Array, first: jax.Array | int, temperature: float) -> Contrast:
    """NT-Xent per anchor.

        −log  e^(s(i, j)/τ) / Σ_{k ≠ i} e^(s(i, k)/τ)

    s the cosine, i an anchor, j the other view of its clip, k over both views of all clips but i itself.

    Args:
        own: (rows, 2, D) both views of this device's clips.
        all_views: (batch, 2, D) both views of the global batch's clips, the same vectors among them.
        first: position of this device's first clip in the global batch.
        temperature: τ.
    """
    rows, _, width = own.shape
    anchors = normalise(own.astype(jnp.float32)).reshape(rows * 2, width)
    others = normalise(all_views.astype(jnp.float32)).reshape(-1, width)
    places = 2 * first + jnp.arange(rows * 2)

    def contrast(anchor: jax.Array, place: jax.Array) -> Contrast:
        cosine = jnp.matmul(others, anchor, precision=jax.lax.Precision.HIGHEST)
        itself, partner = jnp.arange(len(others)) == place, place ^ 1  # the views of a clip are 2n and 2n + 1
        logits = jnp.where(itself, -jnp.inf, cosine / temperature)
        distance = jnp.maximum(2.0 - 2.0 * cosine, 0.0)
        return Contrast(
            loss=jax.nn.logsumexp(logits) - logits[partner],
            hit=logits.argmax() == partner,
            alignment=distance[partner],
            potential=jnp.where(itself, 0.0, jnp.exp(-2.0 * distance)).sum() / (len(others) - 1),
        )

    found = jax.vmap(contrast)(anchors, places)
    return jax.tree.map(lambda x: x.reshape(rows, 2), found)
