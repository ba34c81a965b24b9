"""BYOL-A pretraining on the training clips, then supervised training.

    python -m esc_jax.main --config=configs/byol_a.py

The encoder is that of resnet34_cpu.py. Pretraining uses no labels and no negatives. A linear probe on the pretrained
encoder is reported beside the result.
"""

from esc_jax import config as base


def get_config():
    """The experiment."""
    config = base.load("resnet34_cpu")
    config.pretrain = base.pretrain_defaults("byol_a")
    config.pretrain.epochs = 100
    config.pretrain.batch_size = 64
    config.pretrain.augment.roll = 1.0
    config.pretrain.augment.crop_s = 2.56
    config.pretrain.augment.crop_tries = 2
    config.pretrain.optim.lr = 1e-3
    config.pretrain.optim.schedule = "cosine"
    config.pretrain.optim.warmup_percent = 5.0
    config.pretrain.optim.weight_decay = 0.05
    config.pretrain.optim.clip_norm = 5.0
    return config
