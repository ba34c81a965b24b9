"""Fixtures of these tests; those of tests/cli use them too."""

from tests.report.fixtures import clips, data_dir, runs_dir, written_report

__all__ = ["clips", "data_dir", "runs_dir", "written_report"]
