"""The files that TFDS writes beside its records, so that it opens a folder that was prepared without it.

    tfds.builder_from_directory(folder).as_data_source(split="fold1")

They are what TFDS's own builder (`esc_jax.data.esc50`) writes; a test compares the two.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import json
import pathlib
from typing import Any

from esc_jax.data.rows import About

NAME = "esc50"
VERSION = "1.2.0"  # of the records and of the files beside them
RELEASE_NOTES = {
    "1.0.0": "First version.",
    "1.1.0": "Records in the order of the rows.",
    "1.2.0": "Feature `labels` in the place of `label` in multi-label data sets; a record for each minute of a clip.",
}
SAMPLE_RATES = (16_000, 22_050, 32_000, 44_100, 48_000)
SOURCE_DOC = "the recording on freesound that the clip was cut from"
TAKE_DOC = "A, B, …: which clip of that recording"

_FEATURES = "tensorflow_datasets.core.features"


@dataclasses.dataclass(frozen=True)
class Split:
    """A split, of one file: its name, the number of records, and their total size before compression."""

    name: str
    count: int
    num_bytes: int


def config_name(sample_rate: int) -> str:
    """Returns the name of the TFDS config of a sample rate."""
    return f"{sample_rate}hz"


def config_description(sample_rate: int) -> str:
    """Returns the description of the TFDS config of a sample rate."""
    return f"Resampled to {sample_rate} Hz, mono, 16 bit."


def split_name(fold: int) -> str:
    """Returns the name of a fold's split."""
    return f"fold{fold}"


def record_file(fold: int) -> str:
    """Returns the name of the file of a fold's records."""
    return f"{NAME}-{split_name(fold)}.array_record-00000-of-00001"


def label_feature(task: str) -> str:
    """Returns the name of the feature with the classes of a clip: one, or a sequence in multi-label data sets."""
    return "labels" if task == "multi_label" else "label"


def _features(task: str, classes: int) -> dict[str, Any]:
    def text(**fields: str) -> dict[str, Any]:
        return {**fields, "pythonClassName": f"{_FEATURES}.text_feature.Text", "text": {}}

    def tensor(dtype: str, encoding: str, shape: dict[str, Any]) -> dict[str, Any]:
        content = {"dtype": dtype, "encoding": encoding, "shape": shape}
        return {"pythonClassName": f"{_FEATURES}.tensor_feature.Tensor", "tensor": content}

    label: dict[str, Any] = {
        "classLabel": {"numClasses": str(classes)},
        "pythonClassName": f"{_FEATURES}.class_label_feature.ClassLabel",
    }
    if task == "multi_label":
        label = {
            "pythonClassName": f"{_FEATURES}.sequence_feature.Sequence",
            "sequence": {"feature": label, "length": "-1"},
        }
    features = {
        "audio": tensor("int16", "bytes", {"dimensions": ["-1"]}),
        "filename": text(),
        "fold": tensor("int32", "none", {}),
        label_feature(task): label,
        "source": text(description=SOURCE_DOC),
        "take": text(description=TAKE_DOC),
    }
    return {
        "featuresDict": {"features": features},
        "pythonClassName": f"{_FEATURES}.features_dict.FeaturesDict",
    }


def _dataset_info(about: About, task: str, sample_rate: int, splits: Iterable[Split]) -> dict[str, Any]:
    info = {
        "configDescription": config_description(sample_rate),
        "configName": config_name(sample_rate),
        "description": about.description,
        "fileFormat": "array_record",
        "moduleName": "esc_jax.data.esc50.esc50_dataset_builder",
        "name": NAME,
        "releaseNotes": RELEASE_NOTES,
        "splits": [
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split.name,
                "numBytes": str(split.num_bytes),
                "shardLengths": [str(split.count)],
            }
            for split in splits
        ],
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "audio"}, {"featureKey": label_feature(task)}]}},
        "version": VERSION,
    }
    if about.citation:
        info["citation"] = about.citation
    if about.homepage:
        info["location"] = {"urls": [about.homepage]}
    if about.license:
        info["redistributionInfo"] = {"license": about.license}
    return info


def write(
    folder: pathlib.Path, about: About, task: str, classes: Sequence[str], sample_rate: int, splits: Iterable[Split]
) -> None:
    """Writes dataset_info.json, features.json, metadata.json, label.labels.txt or labels.labels.txt, and LICENSE.

    Args:
        folder: of the records.
        about: description of the data set.
        task: that the labels are for.
        classes: class names by index.
        sample_rate: Hz.
        splits: the record files.
    """

    def dump(name: str, value: Any, indent: int | None) -> None:
        (folder / name).write_text(json.dumps(value, indent=indent, sort_keys=True), encoding="utf-8")

    dump("dataset_info.json", _dataset_info(about, task, sample_rate, splits), 2)
    dump("features.json", _features(task, len(classes)), 4)
    dump("metadata.json", {"sample_rate": sample_rate}, None)
    (folder / f"{label_feature(task)}.labels.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    if about.license:
        (folder / "LICENSE").write_text(about.license, encoding="utf-8")


def read_classes(folder: pathlib.Path, task: str) -> tuple[str, ...]:
    """Returns the class names by index."""
    return tuple(
        (folder / f"{label_feature(task)}.labels.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    )


def read_sample_rate(folder: pathlib.Path) -> int:
    """Returns the sample rate, Hz."""
    return int(json.loads((folder / "metadata.json").read_text(encoding="utf-8"))["sample_rate"])
