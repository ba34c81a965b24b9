"""ResNet-18 of a quarter of the width, distilled from a teacher, reduced for two CPU cores.

    python -m esc_jax.main --config=configs/resnet18_distilled.py --config.data.dir=ESC-50-master --mode=crossval
    python -m esc_jax.main --config=configs/resnet18_distilled.py --config.distill.teacher=TEACHER …

The teacher is EfficientAT mn04, pretrained on AudioSet, with a linear probe on the training clips of each fold.
TEACHER is another published encoder, a run, or a cross-validation of runs. The student starts from random weights. The
classifier in the package was trained with this config, under the protocol `all`: see docs/results/index.md.
"""

from esc_jax import config as base


def get_config():
    """The config of the experiment."""
    config = base.load("resnet18_cpu")
    config.distill.teacher = "mn04_as"
    config.distill.temperature = 2.0
    config.train.epochs = 300
    return config
