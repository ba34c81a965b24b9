"""BEATs fine-tuned with differential learning rates: 1e-5 for the encoder, 1e-3 for the head, as in the write-up.

    python -m esc_jax.main --config=configs/beats_finetune.py --config.model.pretrained=BEATs_iter3_plus_AS2M.pt

The checkpoints come from github.com/microsoft/unilm (beats/, MIT). The write-up reports 95.25 % (one fold, epoch chosen
on it). Sixteen clips at a time in four parts; on a GPU, --config.model.dtype=bfloat16 and --config.train.accumulate=1.
Not run here: the weights could not be had.
"""

from esc_jax import config as base


def get_config():
    """The experiment."""
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
