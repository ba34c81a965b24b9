"""Data sets by the name they have in a config (data.name)."""

from collections.abc import Callable
import dataclasses
import difflib
from typing import Any

from esc_jax.data import prepare, prepared
from esc_jax.data.clips import Clips
from esc_jax.data.datasets import background, esc50, gtzan, recordings, synthetic
from esc_jax.data.layouts.registry import LAYOUTS
from esc_jax.data.rows import DataError, Layout


@dataclasses.dataclass(frozen=True)
class DataSet:
    """How a data set is opened.

    Attributes:
        open_layout: function of `config.data`, which downloads or generates what is missing.
        select: prepared files → clips. By default, files of at least one and a half clips are cut into windows.
    """

    open_layout: Callable[[Any], Layout]
    select: Callable[[Clips], Clips] = Clips.windows


# A layout is a data set of its own name. The others download or generate their files, or select some of the clips.
DATASETS: dict[str, DataSet] = dict.fromkeys(LAYOUTS, DataSet(recordings.open_layout)) | {
    "esc50": DataSet(esc50.open_layout),
    "esc10": DataSet(esc50.open_layout, esc50.esc10_clips),
    "gtzan": DataSet(gtzan.open_layout, gtzan.windows),
    "synthetic": DataSet(synthetic.open_layout, synthetic.whole_clips),
    "synthetic_scenes": DataSet(synthetic.open_scenes, synthetic.whole_clips),
}

# Called with the data set and the background, or None, before anything is decoded. Raises an error to refuse them.
Check = Callable[[Layout, Layout | None], None]


def load(config: Any, check: Check | None = None) -> Clips:
    """Loads the data set of `config.data`; downloads, generates and prepares it first where that was not done yet.

    Args:
        config: `config.data`.
        check: of the files, before their preparation, which may take minutes.

    Raises:
        DataError: the data set cannot be loaded; one sentence.
    """
    if config.name not in DATASETS:
        near = difflib.get_close_matches(config.name, DATASETS, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise DataError(f"data.name={config.name}: the data sets are {', '.join(DATASETS)}{hint}")
    dataset = DATASETS[config.name]
    source = dataset.open_layout(config)
    other = background.open_layout(config) if config.background else None
    if check:
        check(source, other)
    clips = dataset.select(_prepared(source, config))
    with background.named_errors():
        others = _prepared(other, config).windows() if other else None
    return dataclasses.replace(clips, mask_padding=config.mask_padding, background=others)


def _prepared(source: Layout, config: Any) -> Clips:
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    return prepared.open_prepared(folder, round(config.clip_s * config.sample_rate), source)
