"""SimCLR: two augmented views of a clip are matched among all views of the global batch (NT-Xent).

T. Chen et al., "A simple framework for contrastive learning of visual representations", ICML 2020.
"""

from collections.abc import Mapping
from typing import Any

from flax import struct
import jax
import jax.numpy as jnp

from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.model import Model, Variables
from esc_jax.objectives.base import Batch, Keys, LossOutput, Objective, to_float
from esc_jax.objectives.views import augmented_features
from esc_jax.runtime import devices

TRIVIAL = 0.95  # pretext accuracy above which the task teaches little


@struct.dataclass
class Contrast:
    """NT-Xent and metrics of this device's anchors, each (rows, 2): a row per clip, a column per view.

    Attributes:
        loss: NT-Xent of every anchor.
        hit: whether the other view of its clip is the nearest neighbour.
        alignment: squared distance of an anchor to its other view (T. Wang and P. Isola, ICML 2020).
        potential: mean over the other views of e^(−2 distance²). The logarithm of its mean is the uniformity.
    """

    loss: jax.Array
    hit: jax.Array
    alignment: jax.Array
    potential: jax.Array


def normalize(z: jax.Array) -> jax.Array:
    """z / ‖z‖ along the last axis. Zeros stay zeros, and their gradient is finite."""
    return z * jax.lax.rsqrt(jnp.maximum(jnp.sum(z * z, -1, keepdims=True), 1e-12))


def nt_xent(views: jax.Array, all_views: jax.Array, first: jax.Array | int, temperature: float) -> Contrast:
    """NT-Xent per anchor.

        −log  e^(s(i, j)/τ) / Σ_{k ≠ i} e^(s(i, k)/τ)

    s the cosine, i an anchor, j the other view of its clip, k over both views of all clips but i itself.

    Args:
        views: (rows, 2, D) both views of this device's clips.
        all_views: (batch, 2, D) both views of the global batch's clips, these among them.
        first: position of this device's first clip in the global batch.
        temperature: τ.
    """
    rows, _, width = views.shape
    anchors = normalize(views.astype(jnp.float32)).reshape(rows * 2, width)
    others = normalize(all_views.astype(jnp.float32)).reshape(-1, width)
    positions = 2 * first + jnp.arange(rows * 2)

    def contrast(anchor: jax.Array, position: jax.Array) -> Contrast:
        cosine = jnp.matmul(others, anchor, precision=jax.lax.Precision.HIGHEST)
        itself, partner = jnp.arange(len(others)) == position, position ^ 1  # views of a clip are 2n and 2n + 1
        logits = jnp.where(itself, -jnp.inf, cosine / temperature)
        distance = jnp.maximum(2.0 - 2.0 * cosine, 0.0)
        return Contrast(
            loss=jax.nn.logsumexp(logits) - logits[partner],
            hit=logits.argmax() == partner,
            alignment=distance[partner],
            potential=jnp.where(itself, 0.0, jnp.exp(-2.0 * distance)).sum() / (len(others) - 1),
        )

    result = jax.vmap(contrast)(anchors, positions)
    return jax.tree.map(lambda x: x.reshape(rows, 2), result)


class SimCLR(Objective):
    """NT-Xent on a projection head. The head is not part of the learned encoder.

    Args:
        config: `pretrain` of a config.
        model: encoder and frontend.
    """

    name = "simclr"
    ranges = {
        "temperature": (0.001, 100),
        "projection_hidden": (1, 1 << 16),
        "projection_dim": (1, 1 << 16),
        "background_mix": (0, 1),
    }

    def __init__(self, config: Any, model: Model):
        head = heads.Mlp(classes=config.projection_dim, width=config.projection_hidden, dropout=0.0)
        self.module = Classifier(encoder=model.module.encoder, head=head)
        super().__init__(config, model)

    @staticmethod
    def defaults() -> dict[str, Any]:
        """Keys of SimCLR."""
        return {
            "temperature": 0.5,
            "projection_hidden": 512,
            "projection_dim": 128,
            "background_mix": 0.0,  # largest share of another clip that is mixed into a view
        }

    def inputs(self, constants: Any, key: jax.Array, batch: Batch) -> jax.Array:
        """(rows, 2, …) features of two views of each clip."""
        audio = to_float(batch["audio"])
        pair = [augmented_features(self._config, self._model, k, audio) for k in jax.random.split(key)]
        return jnp.stack(pair, axis=1)

    def loss(self, variables: Variables, carry: Any, constants: Any, inputs: jax.Array, keys: Keys) -> LossOutput:
        """NT-Xent over the global batch, with `pretext_accuracy` (the share of views whose nearest neighbour is the
        other view of their clip), `alignment` and `uniformity` (T. Wang and P. Isola, ICML 2020; lower is better)."""
        rows = len(inputs)
        # The views of a clip are adjacent rows, so an example has the same position on any number of devices.
        features = inputs.reshape(-1, *inputs.shape[2:])
        z, updates = self.module.apply(variables, features, train=True, mutable=["batch_stats"], rngs=keys.rngs())
        z = z.reshape(rows, 2, -1)
        first = devices.example_positions(rows)[0]
        result = nt_xent(z, devices.all_gather(z), first, self._config.temperature)
        metrics = {
            "pretext_accuracy": result.hit.astype(jnp.float32),
            "alignment": result.alignment,
            "uniformity": result.potential,
        }
        return LossOutput(result.loss, metrics, updates.get("batch_stats", {}))

    def summarize(self, metrics: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Uniformity is the logarithm of the mean potential."""
        return metrics | {"uniformity": jnp.log(metrics["uniformity"])}

    def advice(self, metrics: Mapping[str, float]) -> str:
        """How to make the views harder where nearly all of them are matched."""
        if metrics["pretext_accuracy"] <= TRIVIAL:
            return ""
        return (
            f"{100 * metrics['pretext_accuracy']:.1f} % of the views are matched, so the task teaches little more:"
            " use stronger augmentation (pretrain.background_mix, pretrain.augment.crop_s,"
            " pretrain.augment.frequency_warp, pretrain.augment.freq_mask), a larger pretrain.batch_size or a lower"
            " pretrain.temperature"
        )
