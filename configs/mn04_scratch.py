"""EfficientAT mn04 (MobileNetV3 at a width of 0.4) from random weights, for two CPU cores.

    python -m esc_jax.main --config=configs/mn04_scratch.py --config.data.dir=ESC-50-master --config.data.test_fold=4

Frontend and recipe are those of resnet34_cpu.py. This config has not been run for all of its epochs.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    recipe = base.load("resnet34_cpu")
    config = base.defaults(model="efficientat")
    for part in ("frontend", "augment", "optim", "train"):
        config[part].update(recipe[part])
    config.model.encoder.width_mult = 0.4
    config.model.head.dropout = recipe.model.head.dropout
    return config
