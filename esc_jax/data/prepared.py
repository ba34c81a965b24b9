"""Reads a prepared data set (`prepare`): random access to the clips of its ArrayRecord files."""

import functools
import json
import pathlib
from typing import Any

from absl import logging
import numpy as np

from esc_jax.data import prepare, records, tfds_metadata
from esc_jax.data.clips import CODEC_S, PART_S, Clips, Recording
from esc_jax.data.rows import Layout


def open_prepared(folder: pathlib.Path, length: int, source: Layout) -> Clips:
    """Opens the folder that `prepare.prepared_dir` returned.

    Args:
        folder: the folder.
        length: samples per clip in a batch.
        source: the data set that was prepared.
    """
    index: list[dict[str, Any]] = json.loads((folder / prepare.INDEX).read_bytes())
    bad: dict[str, str] = json.loads((folder / prepare.BAD_CLIPS).read_bytes())

    readers = {
        fold: records.open_records([folder / tfds_metadata.record_file(fold)])
        for fold in {entry["fold"] for entry in index}
    }

    sample_rate = tfds_metadata.read_sample_rate(folder)
    part = PART_S * sample_rate

    def read(entry: dict[str, Any], number: int) -> np.ndarray:
        record = readers[entry["fold"]][entry["place"] + number]
        # The audio ends with the record (`prepare.encode_clip`).
        return np.frombuffer(record[len(record) - 2 * min(part, entry["samples"] - number * part) :], "<i2")

    def fetch(i: int) -> np.ndarray | Recording:
        entry = index[i]
        if entry["samples"] <= part:
            return read(entry, 0)
        return Recording(functools.partial(read, entry), part, entry["samples"])

    if bad:
        logging.info("%d clips do not decode, and are left out: %s", len(bad), next(iter(bad.values())))
    return Clips(
        labels=_labels([entry["labels"] for entry in index], source.task, len(source.categories)),
        folds=tuple(entry["fold"] for entry in index),
        sources=tuple(entry["source"] for entry in index),
        filenames=tuple(entry["filename"] for entry in index),
        classes=tfds_metadata.read_classes(folder, source.task),
        sample_rate=sample_rate,
        samples=np.array([entry["samples"] for entry in index]),
        length=length,
        fingerprint=source.fingerprint,
        bad=bad,
        task=source.task,
        grouping=source.grouping,
        fetch=fetch,
    )


def _labels(targets: list[list[int]], task: str, classes: int) -> np.ndarray:
    """Labels as in `Clips.labels`."""
    if task != "multi_label":
        return np.array([first for (first,) in targets], np.int32)
    labels = np.zeros((len(targets), classes), bool)
    for row, present in zip(labels, targets, strict=True):
        row[present] = True
    return labels


def log_longer_clips(clips: Clips) -> None:
    """Logs how many clips are longer than `clips.length` and will be cut."""
    if longer := int((clips.samples > clips.length + CODEC_S * clips.sample_rate).sum()):
        seconds = clips.length / clips.sample_rate
        logging.info("%d of %d clips are longer than data.clip_s=%g s and are cut to it", longer, len(clips), seconds)
