"""Synthesised sounds (`data.synthetic`), generated in the cache folder."""

from typing import Any

import soundfile

from esc_jax.data import prepare, prepared, synthetic
from esc_jax.data.cache import cache_root
from esc_jax.data.clips import Clips
from esc_jax.data.layouts.esc50 import Esc50Layout
from esc_jax.data.rows import PreparationError


def load(config: Any) -> Clips:
    """Loads the data set of data.clips_per_fold and data.synthetic_seed."""
    name = f"synthetic-v{synthetic.VERSION}-{config.clips_per_fold}-{config.synthetic_seed}"
    directory = cache_root(config.cache_dir) / name
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        source = Esc50Layout(synthetic.generate(directory, config.clips_per_fold, config.synthetic_seed))
    except (OSError, soundfile.SoundFileError) as error:
        raise PreparationError(f"could not write the synthetic data set to {directory}: {error}") from None
    folder = prepare.prepared_dir(source, config.sample_rate, config.cache_dir, config.on_bad_clip)
    clips = prepared.open_prepared(folder, round(config.clip_s * config.sample_rate), source)
    prepared.log_longer_clips(clips)  # they are cut: data.clip_s sets how long a synthesised sound is
    return clips
