"""Exports of trained models: `formats.export` writes a model for use without esc_jax."""
