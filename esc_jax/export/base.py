"""File names and errors shared by the export formats."""

from esc_jax.errors import UserError

PROGRAM, DESCRIPTION, CARD = "model.stablehlo", "model.json", "README.md"


PLATFORMS = ("cpu", "cuda", "tpu")


class ExportError(UserError, ValueError):
    """An export that cannot be made. The message is one sentence for the user, and says what to do."""


def samples(run) -> int:
    """Samples of a clip in training, cut or padded."""
    return round(run.clip_s * run.sample_rate)
