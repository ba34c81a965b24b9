"""A first run on synthesized sounds, used by `make run`.

    python -m esc_jax.main --config=configs/quickstart.py

A narrow ResNet-18 on 480 clips of 12 classes. Four folds are for training and one is for testing. No download is
needed.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="resnet")
    config.data.name = "synthetic"
    config.data.sample_rate = 16_000
    config.frontend.n_fft = 512
    config.frontend.hop = 256
    config.frontend.mels = 64
    config.model.encoder.stage_sizes = (2, 2, 2, 2)
    config.model.encoder.width = 16
    config.augment.roll = 1.0
    config.augment.gain_db = 6.0
    config.augment.time_mask = 24
    config.augment.freq_mask = 8
    config.optim.lr = 3e-3
    config.train.epochs = 12
    return config
