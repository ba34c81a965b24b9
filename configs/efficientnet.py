"""EfficientNet-B0, pretrained on ImageNet, fine-tuned on spectrograms.

    python -m esc_jax.main --config=configs/efficientnet.py

The weights come from the Hugging Face hub (google/efficientnet-b0, Apache-2.0) or from a folder or state dict of
transformers, torchvision or timm: --config.model.pretrained=PATH. The three input channels of the stem are summed. This
config has not been run with the published weights.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="efficientnet", head="linear")
    config.model.pretrained = "google/efficientnet-b0"
    config.model.head.dropout = 0.2
    config.augment.roll = 1.0
    config.augment.gain_db = 6.0
    config.augment.mixup_alpha = 0.3
    config.augment.time_mask = 60
    config.augment.freq_mask = 16
    config.optim.lr = 2e-3
    config.optim.groups = (("encoder/.*", 0.25),)
    config.optim.clip_norm = 5.0
    config.train.epochs = 40
    config.train.label_smoothing = 0.1
    config.train.ema = 0.995
    return config
