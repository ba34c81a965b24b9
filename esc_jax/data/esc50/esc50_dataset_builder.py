"""ESC-50, or other data on disk, as a TFDS data set: one config per sample rate, one split per fold.

    import tensorflow_datasets as tfds
    import esc_jax.data.esc50
    clips = tfds.data_source("esc50/32000hz", split="fold1", data_dir=…, builder_kwargs={"source": "ESC-50-master"})

For users of TFDS. esc_jax itself prepares its data with `esc_jax.data.prepare`, which needs neither TFDS nor
TensorFlow; what it writes is a prepared data set of this builder.
"""

from collections.abc import Iterator
import itertools
import os
from typing import Any

from absl import logging
import numpy as np
import tensorflow_datasets as tfds

from esc_jax.data import audio, prepare, tfds_metadata
from esc_jax.data.layouts import esc50
from esc_jax.data.layouts.registry import open_source
from esc_jax.data.rows import DataError, Layout, Row


class Builder(tfds.core.GeneratorBasedBuilder):
    """The TFDS builder.

    Args:
        source: a data set in one of the layouts of esc_jax (`data.layouts`), or such a layout that is open. Without it,
            TFDS's manual download folder is used.
        on_bad_clip: "error" stops at the first clip that cannot be decoded; "skip" leaves such clips out, with a
            warning for each.
        **kwargs: of `tfds.core.GeneratorBasedBuilder`.
    """

    VERSION = tfds.core.Version(tfds_metadata.VERSION)
    RELEASE_NOTES = tfds_metadata.RELEASE_NOTES
    MANUAL_DOWNLOAD_INSTRUCTIONS = "A folder in the layout of ESC-50: meta/esc50.csv and audio/."
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(
            name=tfds_metadata.config_name(rate), description=tfds_metadata.config_description(rate)
        )
        for rate in tfds_metadata.SAMPLE_RATES
    ]

    def __init__(
        self, *, source: str | os.PathLike[str] | Layout | None = None, on_bad_clip: str = "error", **kwargs: Any
    ):
        self._skip_bad = on_bad_clip == "skip"
        # Classes belong to the data: ESC-50, its subsets and data sets in its layout share this builder.
        self._source = open_source(source) if isinstance(source, (str, os.PathLike)) else source
        kwargs.setdefault("file_format", "array_record")  # random access, and readable without TensorFlow
        super().__init__(**kwargs)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self.builder_config.name.removesuffix("hz"))

    def _info(self) -> tfds.core.DatasetInfo:
        names = {"names": list(self._source.categories)} if self._source else {"num_classes": 50}
        label = tfds.features.ClassLabel(**names)
        task = self._source.task if self._source else esc50.Esc50Layout.task
        if task == "multi_label":
            label = tfds.features.Sequence(label)
        about = self._source.about if self._source else esc50.Esc50Layout.about
        return tfds.core.DatasetInfo(
            builder=self,
            description=about.description,
            homepage=about.homepage or None,
            citation=about.citation,
            license=about.license or None,
            features=tfds.features.FeaturesDict(
                {
                    # Raw bytes: a list of integers would be decoded one by one, a thousand times slower.
                    "audio": tfds.features.Tensor(shape=(None,), dtype=np.int16, encoding=tfds.features.Encoding.BYTES),
                    tfds_metadata.label_feature(task): label,
                    "fold": np.int32,
                    "source": tfds.features.Text(doc=tfds_metadata.SOURCE_DOC),
                    "take": tfds.features.Text(doc=tfds_metadata.TAKE_DOC),
                    "filename": tfds.features.Text(),
                }
            ),
            supervised_keys=("audio", tfds_metadata.label_feature(task)),
            metadata=tfds.core.MetadataDict(sample_rate=self.sample_rate),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator[tuple[str, dict]]]:
        source = self._source or open_source(dl_manager.manual_dir)
        rows = sorted(source.rows, key=lambda row: row.fold)
        return {
            tfds_metadata.split_name(fold): self._generate_examples(source, list(group))
            for fold, group in itertools.groupby(rows, key=lambda row: row.fold)
        }

    def _generate_examples(self, source: Layout, rows: list[Row]) -> Iterator[tuple[str, dict]]:
        for row, samples in prepare.decode_clips(source, rows, self.sample_rate):
            if isinstance(samples, audio.AudioError):
                if not self._skip_bad:
                    raise DataError(f"{samples}; on_bad_clip=skip leaves such clips out")
                logging.warning("left out: %s", samples)
                continue
            for part, piece in prepare.split_clip(row, samples, self.sample_rate):
                yield part.filename, self._example(part, piece, source.task)

    def _example(self, row: Row, samples: np.ndarray, task: str) -> dict[str, Any]:
        return {
            "audio": np.asarray(samples),
            tfds_metadata.label_feature(task): list(row.targets) if task == "multi_label" else row.targets[0],
            "fold": row.fold,
            "source": row.src_file,
            "take": row.take,
            "filename": row.filename,
        }
