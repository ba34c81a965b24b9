"""A run's model in a form that the rest of the world reads: with transformers, or with JAX alone.

    python -m esc_jax.export --checkpoint=runs/NAME --format=stablehlo --out=exports/NAME
    python -m esc_jax.export --checkpoint=runs/NAME --format=huggingface --out=exports/NAME

huggingface is a directory that transformers loads with its own classes (hubert, efficientnet). stablehlo is one program
from waveform to probabilities, frontend and weights inside, for any batch size on CPU, CUDA and TPU; it runs where
esc_jax is not installed. Both bring a README.md, the model's card, that says how to use them.
"""

import argparse
import sys

from esc_jax.cli.command import command
from esc_jax.export.formats import FORMATS, export


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one sentence, as the other commands do."""

    def error(self, message: str) -> None:
        self.exit(2, f"esc_jax: {message}\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m esc_jax.export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--checkpoint", required=True, metavar="DIR", help="a run's workdir, or a checkpoint in it")
    parser.add_argument("--format", required=True, choices=FORMATS, dest="form", help="what to write")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write; new, or empty")
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """The command; returns its exit status."""
    asked = _parser().parse_args(argv)
    out = export(asked.checkpoint, asked.form, asked.out)
    written = (f"{path.name} ({path.stat().st_size / 1e6:.1f} MB)" for path in sorted(out.iterdir()))
    sys.stdout.write(f"{out}: {', '.join(written)}\n")
