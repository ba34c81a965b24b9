"""Linear and nearest-neighbour heads on frozen embeddings: all folds × regularisations × seeds in one program.

    python -m esc_jax.probe EMBEDDINGS.npz                        (of `python -m esc_jax.embed`)
    python -m esc_jax.main --config=configs/efficientat_frozen.py --mode=crossval

What regularises a test fold's head is chosen inside its training folds: each of them validates once, on heads that
have seen neither it nor the test fold. The head is then fitted on all of the training folds and tested once.
"""

import argparse
import sys

import numpy as np

from esc_jax.cli.command import command
from esc_jax.data.rows import DataError
from esc_jax.experiments.probe import probabilities, probe, table


@command
def main(argv: list[str] | None = None) -> None:
    """The command line: probes a file of embeddings."""
    parser = argparse.ArgumentParser(
        "python -m esc_jax.probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("embeddings", help=".npz of esc_jax.embed, of a data set")
    parser.add_argument("--seeds", type=int, default=1, help="starting points of the solver (default: %(default)s)")
    options = parser.parse_args(argv)
    if options.seeds < 1:
        parser.error("--seeds must be 1 or more")
    try:
        with np.load(options.embeddings, allow_pickle=False) as file:
            x, labels, folds, classes = (file[name] for name in ("embeddings", "label", "fold", "classes"))
        whole = x.ndim == 2 and labels.shape == folds.shape == x.shape[:1] and set(labels) <= set(range(len(classes)))
        finite = np.isfinite(x).all()
    except OSError:
        raise
    except Exception:  # numpy, zipfile and zlib have many for what is none of their files
        raise DataError(f"{options.embeddings} holds no embeddings of a data set: esc_jax.embed writes them") from None
    if not whole or not finite:
        reason = "numbers that are none" if whole else "arrays that do not belong together"
        raise DataError(f"{options.embeddings} holds {reason}: write it anew with esc_jax.embed")
    found = probe(x[None], labels, folds, sorted(set(folds.tolist())), len(classes), seeds=options.seeds)
    accuracy = []
    for head in found:
        inside = folds == head.fold
        accuracy.append((probabilities(x[inside], head.kernel, head.bias).argmax(-1) == labels[inside]).mean())
    sys.stdout.write(table(found, accuracy))
