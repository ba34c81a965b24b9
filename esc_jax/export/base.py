"""File names and errors of all export formats."""

from esc_jax.errors import UserError

PROGRAM, DESCRIPTION, CARD = "model.stablehlo", "model.json", "README.md"
PLATFORMS = ("cpu", "cuda", "tpu")


class ExportError(UserError, ValueError):
    """The model cannot be exported as requested. The message is one sentence that says what to do."""
