"""Fits and tests linear and nearest-neighbour classifiers on frozen embeddings, for every fold of a data set.

    esc-jax probe EMBEDDINGS.npz                                     (a file of esc-jax embed)
    esc-jax train --config=efficientat_frozen --mode=crossval        (embeds, probes and writes a run)

The regularisation for a test fold is selected within its training folds: each of them is held out once, and predicted
by a classifier fitted on neither it nor the test fold. The classifier is then fitted on all training folds and tested
once.
"""

import sys

from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command, initialize_device


def _parser() -> arguments.Parser:
    parser = arguments.Parser("probe", __doc__)
    parser.add_argument("embeddings", metavar="EMBEDDINGS.npz", help="of a data set, written by esc-jax embed")
    seeds = "random initialisations of the solver (default: %(default)s)"
    parser.add_argument("--seeds", metavar="N", type=arguments.integer(), default=1, help=seeds)
    return parser


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    options = _parser().parse(argv)
    from esc_jax.experiments import probe

    initialize_device()
    sys.stdout.write(probe.probe_embeddings(options.embeddings, options.seeds))
