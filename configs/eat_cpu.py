"""A small EAT on shorter crops, trained from scratch, for two CPU cores.

    python -m esc_jax.main --config=configs/eat_cpu.py --config.data.dir=ESC-50-master --config.data.test_fold=4

The recipe is that of resnet34_cpu.py without the augmentations of spectrograms. The waveform is at 16 kHz, the stem has
half the width of EAT-S, and the second stage is left out. This config has not been run for all of its epochs.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    recipe = base.load("resnet34_cpu")
    config = base.defaults(model="eat", frontend="raw")
    for part in ("augment", "optim", "train"):
        config[part].update(recipe[part])
    config.data.sample_rate = 16_000
    config.model.encoder.update(width=8, stage_strides=(2,), layers=3, heads=4, ffn=256, positions=160)
    config.model.head.dropout = recipe.model.head.dropout
    config.augment.frequency_warp = 0.0
    config.augment.time_mask = 0
    config.augment.freq_mask = 0
    return config
