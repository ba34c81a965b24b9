"""ResNet-34 from scratch, made cheap enough for two CPU cores: half the width, a quarter of the spectrogram.

    python -m esc_jax.main --config=configs/resnet34_cpu.py --config.data.dir=ESC-50-master --config.data.test_fold=4

An epoch over 800 clips takes about 12 s on two cores of an AMD EPYC (Zen 3), so the schedule 45 to 60 minutes over
1,200. It has not been run whole yet; 45 epochs gave 58.25 % on fold 3 after training on folds 1 and 2 (README.md).
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
