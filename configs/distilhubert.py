"""DistilHuBERT fine-tuned so that it learns: a fast head, slower layers, frozen convolutions, all layers pooled.

    python -m esc_jax.main --config=configs/distilhubert.py

The weights are fetched from the Hugging Face hub (ntu-spml/distilhubert, Apache 2.0), or give the folder as
--config.model.pretrained=PATH. Against distilhubert_writeup.py: the head learns twenty times as fast as the layers, the
waveform's convolutions are frozen (which also saves their backward pass), the input of the first layer
and every layer's output are pooled with learned weights, examples are rotated and mixed, and there are four times
the epochs. Not run here with the published weights, which could not be had: no accuracy is claimed.
"""

from configs import distilhubert_writeup


def get_config():
    """The experiment."""
    config = distilhubert_writeup.get_config()
    config.model.encoder.weighted_layer_sum = True
    config.model.keep = ("frontend.normalize", "encoder.weighted_layer_sum")
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
