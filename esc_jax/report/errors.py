"""Errors of reports."""

from esc_jax.errors import Failure, UserError


class RunError(Failure, ValueError):
    """The files of a run cannot be read. The message is one sentence that names the file."""


class ReportError(UserError, ValueError):
    """What was asked for cannot be answered from these runs. The message is one sentence."""
