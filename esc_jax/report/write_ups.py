"""Results of the two public write-ups that the experiments started from. Published figures, not measured here."""

from typing import NamedTuple

from esc_jax.tasks import registry as tasks


class Source(NamedTuple):
    """A write-up. `url` is empty where there is none."""

    title: str
    origin: str
    url: str


SOURCES = (
    Source("Audio Classification: A Weekend of Experiments", "by Mez Gebre", ""),
    Source(
        "Fine Tuning Audio Classifiers",
        "chapter 4 of github.com/my-sonicase/learn-gen-AI-audio",
        "https://github.com/my-sonicase/learn-gen-AI-audio",
    ),
)
# The task and data of the results.
TASK, DATA = tasks.get("single_label"), "esc50"
# Method → primary metric of the task on ESC-50, %.
RESULTS = (
    ("BEATs (AudioSet), fine-tuned, learning rates 1e-5 / 1e-3", 95.25),
    ("BEATs (AudioSet), frozen, classifier only", 94.50),
    ("ResNet-34 from scratch + TTA (5 views)", 83.50),
    ("SimCLR", 82.50),
    ("EfficientNet-B0, ImageNet transfer", 81.50),
    ("ResNet-34 from scratch", 80.50),
    ("Masked prediction, CNN encoder", 74.50),
    ("DistilHuBERT, 5 epochs", 46.80),
    ("Masked prediction, transformer", 40.00),
)
NOTE = (
    "Published figures, not measured here. The write-ups train on folds 1–4, test on fold 5 only, and select the epoch"
    " on that test fold (†), so the figures are optimistic."
)
