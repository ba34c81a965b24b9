"""ResNet-34 from scratch, made cheap enough for two CPU cores."""

from esc_jax import config as base


def get_config():
    """The experiment."""
    config = base.defaults(model="resnet")
    config.frontend.hop = 640
    config.frontend.n_fft = 1280
    config.frontend.mels = 64
    config.model.encoder.width = 32
    config.model.head.dropout = 0.2
    config.augment.roll = 1.0
    config.augment.crop_s = 2.56
    config.augment.crop_tries = 2
    config.augment.speed_octaves = 0.15
    config.augment.gain_db = 6.0
    config.augment.frequency_warp = 0.1
    config.augment.mixup_alpha = 0.3
    config.augment.time_mask = 20
    config.augment.freq_mask = 8
    config.optim.lr = 3e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 5.0
    config.optim.warmup_percent = 15.0
    config.train.epochs = 160
    config.train.label_smoothing = 0.1
    config.train.ema = 0.995
    config.train.checkpoint_epochs = 5
    return config
