"""DistilHuBERT with the baseline recipe of a public write-up: five epochs, one low learning rate for all parameters.

    python -m esc_jax.main --config=configs/distilhubert_writeup.py

The weights come from the Hugging Face hub (ntu-spml/distilhubert, Apache-2.0) or from a folder:
--config.model.pretrained=PATH. The recipe is a reference for distilhubert.py. This config has not been run with the
published weights.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="hubert", head="projected", frontend="raw")
    config.data.sample_rate = 16_000
    config.data.mask_padding = True
    config.model.pretrained = "ntu-spml/distilhubert"
    # The published preprocessor does not normalize; this recipe does.
    config.model.overrides = ("frontend.normalize",)
    config.optim.lr = 5e-5
    config.optim.weight_decay = 0.0
    config.optim.schedule = "linear"
    config.optim.warmup_percent = 10.0
    config.optim.clip_norm = 1.0
    config.train.batch_size = 16
    config.train.epochs = 5
    config.eval.tta = 0
    return config
