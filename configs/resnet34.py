"""ResNet-34 on ESC-50, trained from scratch at full width and resolution. It needs a GPU.

    python -m esc_jax.main --config=configs/resnet34.py
    python -m esc_jax.main --config=configs/resnet34.py --config.data.dir=ESC-50-master --config.data.test_fold=4

Augmentation: rotation in time, random crops with a change of speed, gain, mixup of waveforms, frequency warping and
SpecAugment. AdamW with a one-cycle schedule; the moving average of the weights is evaluated. This config has not been
run for all of its epochs. resnet34_cpu.py is the variant for two CPU cores.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="resnet")
    config.model.head.dropout = 0.2
    config.augment.roll = 1.0
    config.augment.crop_s = 4.0
    config.augment.crop_tries = 2
    config.augment.speed_octaves = 0.2
    config.augment.gain_db = 6.0
    config.augment.frequency_warp = 0.1
    config.augment.mixup_alpha = 0.5
    config.augment.time_mask = 60
    config.augment.freq_mask = 16
    config.optim.lr = 2e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 5.0
    config.optim.warmup_percent = 15.0
    config.train.epochs = 300
    config.train.label_smoothing = 0.1
    config.train.ema = 0.999
    config.train.checkpoint_epochs = 5
    return config
