"""Recordings of your own, and published data sets that are read from their official folders."""

from typing import Any

from esc_jax.data.layouts.registry import open_source
from esc_jax.data.rows import DataError, Layout

# data.name → what data.dir is.
PLACES = {
    "folder": "the folder with one folder of audio files per class",
    "csv": "a csv file with columns such as filename and label, or a folder with one",
    "audiofolder": "a folder in the audiofolder layout of Hugging Face: metadata.csv, or class folders in splits",
    "urbansound8k": "the unpacked archive (metadata/UrbanSound8K.csv, audio/fold1 …), from"
    " https://urbansounddataset.weebly.com",
    "fsd50k": "the folder with FSD50K.ground_truth, FSD50K.dev_audio and FSD50K.eval_audio, from"
    " https://zenodo.org/records/4060432",
}


def open_layout(config: Any) -> Layout:
    """data.dir in the layout data.name."""
    if not config.dir:
        raise DataError(f"data.name={config.name}: give --config.data.dir=PATH, {PLACES[config.name]}")
    return open_source(config.dir, config)
