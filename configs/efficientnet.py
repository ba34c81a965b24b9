"""EfficientNet-B0, pretrained on ImageNet, fine-tuned on spectrograms as on pictures.

    python -m esc_jax.main --config=configs/efficientnet.py

The weights are fetched from the Hugging Face hub (google/efficientnet-b0, Apache 2.0), or give a folder or a state dict
of transformers, torchvision or timm as --config.model.pretrained=PATH; the three colours of its stem are summed. The
write-up reports 81.50 % (one fold, epoch chosen on it). Not run here: the weights could not be had.
"""

from esc_jax import config as base


def get_config():
    """The experiment."""
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
