"""A run of a few seconds: 60 synthetic clips, a network of two blocks."""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.defaults(model="resnet")
    config.data.update(name="synthetic", clips_per_fold=1, sample_rate=16_000, clip_s=1.0)
    config.frontend.update(n_fft=512, hop=256, mels=32)
    config.model.encoder.update(stage_sizes=(1, 1), width=8)
    config.model.head.dropout = 0.1
    config.augment.update(roll=1.0, gain_db=6.0, mixup_alpha=0.3, time_mask=4)
    config.optim.clip_norm = 1.0
    config.train.update(batch_size=8, epochs=3, ema=0.9, label_smoothing=0.1, tensorboard=False)
    config.eval.update(batch_size=7, tta=3)
    return config
