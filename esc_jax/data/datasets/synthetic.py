"""Synthesised sounds and scenes (`data.synthetic`), generated in the cache folder."""

from collections.abc import Callable
import pathlib
from typing import Any

import soundfile

from esc_jax.data import prepared, scenes, synthetic
from esc_jax.data.cache import cache_root
from esc_jax.data.clips import Clips
from esc_jax.data.layouts.csv_file import CsvLayout
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.layouts.options import Options
from esc_jax.data.rows import Layout, PreparationError


def open_layout(config: Any) -> Layout:
    """Single sounds, of data.clips_per_fold and data.synthetic_seed."""
    return _generate(config, "synthetic", synthetic.generate, Esc50Layout)


def open_scenes(config: Any) -> Layout:
    """Scenes of several sounds, for multi-label classification; keys as for `open_layout`."""
    return _generate(
        config,
        "synthetic_scenes",
        synthetic.generate_scenes,
        lambda directory: CsvLayout(directory / scenes.TABLE, Options()),
    )


def whole_clips(clips: Clips) -> Clips:
    """The clips themselves. Longer ones are cut: data.clip_s sets how long a synthesised sound is."""
    prepared.log_longer_clips(clips)
    return clips


def _generate(
    config: Any, name: str, generate: Callable[..., pathlib.Path], open_folder: Callable[[pathlib.Path], Layout]
) -> Layout:
    version = f"{name}-v{synthetic.VERSION}-{config.clips_per_fold}-{config.synthetic_seed}"
    directory = cache_root(config.cache_dir) / version
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        return open_folder(generate(directory, config.clips_per_fold, config.synthetic_seed))
    except (OSError, soundfile.SoundFileError) as error:
        raise PreparationError(f"could not write the synthetic data set to {directory}: {error}") from None
