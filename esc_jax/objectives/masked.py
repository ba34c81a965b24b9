"""Masked prediction: patches of a spectrogram are masked, and their tokens are predicted.

Bao et al., "BEiT" (2022); Chen et al., "BEATs" (2022).
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import pathlib
from typing import Any, NamedTuple, Self

from absl import logging
from flax import struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from esc_jax.augment import draws
from esc_jax.augment import options as augmentations
from esc_jax.errors import ConfigError
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.masked import MaskedPredictor, VisiblePredictor
from esc_jax.models.model import Model, Variables, update_hash
from esc_jax.objectives.base import Batch, Context, Keys, LossOutput, Objective, to_float
from esc_jax.objectives.views import augment_with_background
from esc_jax.ops import patches
from esc_jax.runtime import devices, processes
from esc_jax.tokenizers import kmeans
from esc_jax.tokenizers.targets import Targets

# Shapes of the blocks that are masked together.
KINDS = ("random", "block", "time", "frequency")
MAX_VECTORS = 1 << 19  # that a tokenizer is fitted to: half a gigabyte of patches


def masked_count(rows: int, columns: int, ratio: float) -> int:
    """Number of masked patches of a grid."""
    return round(rows * columns * ratio)


def random_mask(
    key: jax.Array, rows: int, columns: int, ratio: float, kind: str = "random", block: int = 1
) -> jax.Array:
    """(rows, columns) bool, true in exactly `masked_count` places.

    The grid is tiled by blocks from a random offset. Blocks are masked in a random order until there are enough; the
    last one is masked in part. A block is one patch (`random`), `block` × `block` patches (`block`), `block` rows in
    all columns (`time`) or `block` columns in all rows (`frequency`).

    Args:
        key: PRNG key.
        rows, columns: of the grid, time and frequency.
        ratio: share of masked patches.
        kind: one of KINDS.
        block: size of a block in patches.
    """
    height, width = {"random": (1, 1), "block": (block, block), "time": (block, columns), "frequency": (rows, block)}[
        kind
    ]
    offset_key, block_key, tie_key = jax.random.split(key, 3)
    offsets = jax.random.randint(offset_key, (2,), 0, jnp.array([height, width]))
    # A tile that spans an axis has no offset there. It would be split in two.
    row = (jnp.arange(rows) + (offsets[0] if height < rows else 0)) // height
    column = (jnp.arange(columns) + (offsets[1] if width < columns else 0)) // width
    order = jax.random.permutation(block_key, (rows // height + 2) * (columns // width + 2))
    rank = order[row[:, None] * (columns // width + 2) + column[None]]
    within = jax.random.uniform(tie_key, (rows, columns))
    positions = jnp.argsort((rank.astype(jnp.float32) + within).reshape(-1))[: masked_count(rows, columns, ratio)]
    return jnp.zeros(rows * columns, bool).at[positions].set(True).reshape(rows, columns)


@struct.dataclass
class MaskedLoss:
    """(B,) means over the masked patches of each example.

    Attributes:
        loss: cross-entropy, nats.
        hit: share of patches whose most likely token is correct.
    """

    loss: jax.Array
    hit: jax.Array


def masked_cross_entropy(logits: jax.Array, tokens: jax.Array, mask: jax.Array) -> MaskedLoss:
    """Cross-entropy of the tokens of masked patches.

    Args:
        logits: (B, rows, columns, K).
        tokens: (B, rows, columns), below K.
        mask: (B, rows, columns) bool, true somewhere in every example.
    """
    losses = optax.losses.softmax_cross_entropy_with_integer_labels(logits, tokens)
    hits = (logits.argmax(-1) == tokens).astype(jnp.float32)
    number = mask.sum((1, 2)).astype(jnp.float32)

    def mean(x: jax.Array) -> jax.Array:
        return jnp.where(mask, x, 0.0).sum((1, 2)) / number

    return MaskedLoss(loss=mean(losses), hit=mean(hits))


def clip_loss(prediction: jax.Array, vectors: jax.Array) -> jax.Array:
    """(B,) squared error of a prediction of the clip's mean patch vector, normalized:

        ‖g − (v − mean v) / std v‖² / D,   v = mean over patches

    It is 1 for a prediction of zero. Source: the utterance-level objective of Chen et al., "EAT: Self-supervised
    pre-training with efficient audio transformer" (2024).

    Args:
        prediction: (B, D).
        vectors: (B, rows, columns, D).
    """
    target = jax.nn.standardize(vectors.mean((1, 2)), epsilon=1e-6)
    return jnp.square(prediction - jax.lax.stop_gradient(target)).mean(-1)


class Inputs(NamedTuple):
    """Features (B, frames, bins), tokens and mask (B, rows, columns), and the vectors that tokens stand for."""

    features: jax.Array
    tokens: jax.Array
    mask: jax.Array
    vectors: jax.Array


class Masked(Objective):
    """Cross-entropy of the k-means tokens of masked patches.

    The first round clusters the patches, or the features of `teacher`. Each later round clusters the features of the
    encoder that the round before has learned, and trains another encoder from the same start.

    Args:
        config: `pretrain` of a config.
        model: encoder and frontend.
        targets: patches → vectors → tokens.
        teacher: weights of the teacher; empty without one.
        codebook: fitted to `targets`.
        grid: rows and columns of patches of a training example.
    """

    name = "masked"
    ranges = {
        "rounds": (1, 100),
        "patch_size": (1, 1024),
        "mask_ratio": (0, 1),
        "mask_block": (1, 1024),
        "predictor_layers": (0, 100),
        "clusters": (2, 1 << 20),
        "cluster_iterations": (1, 10_000),
        "clip_loss_weight": (0, 1e6),
        "background_mix": (0, 1),
    }
    choices = {"mask_kind": KINDS}

    def __init__(
        self,
        config: Any,
        model: Model,
        targets: Targets,
        teacher: Mapping[str, Any],
        codebook: kmeans.Codebook,
        grid: tuple[int, int],
    ):
        encoder = _without_patchout(model.module.encoder)
        clip_dim = codebook.centroids.shape[1] if config.clip_loss_weight else 0
        if config.predictor_layers:
            count = masked_count(*grid, config.mask_ratio)
            self.module = VisiblePredictor(
                encoder=encoder,
                vocabulary_size=config.clusters,
                num_masked=count,
                layers=config.predictor_layers,
                clip_dim=clip_dim,
            )
        else:
            self.module = MaskedPredictor(encoder, config.clusters, config.patch_size, clip_dim)
        self.constants = {"teacher": teacher, "centroids": jnp.asarray(codebook.centroids)}
        super().__init__(config, model)
        self._targets = targets
        self._codebook = codebook
        self._grid = grid

    @staticmethod
    def defaults() -> dict[str, Any]:
        """Keys of masked prediction."""
        return {
            "rounds": 1,
            "patch_size": 16,  # frames and bins
            "mask_ratio": 0.4,  # share of the patches that are masked
            "mask_kind": "random",  # or "block", "time", "frequency"
            "mask_block": 3,  # patches along the sides of a block; random masks single patches
            "predictor_layers": 0,  # layers behind an encoder that sees the visible patches only; 0: it sees all
            "clusters": 256,
            "cluster_iterations": 50,  # of k-means, at most
            "teacher": "",  # whose features are clustered in the first round: a published checkpoint or a run
            "clip_loss_weight": 0.0,  # of the prediction of the clip's mean vector
            "background_mix": 0.0,  # largest share of another clip that is mixed in
        }

    @classmethod
    def check(cls, config: Any) -> None:
        """Augmentations of the spectrogram have no effect here: the mask is drawn after the frontend."""
        for key in augmentations.ON_SPECTROGRAM:
            if config.pretrain.augment[key]:
                raise ConfigError(
                    f"config.pretrain.augment.{key}={config.pretrain.augment[key]} has no effect in masked prediction:"
                    " set it to 0"
                )

    @classmethod
    def check_data(cls, config: Any, model: Model, train_clips: int) -> None:
        """Something is masked and something is visible; there are patches enough for the clusters."""
        pretrain = config.pretrain
        size = pretrain.patch_size
        rows, columns = patch_grid(model, size, pretrain.augment.crop_s)
        count = masked_count(rows, columns, pretrain.mask_ratio)
        if not 0 < count < rows * columns:
            problem = "masks no patch, so nothing is predicted" if not count else "masks every patch"
            raise ConfigError(
                f"config.pretrain.mask_ratio={pretrain.mask_ratio:g} of {rows * columns} patches ({size} × {size})"
                f" {problem}"
            )
        encoder = config.model.encoder
        geometry = (encoder.patch, encoder.stride) if config.model.name == "patch_transformer" else ()
        if pretrain.predictor_layers and geometry != (size, size):
            raise ConfigError(
                f"config.pretrain.predictor_layers={pretrain.predictor_layers} needs an encoder of visible patches:"
                f" model.name=patch_transformer with model.encoder.patch={size} and model.encoder.stride={size}, equal"
                " to pretrain.patch_size"
            )
        clip_rows, clip_columns = patch_grid(model, size, 0.0)
        available = train_clips * clip_rows * clip_columns
        if pretrain.clusters > available:
            raise ConfigError(
                f"config.pretrain.clusters={pretrain.clusters} is more than the {available} patches of the training"
                " clips"
            )

    @classmethod
    def rounds(cls, config: Any) -> int:
        """`pretrain.rounds`."""
        return config.pretrain.rounds

    @classmethod
    def create(cls, context: Context) -> Self:
        """Loads the teacher and fits the tokenizer, which is kept in the folder of the stage."""
        pretrain, model = context.config.pretrain, context.model
        targets, teacher = _targets(context)
        with processes.main_process_first(f"tokenizer of round {context.round}"):
            codebook = _fit_tokenizer(context, targets, teacher)
        grid = patch_grid(model, pretrain.patch_size, pretrain.augment.crop_s)
        return cls(pretrain, model, targets, teacher, codebook, grid)

    def init(self, key: jax.Array, features: jax.Array) -> Variables:
        """Variables for features of a training example and an empty mask."""
        return dict(self.module.init(key, features, jnp.zeros((1, *self._grid), bool)))

    def inputs(self, constants: Any, key: jax.Array, batch: Batch) -> Inputs:
        """Features of augmented clips, with tokens of the same audio: tokens follow the augmentation."""
        wave_key, mask_key = jax.random.split(key)
        audio = augment_with_background(self._config, self._model.sample_rate, wave_key, to_float(batch["audio"]))
        features = self._model.frontend(audio)
        tokens, vectors = self._targets(constants, audio, features)
        rows, columns = self._grid
        config = self._config
        keys = draws.keys_at(mask_key, devices.example_positions(len(audio)))
        mask = jax.vmap(
            lambda key: random_mask(key, rows, columns, config.mask_ratio, config.mask_kind, config.mask_block)
        )(keys)
        return Inputs(features, tokens, mask, vectors)

    def loss(self, variables: Variables, carry: Any, constants: Any, inputs: Inputs, keys: Keys) -> LossOutput:
        """Cross-entropy of masked patches, with `pretext_accuracy`, the share of correct tokens, and `clip_error`."""
        prediction, updates = self.module.apply(
            variables, inputs.features, inputs.mask, train=True, mutable=["batch_stats"], rngs=keys.rngs()
        )
        result = masked_cross_entropy(prediction.logits, inputs.tokens, inputs.mask)
        loss, metrics = result.loss, {"pretext_accuracy": result.hit}
        if self._config.clip_loss_weight:
            metrics |= {"token_loss": loss, "clip_error": clip_loss(prediction.clip, inputs.vectors)}
            loss = loss + self._config.clip_loss_weight * metrics["clip_error"]
        return LossOutput(loss, metrics, updates.get("batch_stats", {}))

    def tokens(self, constants: Any, audio: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Features (B, frames, bins) and tokens (B, rows, columns) of 16-bit clips, for pictures."""
        audio = to_float(audio)
        features = self._model.frontend(audio)
        return features, self._targets(constants, audio, features)[0]

    def report(self) -> dict[str, Any]:
        """Entropy, inertia and use of the tokenizer."""
        return {"tokenizer": self._codebook.report()}


