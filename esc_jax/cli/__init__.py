"""The commands of `esc-jax`. Each module parses its arguments and calls the library once."""
