"""A linear head on frozen EfficientAT embeddings (AudioSet-pretrained MobileNetV3): the place to start.

    python -m esc_jax.main --config=configs/efficientat_frozen.py --config.model.pretrained=mn04_as_mAP_432.pt \\
        --mode=crossval

93.56 % (94.75, 93.75, 91.75, 94.00), and 93.69 % with five views, over folds 1 to 4 of ESC-50, each tested after
training on the other three (protocol holdout, 2026-11-22), in 2 min 19 s on two cores of an AMD EPYC (Zen 3), the
embedding of 1,600 clips in five views included.

The checkpoint comes from github.com/fschmid56/EfficientAT (releases, `mn04_as` and its relatives, MIT). The clips pass
the encoder once; the regularisation of each fold's head is chosen inside its training folds.
"""

from esc_jax import config as base


def get_config():
    """The experiment."""
    config = base.defaults(model="efficientat", head="linear", frontend="efficientat_mel")
    config.method = "probe"
    return config
