"""BYOL-A: an online network predicts the projection of another view by a target network. There are no negatives.

D. Niizumi et al., "BYOL for Audio: Self-supervised learning for general-purpose audio representation" (IJCNN 2021);
J.-B. Grill et al., "Bootstrap your own latent" (NeurIPS 2020).
"""

from collections.abc import Mapping
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp

from esc_jax.augment import draws
from esc_jax.errors import ConfigError
from esc_jax.frontends import registry as frontends
from esc_jax.models.model import Model, Variables
from esc_jax.objectives.base import Batch, Keys, LossOutput, Objective, to_float
from esc_jax.objectives.simclr import normalize
from esc_jax.objectives.views import augmented_features
from esc_jax.ops.batch_norm import BatchNorm
from esc_jax.runtime import devices

CANVAS = 1.5  # length of the zero-padded spectrogram that is cropped, in lengths of the spectrogram
COLLAPSED = 0.05  # spread of the projections below which the network has collapsed
LEVEL = 0.1  # RMS of a clip before the frontend


def normalize_rms(audio: jax.Array) -> jax.Array:
    """(B, time) with RMS `LEVEL`. Clips are mixed at equal level then. Silence stays as it is."""
    rms = jnp.sqrt(jnp.mean(jnp.square(audio), -1, keepdims=True))
    audible = rms > 1e-5
    return jnp.where(audible, audio * (LEVEL / jnp.where(audible, rms, 1.0)), audio)


def log_mixup(share: jax.Array, one: jax.Array, other: jax.Array, scale: float = 1.0) -> jax.Array:
    """Mixture of two logarithmic spectrograms in the linear domain:

        ln((1 − λ) e^(s x) + λ e^(s y)) / s

    Args:
        share: λ, in [0, 1).
        one, other: spectrograms x and y, ln(power) / s up to a constant.
        scale: s, the divisor of the logarithm in the frontend (`log_scale`).
    """
    return jnp.logaddexp(jnp.log1p(-share) + scale * one, jnp.log(share) + scale * other) / scale


def random_resize_crop(key: jax.Array, spectrogram: jax.Array, low: float, high: float) -> jax.Array:
    """(frames, bins) → (frames, bins): a random area, resized by cubic interpolation.

    The spectrogram is padded with zeros in time to `CANVAS` times its length. The area has U(low, high) times its
    frames and min(U(low, high), 1) times its bins, at a uniform position inside the padded spectrogram.
    """
    frames, bins = spectrogram.shape
    height_key, width_key, time_key, bin_key = jax.random.split(key, 4)
    margin = round((CANVAS - 1.0) * frames / 2)
    canvas = jnp.pad(spectrogram, ((margin, margin), (0, 0)))
    length = jnp.floor(frames * jax.random.uniform(width_key, minval=low, maxval=high))
    length = jnp.clip(length, 1.0, float(len(canvas)))
    height = jnp.floor(bins * jnp.minimum(jax.random.uniform(height_key, minval=low, maxval=high), 1.0))
    height = jnp.maximum(height, 1.0)
    first_frame = jnp.floor(jax.random.uniform(time_key) * (len(canvas) - length + 1.0))
    first_bin = jnp.floor(jax.random.uniform(bin_key) * (bins - height + 1.0))
    scale = jnp.stack([frames / length, bins / height])
    shift = -jnp.stack([first_frame, first_bin]) * scale
    return jax.image.scale_and_translate(canvas, (frames, bins), (0, 1), scale, shift, method="cubic")


class Mlp(nn.Module):
    """Linear, BatchNorm, ReLU, linear: projector and predictor of BYOL."""

    hidden: int
    dim: int

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Dense(self.hidden, name="hidden")(x.astype(jnp.float32))
        x = BatchNorm(momentum=0.9, epsilon=1e-5, dtype=jnp.float32, axis_name=devices.AXIS, name="norm")(x, train)
        return nn.Dense(self.dim, name="output")(nn.relu(x))


