"""Stores of made-up embeddings."""

import numpy as np

from esc_jax.inference.index_store import StoreSettings, open_for_writing


def settings(**changes):
    values = {
        "model": "encoder", "encoder": "abc", "sample_rate": 16_000, "window_s": 2.0, "hop_s": 1.0, "dimension": 8,
        "dtype": "float32",
    }  # fmt: skip
    return StoreSettings(**(values | changes))


def add(store, name, vectors, content=None):
    """A recording of one passage per vector, a hop apart; returns whether it is new."""
    starts = store.settings.hop_s * np.arange(len(vectors))
    duration = float(starts[-1] + store.settings.window_s) if len(vectors) else 0.0
    return store.add(f"/archive/{name}", content or name, 10, 20, duration, "", starts, np.asarray(vectors, np.float32))


def make(path, recordings, **changes):
    """Writes a store of {name: vectors}."""
    with open_for_writing(path, settings(**changes)) as store:
        for name, vectors in recordings.items():
            add(store, name, vectors)
    return path
