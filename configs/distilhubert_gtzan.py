"""The recipe of distilhubert.py on music: GTZAN's ten genres, 30-second tracks cut into windows of 5 s.

    python -m esc_jax.main --config=configs/distilhubert_gtzan.py --config.data.dir=GTZAN

GTZAN is a folder `genres/blues/blues.00000.wav …`; no track has windows on both sides of a split. The published
fine-tune sanchit-gandhi/distilhubert-finetuned-gtzan loads in the same way (--config.model.pretrained), its head and
its ten labels included. Not run here: neither weights nor data could be had.
"""

from configs import distilhubert


def get_config():
    """The experiment."""
    config = distilhubert.get_config()
    config.data.name = "gtzan"
    config.data.on_bad_clip = "skip"  # jazz.00054.wav does not decode in any published copy
    return config
