"""SimCLR with strong augmentation: self-supervised pretraining, then supervised fine-tuning.

    python -m esc_jax.main --config=configs/simclr.py
    python -m esc_jax.main --config=configs/simclr.py --config.data.dir=ESC-50-master --config.data.test_fold=4

The encoder is that of resnet34_cpu.py. It is pretrained on the clips of the training folds without their labels. Views
are random crops with a change of speed, mixed with other clips as background, and masked in time and frequency. A
linear probe of the pretrained encoder is reported beside the fine-tuned model. Results: docs/results.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("resnet34_cpu")
    config.pretrain = base.pretrain_defaults("simclr")
    config.pretrain.temperature = 0.2
    config.pretrain.epochs = 100
    config.pretrain.batch_size = 64
    config.pretrain.background_mix = 0.4
    config.pretrain.augment.roll = 1.0
    config.pretrain.augment.crop_s = 2.56
    config.pretrain.augment.crop_tries = 2
    config.pretrain.augment.speed_octaves = 0.3
    config.pretrain.augment.gain_db = 12.0
    config.pretrain.augment.frequency_warp = 0.2
    config.pretrain.augment.time_mask = 24
    config.pretrain.augment.freq_mask = 16
    config.pretrain.optim.lr = 2e-3
    config.pretrain.optim.schedule = "cosine"
    config.pretrain.optim.warmup_percent = 5.0
    config.pretrain.optim.weight_decay = 0.05
    config.pretrain.optim.clip_norm = 5.0
    return config
