"""A linear head on frozen BEATs embeddings.

    python -m esc_jax.main --config=configs/beats_frozen.py --config.model.pretrained=BEATs_iter3_plus_AS2M.pt \\
        --mode=crossval

The checkpoints come from github.com/microsoft/unilm (beats/, MIT). The write-up reports 94.50 % for a classifier on
the frozen encoder (one fold, epoch chosen on it), the literature 95.5 % for iter3+. Not run here: the weights could
not be had.
"""

from esc_jax import config as base


def get_config():
    """The experiment."""
    config = base.defaults(model="beats", head="linear", frontend="kaldi_fbank")
    config.data.sample_rate = 16_000
    config.data.mask_padding = True
    config.method = "probe"
    config.eval.tta = 0  # 90 million parameters: a view costs as much as the clip
    return config
