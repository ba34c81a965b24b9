"""A linear head on frozen EfficientAT embeddings (MobileNetV3, pretrained on AudioSet).

    python -m esc_jax.main --config=configs/efficientat_frozen.py --config.model.pretrained=mn04_as --mode=crossval

Start here for data of your own. The weights are those of github.com/fschmid56/EfficientAT (MIT). Each clip passes the
encoder once, and the regularization of each fold's head is selected within its training folds. Results: docs/results.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="efficientat", head="linear", frontend="efficientat_mel")
    config.method = "probe"
    return config
