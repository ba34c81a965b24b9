"""Prepares a data set: decodes and resamples every clip once per sample rate, and writes ArrayRecord files.

    CACHE/prepared/FINGERPRINT/esc50/32000hz/1.1.0/
        esc50-fold1.array_record-00000-of-00001 …   one `tf.train.Example` per clip, or per minute of a longer one;
                                                    one file per fold
        dataset_info.json, features.json …          TFDS's metadata (`tfds_metadata`)
        index.json                                  everything but the audio of every clip, sorted by filename
        bad_clips.json                              file → reason, of clips that were left out
        manifest.json                               size and CRC-32 of all of these

The folder is the same for the same content, wherever the data set lies, and appears in one rename: an interrupted
preparation never leaves a folder that looks complete. Neither TensorFlow nor TFDS is needed.

Memory does not grow with the length of a recording: one of more than `clips.PART_S` is decoded block by block into a
temporary file, which is then cut into records of that length.
"""

import collections
from collections.abc import Generator, Iterable, Iterator
from concurrent import futures
import contextlib
import dataclasses
import itertools
import json
import os
import pathlib
import shutil
import sys
import tempfile
from typing import Any
import uuid

from absl import logging
import numpy as np
import tqdm

from esc_jax import files
from esc_jax.data import audio, records, tf_example, tfds_metadata
from esc_jax.data.cache import cache_root
from esc_jax.data.clips import PART_S
from esc_jax.data.rows import DataError, Layout, PreparationError, Row
from esc_jax.data.stream import AudioStream
from esc_jax.errors import counted

INDEX, BAD_CLIPS = "index.json", "bad_clips.json"

_PARTIAL = "incomplete."  # TFDS ignores folders of this name, too

Decoded = tuple[Row, np.ndarray | audio.AudioError]


def prepared_dir(
    source: Layout, sample_rate: int, cache_dir: str | os.PathLike[str] = "", on_bad_clip: str = "error"
) -> pathlib.Path:
    """Returns the folder of the prepared data set; prepares it if it is missing, or damaged by its checksums.

    Processes that need the same folder at the same time wait for the first of them.

    Args:
        source: the data set on disk.
        sample_rate: Hz; one of `tfds_metadata.SAMPLE_RATES`.
        cache_dir: see `cache.cache_root`.
        on_bad_clip: "error" fails on the first clip that cannot be decoded; "skip" leaves such clips out.

    Raises:
        DataError: the rate is not supported, a clip cannot be decoded, or the folder cannot be written.
    """
    if sample_rate not in tfds_metadata.SAMPLE_RATES:
        rates = ", ".join(map(str, tfds_metadata.SAMPLE_RATES))
        raise DataError(f"data.sample_rate={sample_rate}: a data set can be prepared at {rates} Hz")
    skips = on_bad_clip == "skip"
    root = cache_root(cache_dir) / "prepared" / f"{source.fingerprint}{'-skip' if skips else ''}"
    config = tfds_metadata.config_name(sample_rate)
    folder = root / tfds_metadata.NAME / config / tfds_metadata.VERSION
    if folder.is_dir() and not files.manifest_mismatch(folder):
        return folder
    try:
        with files.file_lock(root / f"{config}.lock") as locked:
            if folder.is_dir():
                if not (mismatch := files.manifest_mismatch(folder)):  # another process has prepared it meanwhile
                    return folder
                logging.warning("the prepared data set in %s is made again: %s", folder, mismatch)
                os.rename(folder, folder.with_name(f"{_PARTIAL}{uuid.uuid4().hex}"))
            if locked:
                for leftover in folder.parent.glob(f"{_PARTIAL}*"):  # the damaged one, and of killed preparations
                    shutil.rmtree(leftover, ignore_errors=True)
            _prepare(source, sample_rate, skips, folder)
    except OSError as error:
        raise PreparationError(f"preparing the data set failed: {error}") from None
    return folder


