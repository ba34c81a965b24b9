"""Coverage of 95 % confidence intervals of accuracies, on simulated clips that are grouped by recording.

    python benchmarks/intervals.py --samples=2000

A recording has 1 to 4 clips. Its accuracy is drawn from a beta distribution with the given mean, so that the clips of a
recording have a correlation of 0.2. The table has the share of samples whose interval contains the mean: of the
interval of esc_jax (`evaluation.confidence.mean_interval`), of the percentile bootstrap over recordings, and of
Wilson's interval over clips, which ignores recordings. The standard error of a share of 2,000 samples is 0.5 points.
"""

import argparse
import pathlib
import sys

import numpy as np
from scipy import stats

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from esc_jax.evaluation import confidence  # noqa: E402

CASES = ((30, 0.7), (30, 0.9), (100, 0.9), (250, 0.95), (100, 0.99), (500, 0.99), (1000, 0.95))
CORRELATION = 0.2


def sample(rng: np.random.Generator, recordings: int, mean: float) -> tuple[np.ndarray, np.ndarray]:
    """Whether each clip is correct, and its recording."""
    scale = 1 / CORRELATION - 1
    accuracy = rng.beta(mean * scale, (1 - mean) * scale, recordings)
    recording = np.repeat(np.arange(recordings), rng.integers(1, 5, recordings))
    return rng.random(len(recording)) < accuracy[recording], recording


def intervals(correct: np.ndarray, recording: np.ndarray, draws: int, seed: int) -> list[tuple[float, float]]:
    """The intervals of one sample by the three methods."""
    ours = confidence.mean_interval(correct, recording)
    bootstrap = confidence.difference_interval(correct, np.zeros(len(correct)), recording, draws=draws, seed=seed)
    clips = stats.binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    return [(ours.low, ours.high), (bootstrap.low, bootstrap.high), (clips.low, clips.high)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=2000, help="per row (default: 2000)")
    parser.add_argument("--draws", type=int, default=1000, help="of the bootstrap (default: 1000)")
    options = parser.parse_args()
    sys.stdout.write("| recordings | accuracy | esc_jax | bootstrap | Wilson over clips |\n|---|---|---|---|---|\n")
    rng = np.random.default_rng(0)
    for recordings, mean in CASES:
        covered = np.zeros(3)
        for number in range(options.samples):
            found = intervals(*sample(rng, recordings, mean), options.draws, number)
            covered += [low <= mean <= high for low, high in found]
        shares = " | ".join(f"{100 * share:.1f}" for share in covered / options.samples)
        sys.stdout.write(f"| {recordings} | {mean:g} | {shares} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
