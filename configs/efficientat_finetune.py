"""EfficientAT (AudioSet-pretrained MobileNetV3) fine-tuned from a linear probe, and averaged with where it started.

    python -m esc_jax.main --config=configs/efficientat_finetune.py --config.model.pretrained=mn04_as_mAP_432.pt \\
        --mode=crossval

The checkpoint comes from github.com/fschmid56/EfficientAT (releases, `mn04_as` and its relatives, MIT).
"""

from esc_jax import config as base


def get_config():
    """The experiment."""
    config = base.defaults(model="efficientat", head="linear", frontend="efficientat_mel")
    config.model.evaluating = "encoder/.*norm"
    config.augment.roll = 1.0
    config.augment.gain_db = 6.0
    config.augment.mixup_alpha = 0.3
    config.optim.lr = 2e-4
    config.optim.schedule = "cosine"
    config.optim.warmup_percent = 10.0
    config.optim.clip_norm = 1.0
    config.train.epochs = 12
    config.train.head_from_probe = True
    config.train.start_share = 0.5
    config.train.ema = 0.99
    return config
