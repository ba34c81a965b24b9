r"""Masked prediction on the patch transformer: tokens of hidden patches first, without labels; then the labels.

    python -m esc_jax.main --config=configs/masked_transformer.py \
        --config.data.dir=ESC-50-master --config.data.test_fold=4

The network of patch_transformer.py. 40 % of the patches of 16 × 16 are hidden, and the network says which of 256
clusters of training patches each is in (k-means). `--config.pretrain.rounds=2` then clusters what the network has
learned and pretrains another one on that; `--config.pretrain.tokens.teacher=mn04_as_mAP_432.pt` begins with a published
encoder's features. Best so far, on half the width (76.00 %, 79.50 with five views, on fold 4: [j] in the README):
that teacher, `--config.pretrain.clip_weight=10`, and `--config.pretrain.mask.share=0.75
--config.pretrain.mask.predictor=2 --config.model.encoder.stride=16`, which lets the encoder see a quarter of the
patches alone. The write-up this project started from reports 40.00 % for such a transformer.
"""

from configs import patch_transformer


def get_config():
    """The experiment."""
    config = patch_transformer.get_config()
    config.pretrain.method = "masked"
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