def _prepare(source: Layout, sample_rate: int, skip_bad: bool, folder: pathlib.Path) -> None:
    """Prepares in a folder beside `folder`, and renames it."""
    partial = folder.with_name(f"{_PARTIAL}{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        _write(source, sample_rate, skip_bad, partial)
        files.write_manifest(partial)
        try:
            os.rename(partial, folder)
        except OSError:
            if not folder.is_dir():  # where there are no locks, another process may have been first
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(source: Layout, sample_rate: int, skip_bad: bool, folder: pathlib.Path) -> None:
    bad: dict[str, str] = {}
    index: list[dict[str, Any]] = []
    splits: list[tfds_metadata.Split] = []
    rows = sorted(source.rows, key=lambda row: row.fold)
    title = f"preparing {counted(len(rows), 'clip')}"
    if not sys.stderr.isatty():
        logging.info("%s at %d Hz", title, sample_rate)
    with (
        contextlib.closing(decode_clips(source, rows, sample_rate, folder)) as decoded,
        tqdm.tqdm(decoded, title, len(rows), unit="clip", disable=None) as bar,
    ):
        for fold, group in itertools.groupby(_good_clips(bar, bad, skip_bad), key=lambda clip: clip[0].fold):
            with records.RecordWriter(folder / tfds_metadata.record_file(fold)) as writer:
                for row, samples in group:
                    index.append(_index_entry(row, len(samples), writer.count))
                    for part, piece in split_clip(row, samples, sample_rate):
                        writer.write(encode_clip(part, piece, source.task))
            splits.append(tfds_metadata.Split(tfds_metadata.split_name(fold), writer.count, writer.num_bytes))
    if not index:
        raise DataError(f"no clip of the data set can be decoded ({next(iter(bad.values()))})")
    tfds_metadata.write(folder, source.about, source.task, source.categories, sample_rate, splits)
    index.sort(key=lambda entry: entry["filename"])
    (folder / INDEX).write_text(json.dumps(index), encoding="utf-8")
    (folder / BAD_CLIPS).write_text(json.dumps(bad, indent=1), encoding="utf-8")


def _good_clips(clips: Iterable[Decoded], bad: dict[str, str], skip_bad: bool) -> Iterator[tuple[Row, np.ndarray]]:
    """Clips that could be decoded; adds the others to `bad`, or raises DataError."""
    for row, samples in clips:
        if not isinstance(samples, audio.AudioError):
            yield row, samples
        elif skip_bad:
            bad[row.filename] = str(samples)
        else:
            raise DataError(f"{samples}; data.on_bad_clip=skip leaves such clips out")


def _index_entry(row: Row, samples: int, place: int) -> dict[str, Any]:
    return {
        "filename": row.filename,
        "source": row.src_file,
        "labels": list(row.targets),
        "fold": row.fold,
        "samples": samples,
        "place": place,  # in the file of the fold; of the first record, if there are several
    }


def split_clip(row: Row, samples: np.ndarray, sample_rate: int) -> Iterator[tuple[Row, np.ndarray]]:
    """Yields the records of a clip: the clip, or parts of at most PART_S, called `FILE@60s` by their start."""
    size = PART_S * sample_rate
    if len(samples) <= size:
        yield row, samples
        return
    for number in range(-(-len(samples) // size)):
        part = dataclasses.replace(row, filename=f"{row.filename}@{number * PART_S}s")
        yield part, samples[number * size : (number + 1) * size]


def encode_clip(row: Row, samples: np.ndarray, task: str) -> bytes:
    """Returns a clip as a serialized `tf.train.Example`. The audio comes last, so that it ends with the record."""
    return tf_example.encode(
        {
            "filename": row.filename.encode(),
            "fold": row.fold,
            tfds_metadata.label_feature(task): row.targets if task == "multi_label" else row.targets[0],
            "source": row.src_file.encode(),
            "take": row.take.encode(),
            "audio": samples.astype("<i2").tobytes(),
        }
    )


def decode_clips(
    source: Layout, rows: Iterable[Row], sample_rate: int, folder: str | os.PathLike[str] | None = None
) -> Generator[Decoded, None, None]:
    """Decodes and resamples clips in threads, a bounded number of clips ahead.

    Decoding and resampling release the GIL, so that all cores are used.

    Args:
        source: the data set on disk.
        rows: the clips.
        sample_rate: Hz.
        folder: for temporary files; by default that of the system.

    Yields:
        Every row, in order, with (samples,) int16, or with the AudioError that it caused.
    """

    def decode(row: Row) -> np.ndarray | audio.AudioError:
        try:
            return _decode(source.locate(row), sample_rate, source.where(row), folder)
        except audio.AudioError as error:
            return error

    workers = os.cpu_count() or 1
    remaining = iter(rows)
    pending: collections.deque[tuple[Row, futures.Future[np.ndarray | audio.AudioError]]] = collections.deque()
    with futures.ThreadPoolExecutor(workers) as pool:
        try:
            while True:
                for row in itertools.islice(remaining, 4 * workers - len(pending)):
                    pending.append((row, pool.submit(decode, row)))
                if not pending:
                    return
                row, future = pending.popleft()
                yield row, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _decode(
    content: bytes | pathlib.Path, sample_rate: int, name: str, folder: str | os.PathLike[str] | None
) -> np.ndarray:
    """Decodes a file to (samples,) int16; one that is longer than PART_S into a temporary file, which is mapped."""
    stream = AudioStream(content, sample_rate, name)
    if 0 < stream.announced_s <= PART_S:
        stream.close()
        return audio.to_int16(audio.load(content, sample_rate, name))
    with tempfile.TemporaryFile(dir=folder) as file:
        for block in stream:
            file.write(audio.to_int16(block).astype("<i2").tobytes())
        if stream.defect:
            raise audio.AudioError(f"{name}: {stream.defect}")
        if not file.tell():
            raise audio.AudioError(f"{name}: holds no samples")
        file.flush()
        return np.memmap(file, "<i2", "r")
