"""The cache folder: downloads, prepared data sets, compiled programs and whatever else can be made again."""

import os
import pathlib

from esc_jax import files


def cache_root(cache_dir: str | os.PathLike[str] = "") -> pathlib.Path:
    """Returns the cache folder: `cache_dir` if given, else $ESC_JAX_CACHE, else the user's cache folder."""
    chosen = cache_dir or os.environ.get("ESC_JAX_CACHE")
    if chosen:
        return files.resolve(chosen)
    return files.expand(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "esc_jax"
