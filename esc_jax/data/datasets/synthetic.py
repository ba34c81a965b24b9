"""Synthesised sounds and scenes (`data.synthetic`), generated in the cache folder."""

from collections.abc import Callable
import pathlib
from typing import Any

import soundfile

from esc_jax.data import prepare, prepared, scenes, synthetic
from esc_jax.data.cache import cache_root
from esc_jax.data.clips import Clips
from esc_jax.data.layouts.csv_file import CsvLayout
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.layouts.options import Options
from esc_jax.data.rows import Layout, PreparationError


def load(config: Any) -> Clips:
    """Loads single sounds, of data.clips_per_fold and data.synthetic_seed."""
    return _load(config, "synthetic", synthetic.generate, Esc50Layout)


def load_scenes(config: Any) -> Clips:
    """Loads scenes of several sounds, for multi-label classification; keys as for `load`."""
    return _load(
        config,
        "synthetic_scenes",
        synthetic.generate_scenes,
        lambda directory: CsvLayout(directory / scenes.TABLE, Options()),
    )


def _load(
    config: Any, name: str, generate: Callable[..., pathlib.Path], open_layout: Callable[[pathlib.Path], Layout]
) -> Clips:
    version = f"{name}-v{synthetic.VERSION}-{config.clips_per_fold}-{config.synthetic_seed}"
    directory = cache_root(config.cache_dir) / version
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        source = open_layout(generate(directory, config.clips_per_fold, config.synthetic_seed))
    except (OSError, soundfile.SoundFileError) as error:
        raise PreparationError(f"could not write the synthetic data set to {directory}: {error}") from None
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    clips = prepared.open_prepared(folder, round(config.clip_s * config.sample_rate), source)
    prepared.log_longer_clips(clips)  # they are cut: data.clip_s sets how long a synthesised sound is
    return clips
