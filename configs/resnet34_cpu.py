"""ResNet-34 from scratch, made cheap enough for two CPU cores: half the width, a quarter of the spectrogram.

    python -m esc_jax.main --config=configs/resnet34_cpu.py --config.data.dir=ESC-50-master --config.data.test_fold=4

An epoch over 1,200 clips takes about 25 s on two cores of an AMD EPYC (Zen 3). The whole schedule has not been run
yet; README.md has what was measured of an earlier state of it.
"""

from configs import resnet34


def get_config():
    """The experiment."""
    config = resnet34.get_config()
    config.frontend.hop = 640
    config.frontend.n_fft = 1280
    config.frontend.mels = 64
    config.model.encoder.width = 32
    config.augment.crop_s = 2.56
    config.augment.speed_octaves = 0.15
    config.augment.mixup_alpha = 0.3
    config.augment.time_mask = 20
    config.augment.freq_mask = 8
    config.optim.lr = 3e-3
    config.train.epochs = 160
    config.train.ema = 0.995
    return config
