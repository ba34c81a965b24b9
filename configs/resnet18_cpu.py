"""ResNet-18 of a quarter of the width on ESC-50, trained from scratch on two CPU cores.

    python -m esc_jax.main --config=configs/resnet18_cpu.py --config.data.dir=ESC-50-master --mode=crossval

Augmentation: rotation, crops with a change of speed, gain, and mixup of waveforms. The ablation of single ingredients,
launch/ingredients.txt, starts from this config. It has been run for all epochs with model.head.pooling=attention:
docs/results has the accuracy of three seeds.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("resnet34_cpu")
    config.model.encoder.stage_sizes = (2, 2, 2, 2)
    config.model.encoder.width = 16
    config.model.head.dropout = 0.0
    config.augment.mixup_alpha = 1.0
    config.augment.time_mask = 0
    config.augment.freq_mask = 0
    config.augment.frequency_warp = 0.0
    config.train.label_smoothing = 0.0
    config.train.epochs = 240
    return config
