"""A labelled data set as training sees it: what is known of every clip, and random access to the audio.

The one type between the data sets (esc50, esc10, gtzan, synthetic, and what comes next) and everything that reads them.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import difflib
import functools
import json
import pathlib

from absl import logging
import numpy as np
import soundfile

from esc_jax import files
from esc_jax.data import download, gtzan, prepare, synthetic
from esc_jax.data.source import DataError, Source

# ESC-10: ten of the fifty classes, numbered 0 … 9 by their target.
ESC10_TARGETS = (0, 1, 10, 11, 12, 20, 21, 38, 40, 41)

# What a codec may add to a clip: no rest to speak of.
_CODEC_S = 0.1

# Of tracks kept in memory: all of GTZAN at 32 kHz.
_TRACKS_BYTES = 2 << 30


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
        samples: (N,) what `fetch` has of every clip.
        length: samples that `read` gives for every clip.
        fingerprint: of the data, whatever folder they lie in.
        bad: files that were left out because they do not decode, with the reason.
        fetch: index → (samples,) int16 of any length.
        mask_padding: whether batches say where `read` has padded.
    """

    labels: np.ndarray
    folds: tuple[int, ...]
    sources: tuple[str, ...]
    filenames: tuple[str, ...]
    classes: tuple[str, ...]
    sample_rate: int
    samples: np.ndarray
    length: int
    fingerprint: str
    bad: dict[str, str]
    fetch: Callable[[int], np.ndarray]
    mask_padding: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: Sequence[int]) -> np.ndarray:
        """(len(indices), length) int16: clips cut, or padded with zeros at the end, to `length` samples."""
        out = np.zeros((len(indices), self.length), np.int16)
        for row, index in enumerate(indices):
            samples = self.fetch(int(index))[: self.length]
            out[row, : len(samples)] = samples
        return out

    @property
    def masked(self) -> bool:
        """Whether batches say how much of a clip is its own: where they are to, and any clip is padded."""
        return self.mask_padding and bool((self.samples < self.length).any())

    def valid(self, indices: Sequence[int]) -> np.ndarray:
        """(len(indices),) int32: samples of what `read` gives that are no padding; at least one."""
        return np.clip(self.samples[indices], 1, self.length).astype(np.int32)

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
            samples=self.samples[keep],
            fingerprint=f"{self.fingerprint}-{name}",
            fetch=lambda index: self.fetch(keep[index]),
        )

    def windows(self) -> "Clips":
        """Every clip, a track, as windows of `length` samples, one after the other without overlap.

        What is left at the end of a track is a window of its own where it is half a window or more, and is dropped
        where it is less. A track shorter than a window is one window. Fold and source are those of the track; names
        end in the second at which a window starts: `blues/blues.00000.wav@5s`.
        """
        places = []
        for track, count in enumerate(self.samples.tolist()):
            whole, rest = divmod(count, self.length)
            places.extend((track, i * self.length) for i in range(max(1, whole + (2 * rest >= self.length))))
        # A record is read as a whole, and shuffled windows would read each six times: 14 ms of a core at 32 kHz.
        fetch = functools.lru_cache(max(1, _TRACKS_BYTES // (2 * int(max(self.samples)))))(self.fetch)

        def window(index: int) -> np.ndarray:
            track, start = places[index]
            return fetch(track)[start : start + self.length]

        return dataclasses.replace(
            self,
            labels=self.labels[[track for track, _ in places]],
            folds=tuple(self.folds[track] for track, _ in places),
            sources=tuple(self.sources[track] for track, _ in places),
            filenames=tuple(f"{self.filenames[t]}@{round(start / self.sample_rate, 3):.10g}s" for t, start in places),
            samples=np.array([min(self.samples[track] - start, self.length) for track, start in places]),
            fetch=window,
        )


def _index(folder: pathlib.Path, builder) -> list[dict]:
    """What every record says beside its audio, sorted by file name, with its split, place and number of samples.

    Records can only be read whole, so that this costs a pass over all of the audio: once, then it lies beside them.
    """
    import tensorflow_datasets as tfds

    path = folder / "index.json"
    if path.exists():
        return json.loads(path.read_text())
    found = []
    for name in sorted(builder.info.splits):
        light = builder.as_data_source(split=name, decoders={"audio": tfds.decode.SkipDecoding()})
        for start in range(0, len(light), 64):  # never the audio of a whole fold in memory
            places = range(start, min(start + 64, len(light)))
            for place, record in zip(places, light.__getitems__(list(places)), strict=True):
                texts = {key: record[key].decode() for key in ("filename", "source")}
                numbers = {key: int(record[key]) for key in ("label", "fold")}
                samples = len(record["audio"]) // 2  # bytes of int16
                found.append({**texts, **numbers, "samples": samples, "split": name, "place": place})
    # Records lie shuffled by their key's hash: an order of our own does not depend on how they were written.
    found.sort(key=lambda record: record["filename"])
    # A folder that may not be written to: the next start reads the records again.
    with contextlib.suppress(OSError), files.atomic_write(path, "w") as file:
        json.dump(found, file)
    return found


def _open(folder: pathlib.Path, length: int, fingerprint: str) -> Clips:
    import tensorflow_datasets as tfds  # a second: only those pay who read data

    builder = tfds.builder_from_directory(folder)
    readers = {name: builder.as_data_source(split=name) for name in builder.info.splits}
    index = _index(folder, builder)
    if not index:
        raise DataError("no clip of the data set could be decoded")

    def fetch(i: int) -> np.ndarray:
        return readers[index[i]["split"]][index[i]["place"]]["audio"]

    bad = folder / "bad_clips.json"
    clips = Clips(
        labels=np.array([record["label"] for record in index], np.int32),
        folds=tuple(record["fold"] for record in index),
        sources=tuple(record["source"] for record in index),
        filenames=tuple(record["filename"] for record in index),
        classes=tuple(builder.info.features["label"].names),
        sample_rate=int(builder.info.metadata["sample_rate"]),
        samples=np.array([record["samples"] for record in index]),
        length=length,
        fingerprint=fingerprint,
        bad=json.loads(bad.read_text()) if bad.exists() else {},
        fetch=fetch,
    )
    if clips.bad:
        logging.info("%d clips do not decode, and are left out: %s", len(clips.bad), next(iter(clips.bad.values())))
    return clips


def _open_prepared(folder: pathlib.Path, length: int, fingerprint: str) -> Clips:
    clips = _open(folder, length, fingerprint)
    if longer := int((clips.samples > length + _CODEC_S * clips.sample_rate).sum()):
        seconds = length / clips.sample_rate
        logging.info("%d of %d clips are longer than data.clip_s=%g, and lose their rest", longer, len(clips), seconds)
    return clips


def _esc50(config) -> Clips:
    path = config.dir or download.download(prepare.cache_root(config.cache_dir), url=config.url)
    source = Source(path)
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    return _open_prepared(folder, round(config.clip_s * config.sample_rate), source.fingerprint)


def _esc10(config) -> Clips:
    return _esc50(config).subset(ESC10_TARGETS, "esc10")


def _gtzan(config) -> Clips:
    if not config.dir:
        raise DataError(gtzan.MISSING)
    source = gtzan.open_tracks(config.dir)
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    # Whole tracks are prepared, so that every length of window shares them.
    return _open(folder, round(config.clip_s * config.sample_rate), source.fingerprint).windows()


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


DATASETS = {"esc50": _esc50, "esc10": _esc10, "gtzan": _gtzan, "synthetic": _synthetic}


def load(config) -> Clips:
    """The data set of `config.data`, downloaded, generated and prepared where that was not done yet.

    Raises:
        DataError: it cannot be had, in one sentence.
    """
    if config.name not in DATASETS:
        near = difflib.get_close_matches(config.name, DATASETS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"data.name={config.name}: the data sets are {', '.join(DATASETS)}{hint}")
    return dataclasses.replace(DATASETS[config.name](config), mask_padding=config.mask_padding)
