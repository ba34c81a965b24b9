"""SimCLR as in the write-up this project started from: mild views, and a pretext task that is soon solved.

    python -m esc_jax.main --config=configs/simclr_writeup.py

ResNet-34, head 512 → 512 → 128, temperature 0.5; then fine-tuning on the labels, and a linear probe beside it. The
write-up reports 98 % on the pretext task and 82.50 % after fine-tuning (one fold, epoch chosen on it). For a GPU; not
run here at that size; with a quarter of the width, for 80 and 200 epochs, it is in the README.
"""

from configs import resnet34


def get_config():
    """The experiment."""
    config = resnet34.get_config()
    config.pretrain.method = "simclr"
    config.pretrain.temperature = 0.5
    config.pretrain.epochs = 100
    config.pretrain.batch_size = 64
    config.pretrain.augment.roll = 1.0
    config.pretrain.augment.gain_db = 6.0
    config.pretrain.augment.noise = 0.1
    config.pretrain.augment.time_mask = 30
    config.pretrain.augment.freq_mask = 8
    config.train.epochs = 100
    return config
