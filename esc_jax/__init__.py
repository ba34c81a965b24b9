"""Environmental-sound classification in JAX.

`load_classifier(DIR)` gives a finished run's model, to be called on sounds (`esc_jax.classifier`).
"""

__all__ = ["load_classifier"]


def __getattr__(name: str):
    # Imported when first asked for: `import esc_jax`, and with it every --help, stays free of JAX.
    if name == "load_classifier":
        from esc_jax.inference.classifier import load_classifier

        return load_classifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