def patch_grid(model: Model, patch_size: int, seconds: float) -> tuple[int, int]:
    """Rows and columns of the patches of a sound; 0 seconds stand for a training clip."""
    samples = round((seconds or model.clip_s) * model.sample_rate)
    shape = jax.eval_shape(model.frontend, jax.ShapeDtypeStruct((1, samples), jnp.float32)).shape
    if len(shape) != 3:
        raise ConfigError("config.pretrain.objective=masked needs a frontend that gives a spectrogram, not raw audio")
    return patches.patch_grid(shape[1], shape[2], patch_size)


def _without_patchout(encoder: Any) -> Any:
    """The encoder with all of its patches: what patchout leaves out may have to be predicted."""
    return encoder.clone(patchout=0.0) if hasattr(encoder, "patchout") else encoder


def _targets(context: Context) -> tuple[Targets, Mapping[str, Any]]:
    """What the tokenizer clusters, and the weights of its teacher."""
    pretrain, model = context.config.pretrain, context.model
    if context.previous is not None:  # its head does not take part in features
        encoder = _without_patchout(context.previous.module.encoder)
        return Targets(pretrain.patch_size, Classifier(encoder, heads.Linear(classes=1))), context.previous.variables
    if not pretrain.teacher:
        return Targets(pretrain.patch_size), {}
    teacher = context.load_model(pretrain.teacher)
    if teacher.sample_rate != model.sample_rate:
        raise ConfigError(
            f"config.pretrain.teacher was trained at {teacher.sample_rate} Hz: set"
            f" config.data.sample_rate={teacher.sample_rate}"
        )
    return Targets(pretrain.patch_size, teacher.module, teacher.frontend), teacher.variables


