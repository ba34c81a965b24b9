"""ESC-50, or GTZAN's tracks, as a TFDS data set: one config per sample rate, one split per fold.

    import tensorflow_datasets as tfds
    import esc_jax.data.esc50
    clips = tfds.data_source("esc50/32000hz", split="fold1", data_dir=…, builder_kwargs={"source": "ESC-50-master"})

Preparing needs TensorFlow; reading does not. `esc_jax.data.prepare` is the command that does it.
"""

import collections
from concurrent import futures
import json
import os
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from esc_jax.data import audio
from esc_jax.data.source import Row, open_source

SAMPLE_RATES = (16_000, 22_050, 32_000, 44_100, 48_000)

_ESC50 = """\
@inproceedings{piczak2015esc,
  title = {{ESC}: Dataset for Environmental Sound Classification},
  author = {Piczak, Karol J.},
  booktitle = {Proceedings of the 23rd ACM International Conference on Multimedia},
  pages = {1015--1018},
  year = {2015},
  doi = {10.1145/2733373.2806390}
}"""
_GTZAN = """\
@article{tzanetakis2002musical,
  title = {Musical Genre Classification of Audio Signals},
  author = {Tzanetakis, George and Cook, Perry},
  journal = {IEEE Transactions on Speech and Audio Processing},
  volume = {10},
  number = {5},
  pages = {293--302},
  year = {2002},
  doi = {10.1109/TSA.2002.800560}
}"""
# What TFDS tells of the data, by layout.
_ABOUT = {
    "esc50": {
        "description": "Environmental sounds: 2,000 clips of five seconds, 50 classes, five folds.",
        "homepage": "https://github.com/karolpiczak/ESC-50",
        "citation": _ESC50,
        "license": "CC BY-NC 3.0; the ESC-10 part CC BY 3.0",
    },
    "gtzan": {
        "description": "Music: 1,000 tracks of thirty seconds, 10 genres, five folds of our own.",
        "citation": _GTZAN,
    },
}


class BadClipsError(ValueError):
    """Files that do not decode. The message is one sentence that names the first of them."""


def config_name(sample_rate: int) -> str:
    """Name of the builder config for a sample rate in Hz."""
    return f"{sample_rate}hz"


class Builder(tfds.core.GeneratorBasedBuilder):
    """ESC-50, or any data set in its layout or in GTZAN's: mono 16-bit clips at one sample rate.

    Args:
        source: a folder or zip, or what `open_source` made of it; TFDS's manual_dir where it is not given.
        on_bad_clip: "error" refuses a file that does not decode; "skip" leaves it out, and lists it in
            `bad_clips.json` in the prepared folder.
        **kwargs: TFDS's own.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder in the layout of ESC-50: meta/esc50.csv and audio/."
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name=config_name(rate), description=f"Resampled to {rate} Hz, mono, 16 bit.")
        for rate in SAMPLE_RATES
    ]

    def __init__(self, *, source: Any = None, on_bad_clip: str = "error", **kwargs):
        self._on_bad_clip = on_bad_clip
        # Classes belong to the data, not to the code: ESC-50, its subsets and its look-alikes share this builder.
        self._source = open_source(source) if isinstance(source, (str, os.PathLike)) else source
        kwargs.setdefault("file_format", "array_record")  # random access, and readable without TensorFlow
        super().__init__(**kwargs)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self.builder_config.name.removesuffix("hz"))

    def _info(self) -> tfds.core.DatasetInfo:
        labels = {"names": list(self._source.categories)} if self._source else {"num_classes": 50}
        return tfds.core.DatasetInfo(
            builder=self,
            **_ABOUT[self._source.layout if self._source else "esc50"],
            features=tfds.features.FeaturesDict(
                {
                    # Raw bytes: a list of integers would be decoded one by one, a thousand times slower.
                    "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
                    "label": tfds.features.ClassLabel(**labels),
                    "fold": np.int32,
                    "source": tfds.features.Text(doc="the recording on freesound that the clip was cut from"),
                    "take": tfds.features.Text(doc="A, B, …: which clip of that recording"),
                    "filename": tfds.features.Text(),
                }
            ),
            supervised_keys=("audio", "label"),
            metadata=tfds.core.MetadataDict(sample_rate=self.sample_rate),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager):
        self._source = self._source or open_source(dl_manager.manual_dir)
        by_fold = collections.defaultdict(list)
        for row in self._source.rows:
            by_fold[row.fold].append(row)
        self._bad: dict[str, str] = {}
        kept = [fold for fold in sorted(by_fold) if self._on_bad_clip == "error" or self._keeps_any(by_fold[fold])]
        if not kept:
            raise BadClipsError(f"no clip of the data set can be decoded ({next(iter(self._bad.values()))})")
        return {f"fold{fold}": self._generate_examples(by_fold[fold]) for fold in kept}

    def _keeps_any(self, rows: list[Row]) -> bool:
        """Whether any clip of a fold decodes: TFDS refuses an empty split. Where none does, all of them are listed."""
        for row in rows:
            samples = self._load(row)
            if not isinstance(samples, audio.AudioError):
                return True
            self._bad[row.filename] = str(samples)
        return False

    def _load(self, row: Row) -> np.ndarray | audio.AudioError:
        try:
            return audio.to_int16(audio.load(self._source.read(row), self.sample_rate, name=self._source.where(row)))
        except audio.AudioError as error:
            return error

    def _generate_examples(self, rows: list[Row]):
        # Decoding and resampling release the interpreter's lock, so threads use every core; the window of pending
        # clips bounds the memory.
        with futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            pending = collections.deque()
            remaining = iter(rows)
            while True:
                while len(pending) < 4 * os.cpu_count() and (row := next(remaining, None)) is not None:
                    pending.append((row, pool.submit(self._load, row)))
                if not pending:
                    return
                row, future = pending.popleft()
                samples = future.result()
                if isinstance(samples, audio.AudioError):
                    if self._on_bad_clip == "error":
                        raise BadClipsError(f"{samples}; data.on_bad_clip=skip leaves such clips out")
                    self._bad[row.filename] = str(samples)
                    continue
                yield (
                    row.filename,
                    {
                        "audio": samples,
                        "label": row.target,
                        "fold": row.fold,
                        "source": row.src_file,
                        "take": row.take,
                        "filename": row.filename,
                    },
                )

    def _download_and_prepare(self, dl_manager, **kwargs):
        super()._download_and_prepare(dl_manager, **kwargs)
        # Still in TFDS's unfinished folder, so that the list appears together with the data or not at all.
        (self.data_path / "bad_clips.json").write_text(json.dumps(self._bad, indent=1))
