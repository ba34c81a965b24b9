"""A model with everything needed to call it, and its creation from a config."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from esc_jax.frontends import registry as frontends
from esc_jax.models import registry
from esc_jax.models.encoder import Classifier
from esc_jax.runtime import devices

Variables = dict[str, Any]
_INIT_FRAMES = 64


@dataclasses.dataclass(frozen=True)
class Model:
    """A classifier with its frontend, its weights and what its input and output are.

    Attributes:
        module: features → logits.
        frontend: (B, time) waveforms → features.
        variables: {"params", "batch_stats"}.
        classes: class names in the order of the logits.
        sample_rate: of the waveforms, Hz.
        clip_s: length of a training clip, s. Shorter input is padded with zeros at the end.
        mask_padding: whether the module receives a mask of that padding.
    """

    module: Classifier
    frontend: Callable[..., jax.Array]
    variables: Variables
    classes: tuple[str, ...]
    sample_rate: int
    clip_s: float
    mask_padding: bool = False

    @property
    def clip_samples(self) -> int:
        """Samples of a training clip."""
        return round(self.clip_s * self.sample_rate)

    @property
    def parameter_count(self) -> int:
        """Number of parameters; running statistics are not counted."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.variables["params"]))

    def with_variables(self, variables: Variables) -> "Model":
        """The same model with other weights."""
        return dataclasses.replace(self, variables=variables)


def update_hash(checksum: "hashlib._Hash", variables: Variables) -> None:
    """Adds the paths and values of all arrays to a hash of `hashlib`."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables):
        checksum.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())


def abstract(config: Mapping[str, Any], classes: Sequence[str]) -> tuple[Model, Callable[[jax.Array], Variables]]:
    """The model of a config without weights, and the function of a PRNG key that draws them.

    Args:
        config: with `model`, `frontend`, `data` (sample_rate, clip_s, mask_padding) and `augment.crop_s`.
        classes: class names in the order of the logits.

    Raises:
        FrontendError, ModelError: the config describes no frontend or no model.
    """
    data = config["data"]
    frontend = frontends.build(config["frontend"], data["sample_rate"])
    module = registry.build(config["model"], len(classes), axis_name=devices.AXIS)
    samples = round((config["augment"]["crop_s"] or data["clip_s"]) * data["sample_rate"])

    def initialize(key: jax.Array) -> Variables:
        # No shape of a variable depends on the length, and some constants grow with its square.
        features = frontend(jnp.zeros((1, min(samples, int(data["sample_rate"])))))
        variables = module.init(key, features[:, :_INIT_FRAMES] if features.ndim == 3 else features)
        return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}

    model = Model(
        module=module,
        frontend=frontend,
        variables={},
        classes=tuple(classes),
        sample_rate=int(data["sample_rate"]),
        clip_s=float(data["clip_s"]),
        mask_padding=bool(data["mask_padding"]),
    )
    return model, initialize


def create(config: Mapping[str, Any], classes: Sequence[str], seed: int = 0) -> Model:
    """The model of a config with random weights. Published weights are loaded by `pretrained.load.initialize`.

    Args:
        config, classes: as in `abstract`.
        seed: of the weights.
    """
    model, initialize = abstract(config, classes)
    # This program runs once. Optimizing its hundreds of random draws costs ten times what it saves. Even without, a GPU
    # takes 12 s to compile it.
    draw = jax.jit(initialize, compiler_options={"xla_backend_optimization_level": 0})
    return model.with_variables(devices.run_on_host(lambda: draw(jax.random.key(seed))))
