"""A labelled data set as training sees it: what is known of every clip, and random access to the audio.

The one type between the data sets (esc50, esc10, synthetic, and what comes next) and everything that reads them.
"""

from collections.abc import Callable, Sequence
import dataclasses
import difflib
import json
import pathlib

import numpy as np
import soundfile

from esc_jax.data import download, prepare, synthetic
from esc_jax.data.source import DataError, Source

# ESC-10: ten of the fifty classes, numbered 0 … 9 by their target.
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)


@dataclasses.dataclass(frozen=True)
class Clips:
    """N labelled clips.

    Attributes:
        labels: (N,) int32 class indices.
        folds: fold of every clip.
        sources: source recording of every clip.
        filenames: name of every clip.
        classes: class names, by index.
        sample_rate: Hz.
        length: samples that `read` gives for every clip.
        fingerprint: of the data, whatever folder they lie in.
        bad: files that were left out because they do not decode, with the reason.
        fetch: index → (samples,) int16 of any length.
    """

    labels: np.ndarray
    folds: tuple[int, ...]
    sources: tuple[str, ...]
    filenames: tuple[str, ...]
    classes: tuple[str, ...]
    sample_rate: int
    length: int
    fingerprint: str
    bad: dict[str, str]
    fetch: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """(len(indices), length) int16: clips cut, or padded with zeros at the end, to `length` samples."""
        out = np.zeros((len(indices), self.length), np.int16)
        for row, index in enumerate(indices):
            samples = self.fetch(int(index))[: self.length]
            out[row, : len(samples)] = samples
        return out

    def subset(self, targets: Sequence[int], name: str) -> "Clips":
        """The clips of some classes, relabelled 0 … len(targets)-1 in that order."""
        if max(targets) >= len(self.classes):
            raise DataError(f"data.name={name}: the data set has only {len(self.classes)} classes")
        keep = np.flatnonzero(np.isin(self.labels, targets))
        renumber = {t: i for i, t in enumerate(targets)}
        return dataclasses.replace(
            self,
            labels=np.array([renumber[t] for t in self.labels[keep]], np.int32),
            folds=tuple(self.folds[i] for i in keep),
            sources=tuple(self.sources[i] for i in keep),
            filenames=tuple(self.filenames[i] for i in keep),
            classes=tuple(self.classes[t] for t in targets),
            fingerprint=f"{self.fingerprint}-{name}",
            fetch=lambda index: self.fetch(keep[index]),
        )


def _open_prepared(folder: pathlib.Path, length: int, fingerprint: str) -> Clips:
    import tensorflow_datasets as tfds  # a second: only those pay who read data

    builder = tfds.builder_from_directory(folder)
    meta, readers = [], []
    for name in sorted(builder.info.splits):
        reader = builder.as_data_source(split=name)
        # The audio is the bulk of a record: without it a fold's metadata costs milliseconds.
        light = builder.as_data_source(split=name, decoders={"audio": tfds.decode.SkipDecoding()})
        meta.extend(light.__getitems__(list(range(len(light)))))
        readers.extend((reader, i) for i in range(len(reader)))
    if not meta:
        raise DataError("no clip of the data set could be decoded")
    # Records lie shuffled by their key's hash: an order of our own does not depend on how they were written.
    order = sorted(range(len(meta)), key=lambda i: meta[i]["filename"])
    meta, readers = [meta[i] for i in order], [readers[i] for i in order]

    def fetch(index: int) -> np.ndarray:
        reader, i = readers[index]
        return reader[i]["audio"]

    bad = folder / "bad_clips.json"
    return Clips(
        labels=np.array([m["label"] for m in meta], np.int32),
        folds=tuple(int(m["fold"]) for m in meta),
        sources=tuple(m["source"].decode() for m in meta),
        filenames=tuple(m["filename"].decode() for m in meta),
        classes=tuple(builder.info.features["label"].names),
        sample_rate=int(builder.info.metadata["sample_rate"]),
        length=length,
        fingerprint=fingerprint,
        bad=json.loads(bad.read_text()) if bad.exists() else {},
        fetch=fetch,
    )


def _esc50(config) -> Clips:
    path = config.dir or download.download(prepare.cache_root(config.cache_dir), url=config.url)
    source = Source(path)
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    return _open_prepared(folder, round(config.clip_s * config.sample_rate), source.fingerprint)


def _esc10(config) -> Clips:
    return _esc50(config).subset(ESC10_TARGETS, "esc10")


def _synthetic(config) -> Clips:
    name = f"synthetic-v{synthetic.VERSION}-{config.clips_per_fold}-{config.synthetic_seed}"
    directory = prepare.cache_root(config.cache_dir) / name
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        source = Source(synthetic.generate(directory, config.clips_per_fold, config.synthetic_seed))
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(f"could not write the synthetic data set to {directory}: {error}") from None
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir)
    return _open_prepared(folder, round(config.clip_s * config.sample_rate), source.fingerprint)


DATASETS = {"esc50": _esc50, "esc10": _esc10, "synthetic": _synthetic}


def load(config) -> Clips:
    """The data set of `config.data`, downloaded, generated and prepared where that was not done yet.

    Raises:
        DataError: it cannot be had, in one sentence.
    """
    if config.name not in DATASETS:
        near = difflib.get_close_matches(config.name, DATASETS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"data.name={config.name}: the data sets are {', '.join(DATASETS)}{hint}")
    return DATASETS[config.name](config)
