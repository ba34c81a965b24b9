"""DistilHuBERT on GTZAN: ten music genres, 30-second tracks cut into windows of 5 seconds.

    python -m esc_jax.main --config=configs/distilhubert_gtzan.py --config.data.dir=GTZAN

The data folder holds `genres/blues/blues.00000.wav` and so on. All windows of a track are in the same split. A
published fine-tuned model (sanchit-gandhi/distilhubert-finetuned-gtzan) can be loaded with --config.model.pretrained,
its head included. This config has been run with neither the published weights nor the published data.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("distilhubert")
    config.data.name = "gtzan"
    config.data.on_bad_clip = "skip"  # jazz.00054.wav does not decode in any published copy
    return config
