"""ResNet-34 on ESC-50, reduced for two CPU cores: half the width and a quarter of the spectrogram.

    python -m esc_jax.main --config=configs/resnet34_cpu.py --config.data.dir=ESC-50-master --config.data.test_fold=4

The recipe is that of resnet34.py with shorter crops. Results: docs/results.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("resnet34")
    config.frontend.hop = 640
    config.frontend.n_fft = 1280
    config.frontend.mels = 64
    config.model.encoder.width = 32
    config.augment.crop_s = 2.56
    config.augment.speed_octaves = 0.2
    config.augment.mixup_alpha = 0.5
    config.augment.time_mask = 20
    config.augment.freq_mask = 10
    config.optim.lr = 3e-3
    config.train.epochs = 240
    config.train.ema = 0.995
    return config
