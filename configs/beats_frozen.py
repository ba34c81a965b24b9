"""A linear head on frozen BEATs embeddings.

    python -m esc_jax.main --config=configs/beats_frozen.py --config.model.pretrained=beats_iter3_plus --mode=crossval

The weights are those of github.com/microsoft/unilm (beats/, MIT). Each clip passes the encoder once, and the
regularization of each fold's head is selected within its training folds. This config has not been run with the
published weights.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="beats", head="linear", frontend="kaldi_fbank")
    config.data.sample_rate = 16_000
    config.data.mask_padding = True
    config.method = "probe"
    config.eval.tta = 0  # off: each view is another pass through 90 million parameters
    return config
