r"""A small transformer on spectrogram patches, trained from scratch.

    python -m esc_jax.main --config=configs/patch_transformer.py \
        --config.data.dir=ESC-50-master --config.data.test_fold=4

Six layers of width 256 on overlapping patches of 16 × 16. Half of the patches of each example are dropped in training
(patchout). Regularization: mixup, random crops with a change of speed, frequency warping, SpecAugment and stochastic
depth. masked_transformer.py pretrains the same network. Results: docs/results.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="patch_transformer")
    config.frontend.hop = 640
    config.frontend.n_fft = 1280
    config.frontend.mels = 64
    config.model.encoder.stride = 10
    config.model.encoder.table = (24, 5)
    config.model.encoder.patchout = 0.5
    config.model.encoder.drop_path = 0.1
    config.model.head.dropout = 0.1
    config.augment.roll = 1.0
    config.augment.crop_s = 4.0
    config.augment.crop_tries = 2
    config.augment.speed_octaves = 0.3
    config.augment.gain_db = 6.0
    config.augment.frequency_warp = 0.1
    config.augment.mixup_alpha = 0.5
    config.augment.time_mask = 20
    config.augment.freq_mask = 8
    config.optim.lr = 1e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0
    config.optim.schedule = "cosine"
    config.optim.warmup_percent = 5.0
    config.train.batch_size = 32
    config.train.epochs = 300
    config.train.label_smoothing = 0.1
    config.train.ema = 0.998
    config.train.checkpoint_epochs = 5
    return config
