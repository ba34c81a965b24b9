"""Builds multi-label scenes from the clips of ESC-50: one to three clips of different classes each.

    python benchmarks/esc50_scenes.py --data_dir=ESC-50-master --out=esc50_scenes
    python -m esc_jax.main --config=configs/efficientat_frozen.py --config.data.name=csv \
        --config.data.dir=esc50_scenes/scenes.csv --config.model.pretrained=mn04_as_mAP_432.pt --mode=crossval

Every clip is used once, and a scene has clips of one fold only. A clip starts at a random time in the first half of its
scene and has a random level within 6 dB; zeros at its ends are removed first. OUT/scenes.csv names the classes of every
scene, its fold, and its group: scenes that share source recordings have the same group. OUT/events.csv has the onset
and offset of every clip.
"""

import argparse
import collections
import pathlib
import sys

import numpy as np
import soundfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from esc_jax.data import audio, scenes  # noqa: E402
from esc_jax.data.layouts.esc50 import Esc50Layout  # noqa: E402
from esc_jax.data.rows import Row  # noqa: E402

RATE = 32_000
LENGTH = 5 * RATE


def draw(rows: list[Row], rng: np.random.Generator) -> list[list[Row]]:
    """Divides the clips of a fold into groups of one to three clips of different classes."""
    remaining = [rows[i] for i in rng.permutation(len(rows))]
    groups = []
    while remaining:
        group, classes = [], set()
        wanted = int(rng.integers(1, 4))
        for row in list(remaining):
            if len(group) == wanted:
                break
            if row.targets[0] not in classes:
                group.append(row)
                classes.add(row.targets[0])
                remaining.remove(row)
        groups.append(group)
    return groups


def connected(groups: list[list[Row]]) -> list[str]:
    """For each group of clips, the name of the set of groups that it shares source recordings with, directly or not."""
    parent = list(range(len(groups)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    owner: dict[str, int] = collections.defaultdict(lambda: -1)
    for number, group in enumerate(groups):
        for row in group:
            if owner[row.src_file] >= 0:
                parent[root(number)] = root(owner[row.src_file])
            owner[row.src_file] = number
    return [f"group-{root(i):04d}" for i in range(len(groups))]


def event(layout: Esc50Layout, row: Row, rng: np.random.Generator) -> scenes.Event:
    """A clip without zeros at its ends, at a random time and level."""
    samples = audio.load(layout.read(row), RATE, name=layout.where(row))
    audible = np.flatnonzero(np.abs(samples) > 1e-4)
    if len(audible):
        samples = samples[audible[0] : audible[-1] + 1]
    onset = int(rng.integers(0, LENGTH // 2))
    return scenes.Event(layout.categories[row.targets[0]], samples, onset, float(rng.uniform(-6.0, 0.0)))


def main() -> None:
    """Writes the scenes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", required=True, help="ESC-50, folder or zip")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="folder to write; it must not exist")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")
    options = parser.parse_args()
    layout = Esc50Layout(options.data_dir)
    rng = np.random.default_rng(options.seed)
    folds = sorted({row.fold for row in layout.rows})
    groups = [group for fold in folds for group in draw([row for row in layout.rows if row.fold == fold], rng)]
    (options.out / "audio").mkdir(parents=True)
    rows = []
    for number, (group, name) in enumerate(zip(groups, connected(groups), strict=True)):
        events = tuple(event(layout, row, rng) for row in group)
        filename = f"{group[0].fold}-{number:04d}.flac"
        soundfile.write(options.out / "audio" / filename, scenes.mix(events, LENGTH), RATE, subtype="PCM_16")
        rows.append(scenes.Scene(filename, group[0].fold, name, events))
    scenes.write_tables(options.out, rows, RATE, LENGTH)
    sys.stdout.write(f"{options.out}: {len(rows)} scenes of {len(layout.rows)} clips\n")


if __name__ == "__main__":
    main()
