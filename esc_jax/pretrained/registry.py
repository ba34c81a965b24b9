"""Readers of published checkpoints by architecture."""

from collections.abc import Callable

from esc_jax.extensions import Registry
from esc_jax.pretrained import beats, dymn, efficientat, efficientnet, hubert
from esc_jax.pretrained.published import PublishedCheckpoint

READERS: Registry[Callable[[str], PublishedCheckpoint]] = Registry(
    "esc_jax.pretrained",
    {
        "beats": beats.read,
        "dymn": dymn.read,
        "efficientat": efficientat.read,
        "efficientnet": efficientnet.read,
        "hubert": hubert.read,
    },
)
FILE_ONLY = ("beats", "dymn", "efficientat")  # published as files, never as directories
DIRECTORY_ONLY = ("hubert",)
# Data of the published checkpoints.
TRAINED_ON = {
    "beats": "AudioSet",
    "dymn": "AudioSet",
    "efficientat": "AudioSet",
    "efficientnet": "ImageNet",
    "hubert": "LibriSpeech",
}