def _fit_tokenizer(context: Context, targets: Targets, teacher: Mapping[str, Any]) -> kmeans.Codebook:
    """Codebook of the vectors of training clips; read from the stage's folder where they were fitted before.

    Raises:
        ConfigError: the stage has begun with a codebook of other clips or of another teacher.
    """
    path: pathlib.Path = context.folder / "tokenizer.npz"
    pretrain, model = context.config.pretrain, context.model
    fitted_on = _identifier(context, teacher)
    if codebook := kmeans.Codebook.load(path):
        if codebook.fitted_on in ("", fitted_on):
            return codebook
        if any((context.folder / "checkpoints").glob("*")):
            raise ConfigError(
                f"{context.folder} was started on other training clips or with another teacher: choose another"
                " --workdir"
            )
        logging.warning("the tokenizer in %s is fitted again: it is of other training clips or another teacher", path)
    rows, columns = patch_grid(model, pretrain.patch_size, 0.0)
    indices = context.train[:: -(-len(context.train) * rows * columns // MAX_VECTORS)]

    @jax.jit
    def vectors(weights: Any, audio: jax.Array) -> jax.Array:
        audio = to_float(audio)
        return targets.vectors(weights, audio, model.frontend(audio))[None]

    x = np.asarray(context.map_clips(vectors, teacher, indices))[0]
    x = x.reshape(-1, x.shape[-1])
    key = jax.random.key(context.config.seed)
    codebook = kmeans.fit(x, pretrain.clusters, key, pretrain.cluster_iterations)
    codebook = dataclasses.replace(codebook, fitted_on=fitted_on)
    logging.info(
        "tokenizer: %d of %d tokens used for %d patches, entropy %.2f bits, mean squared distance %.4g",
        codebook.used, len(codebook.centroids), len(x), codebook.entropy_bits, codebook.inertia,
    )  # fmt: skip
    codebook.save(path)
    return codebook


def _identifier(context: Context, teacher: Mapping[str, Any]) -> str:
    """Hash of what the vectors of the tokenizer depend on beside the config: the training clips and the teacher."""
    checksum = hashlib.sha256(repr((context.clips.identity, tuple(context.train))).encode())
    update_hash(checksum, dict(teacher))
    return checksum.hexdigest()[:16]
