"""A linear head on frozen EfficientAT embeddings (AudioSet-pretrained MobileNetV3): the place to start.

    python -m esc_jax.main --config=configs/efficientat_frozen.py --config.model.pretrained=mn04_as_mAP_432.pt \\
        --mode=crossval

The checkpoint comes from github.com/fschmid56/EfficientAT (releases, `mn04_as` and its relatives, MIT). The clips pass
the encoder once; the regularisation of each fold's head is chosen inside its training folds.
"""

from esc_jax import config as base


def get_config():
    """The experiment."""
    config = base.defaults(model="efficientat", head="linear", frontend="efficientat_mel")
    config.method = "probe"
    return config