class ByolNetwork(nn.Module):
    """An encoder with projector and predictor.

    Attributes:
        encoder: features → Encoded.
        hidden, dim: widths of projector and predictor.
    """

    encoder: nn.Module
    hidden: int
    dim: int

    def setup(self) -> None:
        """Projector and predictor."""
        self.projector = Mlp(self.hidden, self.dim)
        self.predictor = Mlp(self.hidden, self.dim)

    def project(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """(B, dim) projections."""
        return self.projector(self.encoder(features, train=train).embedding, train=train)

    def __call__(self, features: jax.Array, *, train: bool = False) -> jax.Array:
        """(B, dim) predictions of the other view's projection."""
        return self.predictor(self.project(features, train=train), train=train)


class ByolA(Objective):
    """Squared distance of normalized predictions q and target projections z of two views:

        ½ (‖q̄(a) − z̄(b)‖² + ‖q̄(b) − z̄(a)‖²)

    The target network is an exponential moving average of the online network. Views are made from log-mel
    spectrograms: mixup in the linear domain with another clip of the global batch (the paper draws it from a memory of
    past clips), random resize crop, standardization over the batch.

    Args:
        config: `pretrain` of a config.
        model: encoder and frontend.
    """

    name = "byol_a"
    ranges = {
        "momentum": (0, 1),
        "projection_hidden": (1, 1 << 16),
        "projection_dim": (2, 1 << 16),
        "mixup_ratio": (0, 0.99),
        "crop_min": (0.05, CANVAS),
        "crop_max": (0.05, CANVAS),
        "background_mix": (0, 1),
    }

    def __init__(self, config: Any, model: Model):
        self.module = ByolNetwork(model.module.encoder, config.projection_hidden, config.projection_dim)
        super().__init__(config, model)
        frontend: Any = model.frontend
        self._scale = float(frontend.log_scale)

    @staticmethod
    def defaults() -> dict[str, Any]:
        """Keys of BYOL-A, with the values of the paper except for narrower projections (4096 there)."""
        return {
            "momentum": 0.99,  # decay of the target network
            "projection_hidden": 1024,
            "projection_dim": 256,
            "mixup_ratio": 0.4,  # largest share of the other clip in a view
            "crop_min": 0.6,  # size of the random area, in sizes of the spectrogram
            "crop_max": 1.5,
            "background_mix": 0.0,  # largest share of another clip that is mixed into the waveform
        }

    @classmethod
    def check(cls, config: Any) -> None:
        """The area has a size; the frontend is logarithmic."""
        if config.pretrain.crop_min > config.pretrain.crop_max:
            raise ConfigError(
                f"config.pretrain.crop_min={config.pretrain.crop_min:g} is above config.pretrain.crop_max="
                f"{config.pretrain.crop_max:g}"
            )
        if not hasattr(frontends.FRONTENDS[config.frontend.name], "log_scale"):
            raise ConfigError(
                f"config.frontend.name={config.frontend.name}: config.pretrain.objective=byol_a mixes logarithmic"
                " spectrograms; choose a frontend that gives one, such as log_mel"
            )

    def init_carry(self, variables: Variables) -> Any:
        """Parameters of the target network: a copy of the online network's."""
        return {name: jax.tree.map(jnp.copy, variables["params"][name]) for name in ("encoder", "projector")}

    def _view(self, key: jax.Array, audio: jax.Array) -> jax.Array:
        """(rows, frames, bins) one view of this device's clips, before standardization."""
        config = self._config
        feature_key, share_key, order_key, crop_key = jax.random.split(key, 4)
        features = augmented_features(config, self._model, feature_key, audio)
        positions = devices.example_positions(len(audio))
        partner = draws.random_partners(order_key, config.batch_size)[positions]
        shares = config.mixup_ratio * jax.vmap(jax.random.uniform)(draws.keys_at(share_key, positions))
        mixed = jax.vmap(lambda share, one, other: log_mixup(share, one, other, self._scale))(
            shares, features, devices.all_gather(features)[partner]
        )
        crop = functools.partial(random_resize_crop, low=config.crop_min, high=config.crop_max)
        return jax.vmap(crop)(draws.keys_at(crop_key, positions), mixed)

    def inputs(self, constants: Any, key: jax.Array, batch: Batch) -> jax.Array:
        """(rows, 2, frames, bins) two views of each clip, standardized over the global batch."""
        audio = normalize_rms(to_float(batch["audio"]))
        views = jnp.stack([self._view(k, audio) for k in jax.random.split(key)], axis=1)
        mean = devices.all_mean(views.mean())
        variance = devices.all_mean(jnp.square(views - mean).mean())
        return (views - mean) * jax.lax.rsqrt(variance + 1e-8)

    def loss(self, variables: Variables, carry: Any, constants: Any, inputs: jax.Array, keys: Keys) -> LossOutput:
        """Distance of predictions and target projections, with `cosine` (mean cosine of the pairs) and
        `projection_spread` (mean standard deviation of target projections times √dim: 1 where they are spread out, 0
        where the network has collapsed)."""
        rows = len(inputs)
        # The views of a clip are adjacent rows, so an example has the same position on any number of devices.
        features = inputs.reshape(-1, *inputs.shape[2:])
        apply: dict[str, Any] = {"train": True, "mutable": ["batch_stats"], "rngs": keys.rngs()}
        prediction, updates = self.module.apply(variables, features, **apply)
        target_variables = {"params": carry, "batch_stats": variables["batch_stats"]}
        target, _ = self.module.apply(target_variables, features, method="project", **apply)
        q = normalize(prediction).reshape(rows, 2, -1)
        z = jax.lax.stop_gradient(normalize(target)).reshape(rows, 2, -1)
        cosine = (q * z[:, ::-1]).sum(-1)
        deviation = jnp.sqrt(
            devices.all_mean(jnp.square(z - devices.all_mean(z.mean((0, 1)))[None, None]).mean((0, 1)))
        )
        spread = deviation.mean() * z.shape[-1] ** 0.5
        metrics = {"cosine": cosine, "projection_spread": jnp.broadcast_to(spread, (rows,))}
        return LossOutput((2.0 - 2.0 * cosine).mean(1), metrics, updates.get("batch_stats", {}))

    def after_step(self, carry: Any, params: Any, step: jax.Array, outputs: Any) -> Any:
        """t ← m t + (1 − m) o for target t, online network o and momentum m."""
        m = self._config.momentum
        return jax.tree.map(lambda t, o: m * t + (1.0 - m) * o, carry, {name: params[name] for name in carry})

    def advice(self, metrics: Mapping[str, float]) -> str:
        """What to change where the network has collapsed."""
        if metrics["projection_spread"] >= COLLAPSED:
            return ""
        return (
            f"the projections have collapsed (spread {metrics['projection_spread']:.3f}): use a lower"
            " pretrain.optim.lr, a larger pretrain.batch_size or a pretrain.momentum nearer to 1"
        )
