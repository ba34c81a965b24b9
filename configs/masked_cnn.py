r"""Masked prediction on a CNN: self-supervised pretraining, then supervised fine-tuning.

    python -m esc_jax.main --config=configs/masked_cnn.py --config.data.dir=ESC-50-master --config.data.test_fold=4

The encoder is that of resnet34_cpu.py. 40 % of the 16 × 16 patches are masked in blocks of 2 × 2, and the network
predicts the token of each masked patch: one of 256 k-means clusters of training patches. Clusters of a published
encoder's features are better targets: --config.pretrain.teacher=mn04_as with
--config.pretrain.clip_loss_weight=10. Results: docs/results.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("resnet34_cpu")
    config.pretrain = base.pretrain_defaults("masked")
    config.pretrain.epochs = 100
    config.pretrain.batch_size = 64
    config.pretrain.mask_kind = "block"
    config.pretrain.mask_block = 2
    config.pretrain.augment.roll = 1.0
    config.pretrain.augment.crop_s = 4.0
    config.pretrain.augment.speed_octaves = 0.2
    config.pretrain.augment.gain_db = 6.0
    config.pretrain.optim.lr = 2e-3
    config.pretrain.optim.weight_decay = 0.05
    config.pretrain.optim.clip_norm = 5.0
    config.pretrain.optim.schedule = "cosine"
    config.pretrain.optim.warmup_percent = 5.0
    return config
