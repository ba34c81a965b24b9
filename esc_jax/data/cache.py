"""The cache folder: downloads, prepared data sets, compiled programs and whatever else can be made again."""

import os
import pathlib


def cache_root(cache_dir: str | os.PathLike[str] = "") -> pathlib.Path:
    """Returns the cache folder: `cache_dir` if given, else $ESC_JAX_CACHE, else the user's cache folder."""
    chosen = cache_dir or os.environ.get("ESC_JAX_CACHE")
    if chosen:
        return pathlib.Path(chosen).expanduser().resolve()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "esc_jax"
