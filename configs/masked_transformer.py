r"""Masked prediction on a patch transformer: self-supervised pretraining, then supervised fine-tuning.

    python -m esc_jax.main --config=configs/masked_transformer.py \
        --config.data.dir=ESC-50-master --config.data.test_fold=4

The encoder is that of patch_transformer.py. 40 % of the 16 × 16 patches are masked, and the network predicts the token
of each masked patch: one of 256 k-means clusters of training patches. --config.pretrain.rounds=2 clusters the learned
features and pretrains a second network on them; --config.pretrain.teacher=mn04_as clusters a published
encoder's features. With --config.pretrain.predictor_layers=2, the encoder processes visible patches only; use it with
--config.pretrain.mask_ratio=0.75 and --config.model.encoder.stride=16. Results: docs/results.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("patch_transformer")
    config.pretrain = base.pretrain_defaults("masked")
    config.pretrain.epochs = 200
    config.pretrain.batch_size = 64
    config.pretrain.augment.roll = 1.0
    config.pretrain.augment.crop_s = 4.0
    config.pretrain.augment.speed_octaves = 0.3
    config.pretrain.augment.gain_db = 6.0
    config.pretrain.optim.lr = 1e-3
    config.pretrain.optim.weight_decay = 0.05
    config.pretrain.optim.clip_norm = 1.0
    config.pretrain.optim.schedule = "cosine"
    config.pretrain.optim.warmup_percent = 10.0
    return config
