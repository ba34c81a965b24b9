"""Environmental-sound classification in JAX.

`load_classifier(PATH)` returns the classifier of a finished run, or a published one, for waveforms and recordings
(`esc_jax.inference.classifier`).
"""

from typing import Any

__version__ = "0.2.0"
__all__ = ["__version__", "load_classifier"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import esc_jax`, and with it every --help, does not import JAX.
    if name == "load_classifier":
        from esc_jax.inference.classifier import load_classifier

        return load_classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
