"""Runs for the tests of esc-jax report."""

from tests.report.fixtures import clips, data_dir, runs_dir

__all__ = ["clips", "data_dir", "runs_dir"]
