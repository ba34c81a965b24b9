"""DistilHuBERT, fine-tuned with layer-wise settings: the convolutions are frozen, and all layers are pooled.

    python -m esc_jax.main --config=configs/distilhubert.py

The weights come from the Hugging Face hub (ntu-spml/distilhubert, Apache-2.0) or from a folder:
--config.model.pretrained=PATH. Unlike distilhubert_writeup.py, the learning rate of the head is twenty times that of
the layers, the outputs of all layers are pooled with learned weights, clips are augmented and mixed, and training is
four times as long. This config has not been run with the published weights.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("distilhubert_writeup")
    config.model.encoder.weighted_layer_sum = True
    config.model.overrides = ("frontend.normalize", "encoder.weighted_layer_sum")
    config.augment.roll = 1.0
    config.augment.gain_db = 6.0
    config.augment.mixup_alpha = 0.3
    config.optim.lr = 2e-3
    config.optim.weight_decay = 0.01
    config.optim.schedule = "cosine"
    config.optim.groups = (("encoder/conv_.*", 0.0), ("encoder/layer_weights", 1.0), ("encoder/.*", 0.05))
    config.train.epochs = 20
    config.train.label_smoothing = 0.1
    config.train.ema = 0.99
    config.eval.tta = 5
    return config
