"""The TFDS data set package of ESC-50. Importing it registers `esc50/<rate>hz` with TFDS."""

from esc_jax.data.esc50.esc50_dataset_builder import Builder as Builder
