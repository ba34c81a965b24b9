"""BEATs, fine-tuned with a learning rate of 1e-5 for the encoder and 1e-3 for the head.

    python -m esc_jax.main --config=configs/beats_finetune.py --config.model.pretrained=beats_iter3_plus

The weights are those of github.com/microsoft/unilm (beats/, MIT). The batch of 16 clips is processed in four
parts to limit memory. On a GPU, use --config.model.dtype=bfloat16 and --config.train.accumulate=1. This config has not
been run with the published weights.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="beats", head="linear", frontend="kaldi_fbank")
    config.data.sample_rate = 16_000
    config.data.mask_padding = True
    config.model.encoder.remat = True
    config.augment.roll = 1.0
    config.augment.mixup_alpha = 0.3
    config.augment.time_mask = 96
    config.augment.freq_mask = 24
    config.optim.lr = 1e-3
    config.optim.groups = (("encoder/.*", 0.01),)
    config.optim.b2 = 0.98
    config.optim.schedule = "cosine"
    config.optim.warmup_percent = 10.0
    config.optim.clip_norm = 1.0
    config.train.batch_size = 16
    config.train.accumulate = 4
    config.train.epochs = 30
    config.train.label_smoothing = 0.1
    return config
