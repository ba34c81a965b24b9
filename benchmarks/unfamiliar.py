"""What a model calls unlike anything in training: sounds made here, recordings, and clips of its test fold.

    python benchmarks/unfamiliar.py --checkpoint=runs/NAME --data_dir=ESC-50-master storm.ogg music.ogg

Windows of five seconds, one a second; of the test fold the first 200 clips in the order of esc50.csv. Prints a Markdown
table, and leaves no file.
"""

import argparse
import csv
import pathlib
import sys

import apart
import numpy as np
import soundfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
CLIPS = 200


def made(rate: int) -> dict[str, np.ndarray]:
    """Five seconds each of sounds that are none of ESC-50's classes."""
    rng, time = np.random.default_rng(0), np.arange(5 * rate) / rate
    chord = sum(0.1 * np.sin(2 * np.pi * f * time) for f in (261, 329, 392)) * np.exp(-(time % 1))
    sounds = {
        "white noise": 0.1 * rng.standard_normal(len(time)),
        "tone of 440 Hz": 0.3 * np.sin(2 * np.pi * 440 * time),
        "tone of 60 Hz": 0.3 * np.sin(2 * np.pi * 60 * time),
        "clicks": (np.arange(len(time)) % rate == 0) * 0.9,
        "chord": chord,
        "buzz": sum(0.1 / k * np.sin(2 * np.pi * 110 * k * time) for k in range(1, 30)),
    }
    return {name: sound.astype(np.float32) for name, sound in sounds.items()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="workdir of a finished run")
    parser.add_argument("--data_dir", help="ESC-50 in its own layout, for clips of the run's test fold")
    parser.add_argument("files", nargs="*", help="recordings")
    options = parser.parse_args()

    import esc_jax
    from esc_jax.training import checkpoint

    classifier = esc_jax.load_classifier(options.checkpoint)
    lines = []

    def add(name: str, count: int, marked: int, label: str) -> None:
        lines.append({"sound": name, "windows or clips": count, "unlike training": marked, "likeliest": label})

    for name, sound in made(classifier.sample_rate).items():
        found = classifier(sound, classifier.sample_rate)
        add(name, 1, int(found.unfamiliar), found.labels[0])
    for file in options.files:
        timeline = classifier.timeline(file)
        average = timeline.mean()
        label = average.labels[0] if average else "silence"
        add(pathlib.Path(file).name, len(timeline.starts), int(timeline.unfamiliar.sum()), label)
    if options.data_dir:
        folder = pathlib.Path(options.data_dir)
        fold = checkpoint.read_meta(*checkpoint.find(options.checkpoint))["config"]["data"]["test_fold"]
        with open(folder / "meta/esc50.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["fold"] == str(fold)][:CLIPS]
        found = [classifier(*soundfile.read(folder / "audio" / row["filename"], dtype="float32")) for row in rows]
        right = np.array([one.labels[0] == row["category"] for one, row in zip(found, rows, strict=True)])
        marked = np.array([one.unfamiliar for one in found])
        add(f"clips of fold {fold} classified rightly", int(right.sum()), int(marked[right].sum()), "")
        add(f"clips of fold {fold} classified wrongly", int((~right).sum()), int(marked[~right].sum()), "")
    sys.stdout.write(apart.table(lines))


if __name__ == "__main__":
    main()
