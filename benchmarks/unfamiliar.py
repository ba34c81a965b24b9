"""How often a model marks sounds as unfamiliar: artificial sounds, recordings, and clips of its test fold.

    python benchmarks/unfamiliar.py --model=runs/NAME --data_dir=ESC-50-master storm.ogg music.ogg

Recordings are classified in windows of five seconds, one per second. Of the test fold, the first 200 clips in the order
of esc50.csv are classified. The benchmark prints a Markdown table and writes no file.
"""

import argparse
import csv
import pathlib
import sys
from typing import Any

import numpy as np
import soundfile
import subprocesses

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
CLIPS = 200


def artificial_sounds(rate: int) -> dict[str, np.ndarray]:
    """Sounds of five seconds that belong to none of ESC-50's classes."""
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
    parser.add_argument("--model", required=True, help="workdir of a finished run")
    parser.add_argument("--data_dir", help="ESC-50 in its own layout, for clips of the test fold of the run")
    parser.add_argument("files", nargs="*", help="recordings")
    options = parser.parse_args()

    import esc_jax
    from esc_jax.training import checkpoint

    classifier = esc_jax.load_classifier(options.model)
    rows: list[dict[str, Any]] = []

    def add(name: str, count: int, unfamiliar: int, label: str) -> None:
        rows.append({"sound": name, "windows or clips": count, "unfamiliar": unfamiliar, "most probable": label})

    for name, sound in artificial_sounds(classifier.sample_rate).items():
        prediction = classifier(sound, classifier.sample_rate)
        add(name, 1, int(prediction.unfamiliar), prediction.labels[0])
    for file in options.files:
        timeline = classifier.timeline(file)
        mean = timeline.mean()
        label = mean.labels[0] if mean else "silence"
        add(pathlib.Path(file).name, len(timeline.starts), int(timeline.unfamiliar.sum()), label)
    if options.data_dir:
        folder = pathlib.Path(options.data_dir)
        fold = checkpoint.read_meta(*checkpoint.find(options.model))["config"]["data"]["test_fold"]
        with open(folder / "meta/esc50.csv", newline="") as file:
            clips = [row for row in csv.DictReader(file) if row["fold"] == str(fold)][:CLIPS]
        predictions = [
            classifier(*soundfile.read(folder / "audio" / row["filename"], dtype="float32")) for row in clips
        ]
        correct = np.array([p.labels[0] == row["category"] for p, row in zip(predictions, clips, strict=True)])
        unfamiliar = np.array([prediction.unfamiliar for prediction in predictions])
        add(f"clips of fold {fold}, correct", int(correct.sum()), int(unfamiliar[correct].sum()), "")
        add(f"clips of fold {fold}, incorrect", int((~correct).sum()), int(unfamiliar[~correct].sum()), "")
    sys.stdout.write(subprocesses.markdown_table(rows))


if __name__ == "__main__":
    main()
