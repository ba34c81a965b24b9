"""EfficientAT (MobileNetV3, pretrained on AudioSet), fine-tuned from a linear probe with averaged weights.

    python -m esc_jax.main --config=configs/efficientat_finetune.py --config.model.pretrained=mn04_as --mode=crossval

The weights are those of github.com/fschmid56/EfficientAT (MIT). The head starts from a linear probe.
Depthwise convolutions, squeeze-and-excitation and normalization layers are trained; 1×1 convolutions and the stem are
frozen. The final weights are interpolated with the initial ones (WiSE-FT). Results and ablations: docs/results.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="efficientat", head="linear", frontend="efficientat_mel")
    config.model.eval_mode = "encoder/.*norm"
    config.augment.roll = 1.0
    config.augment.gain_db = 6.0
    config.augment.mixup_alpha = 0.3
    config.optim.lr = 1e-3
    config.optim.groups = (("encoder/(.*/)?(expand|project|last|stem)/conv/kernel", 0.0),)
    config.optim.schedule = "constant"
    config.optim.warmup_percent = 10.0
    config.optim.clip_norm = 1.0
    config.train.epochs = 12
    config.train.head_from_probe = True
    config.train.wise_ft_alpha = 0.3
    config.train.ema = 0.998
    return config
