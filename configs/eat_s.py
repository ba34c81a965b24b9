r"""EAT-S on ESC-50, trained from scratch on waveforms with the recipe of its paper. It needs a GPU.

    python -m esc_jax.main --config=configs/eat_s.py --config.data.dir=ESC-50-master --config.data.test_fold=4
    python -m esc_jax.main --config=configs/eat_s.py --config.model.dtype=bfloat16 --mode=crossval

Gazneli et al. 2022, arXiv 2204.11479; settings from the published code (Alibaba-MIIL/AudioClassfication). Clips at
22.05 kHz, padded to 114,688 samples, are resampled, rotated, masked, given noise, and mixed in one of four ways. The
targets are the classes of both clips. The last weights are tested once per clip. eat_cpu.py is the variant for two CPU
cores.

Differences from the published code: the frontend normalizes the variance of each mixture, not the peak of each clip.
The first epochs, without mixing, have the binary loss, not a cross-entropy with smoothed labels. The level of segments
is not changed, and there is no noise of a sine or with random phases. This config has not been run for all of its
epochs.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="eat", frontend="raw")
    config.data.sample_rate = 22_050
    config.data.clip_s = 114_688 / 22_050
    config.augment.roll = 1.0
    config.augment.resample = (0.8, 0.9, 1.1, 1.2)
    config.augment.gain_db = 6.0
    config.augment.flip_sign = 0.5
    config.augment.wave_mask = 0.05
    config.augment.color_noise = ("white", "pink", "red", "blue", "violet")
    config.augment.mixup_alpha = 1.0
    config.augment.mixup_kinds = ("loudness", "time", "frequency", "phase")
    config.augment.mixup_start_epoch = 12
    config.augment.mixup_targets = "union"
    config.optim.lr = 3e-4
    config.optim.b2 = 0.99
    config.optim.weight_decay = 1e-5
    config.optim.warmup_percent = 10.0
    # In half precision, the published code clips the gradient to 1 and has ε = 1e-4. Its loss is summed over the batch.
    config.optim.clip_norm = 1.0 / 128
    config.optim.eps = 1e-4 / 128
    config.train.batch_size = 128
    config.train.epochs = 3500
    config.train.loss = "binary"
    config.train.checkpoint_epochs = 50
    config.eval.tta = 0
    return config
