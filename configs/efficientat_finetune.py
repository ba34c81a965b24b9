"""EfficientAT (AudioSet-pretrained MobileNetV3), fine-tuned with a slow encoder and a fast head.

    python -m esc_jax.main --config=configs/efficientat_finetune.py --config.model.pretrained=mn04_as_mAP_432.pt

The checkpoint comes from github.com/fschmid56/EfficientAT (releases, `mn04_as` and its relatives, MIT).
The recipe is a starting point and has not been tuned: 15 epochs of it gave 90.00 % (90.50 % with five views) on fold 4
after training on folds 1 to 3, which is below what a linear probe on the frozen encoder is known to give.
"""

from esc_jax import config as base


def get_config():
    """The experiment."""
    config = base.defaults(model="efficientat", head="linear", frontend="efficientat_mel")
    config.augment.roll = 1.0
    config.augment.gain_db = 6.0
    config.augment.mixup_alpha = 0.3
    config.optim.lr = 1e-3
    config.optim.groups = (("encoder/.*", 0.05),)
    config.optim.schedule = "cosine"
    config.optim.warmup_percent = 10.0
    config.optim.clip_norm = 1.0
    config.train.epochs = 20
    config.train.ema = 0.99
    return config
