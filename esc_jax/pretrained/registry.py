"""Readers of published checkpoints, by architecture."""

from esc_jax.pretrained import beats, efficientat, efficientnet, hubert

READERS = {
    "beats": beats.read,
    "efficientat": efficientat.read,
    "efficientnet": efficientnet.read,
    "hubert": hubert.read,
}
FILES, DIRECTORIES = ("beats", "efficientat"), ("hubert",)  # published as these alone
