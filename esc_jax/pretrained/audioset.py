"""The AudioSet head of a published checkpoint: embeddings → logits of 527 sounds."""

import dataclasses
from typing import Any

import jax
import numpy as np

from esc_jax.models import registry
from esc_jax.pretrained import merge

CLASSES = 527


@dataclasses.dataclass(frozen=True)
class AudioSetHead:
    """A head that was trained on AudioSet.

    Attributes:
        options: {"name": key of `models.registry.HEADS`, its fields}.
        params: its arrays. They are kept in half precision, in which the logits change by less than 0.01.
    """

    options: dict[str, Any]
    params: Any

    def __call__(self, embeddings: np.ndarray) -> np.ndarray:
        """(n, D) → (n, 527) float32 logits. An embedding of several levels starts with the one that the head takes."""
        first = next(self.params[name] for name in ("hidden", "projector", "classifier") if name in self.params)
        embeddings = embeddings[:, : np.shape(first["kernel"])[0]]
        options = {key: value for key, value in self.options.items() if key != "name"}
        params = jax.tree.map(lambda x: np.asarray(x, np.float32), self.params)
        return np.asarray(registry.HEADS[self.options["name"]](**options).apply({"params": params}, embeddings))


def head(config: Any) -> AudioSetHead | None:
    """The head of the checkpoint that `model.pretrained` of a config names; None without one on AudioSet.

    Raises:
        PretrainedError: the checkpoint cannot be read.
    """
    if not config.model.pretrained:
        return None
    checkpoint = merge.read(config.model.name, config.model.pretrained)
    params = checkpoint.variables["params"].get("head")
    if not params or checkpoint.head.get("classes") != CLASSES:
        return None
    return AudioSetHead(dict(checkpoint.head), jax.tree.map(lambda x: np.asarray(x, np.float16), params))
