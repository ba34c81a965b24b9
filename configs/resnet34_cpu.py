"""ResNet-34 from scratch, made cheap enough for two CPU cores: half the width, a quarter of the spectrogram.

    python -m esc_jax.main --config=configs/resnet34_cpu.py --config.data.dir=ESC-50-master --config.data.test_fold=4

81.00 %, and 82.00 % with five views, on fold 4 after training on folds 1 to 3 (1,200 clips, protocol holdout, one run,
2026-11-22) in 1 h 51 min on two cores of an AMD EPYC (Zen 3, no AVX-512) that other work shared; alone, an epoch takes
about 18 s, so the run well over an hour. With GLIBC_TUNABLES=glibc.malloc.hugetlb=1 before the command, on Linux.
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
    config.augment.speed_octaves = 0.2
    config.augment.mixup_alpha = 0.5
    config.augment.time_mask = 20
    config.augment.freq_mask = 10
    config.optim.lr = 3e-3
    config.train.epochs = 240
    config.train.ema = 0.995
    return config
