"""SimCLR with the baseline recipe of a public write-up: weak augmentation.

    python -m esc_jax.main --config=configs/simclr_writeup.py

ResNet-34, a projection head of widths 512, 512 and 128, and a temperature of 0.5; then supervised fine-tuning, with a
linear probe of the pretrained encoder beside it. The recipe is a reference for simclr.py and needs a GPU.
docs/results/self-supervision.md has the result of its views and temperature with a smaller network.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("resnet34")
    config.pretrain = base.pretrain_defaults("simclr")
    config.pretrain.temperature = 0.5
    config.pretrain.epochs = 100
    config.pretrain.batch_size = 64
    config.pretrain.augment.roll = 1.0
    config.pretrain.augment.gain_db = 6.0
    config.pretrain.augment.noise = 0.1
    config.pretrain.augment.time_mask = 30
    config.pretrain.augment.freq_mask = 8
    config.train.epochs = 100
    return config
