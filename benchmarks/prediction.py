"""Windowed prediction on long recordings: audio per second of time, memory, and the same windows in a PyTorch pipeline.

    python benchmarks/prediction.py --checkpoint=runs/NAME
    python benchmarks/prediction.py --pipeline

The first classifies one minute, ten minutes and an hour of pink noise, a window a second, each in a process of its own,
whose largest resident set is the memory. The second sets DistilHuBERT (24 million parameters drawn at random, which
take as long as trained ones) beside the transformers pipeline of the same network, which our export writes for it: the
same file, the same windows of five seconds, decoding and resampling included; each in turn, medians over the rounds
after one that compiles. It needs torch. Both print a Markdown table, and leave no file.
"""

import argparse
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time

import apart
import numpy as np
import soundfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FILE_RATE = 44_100


def recording(path: str, minutes: float) -> None:
    """Writes pink noise, mono 16-bit at 44.1 kHz, in blocks of a minute."""
    rng = np.random.default_rng(0)
    spectrum = np.fft.rfft(rng.standard_normal(60 * FILE_RATE))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    block = np.fft.irfft(spectrum)
    block *= 0.3 / np.abs(block).max()
    with soundfile.SoundFile(path, "w", FILE_RATE, 1) as file:
        for _ in range(round(minutes)):
            file.write(block)


def measure(checkpoint: str, minutes: float) -> dict:
    """One recording, after a short one for which everything is compiled."""
    import esc_jax

    classifier = esc_jax.load_classifier(checkpoint)
    with tempfile.TemporaryDirectory() as folder:
        recording(f"{folder}/short.wav", 1)
        recording(f"{folder}/long.wav", minutes)
        classifier.timeline(f"{folder}/short.wav")
        started = time.perf_counter()
        timeline = classifier.timeline(f"{folder}/long.wav")
        seconds = time.perf_counter() - started
    return {
        "audio, minutes": minutes,
        "windows": len(timeline.starts),
        "seconds": round(seconds, 1),
        "audio per time": round(60 * minutes / seconds, 1),
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def distilhubert():
    """Our classifier and the pipeline of the same network: transformers loads what we write, the weights too."""
    import transformers

    from esc_jax import build, classifier
    from esc_jax import config as configs
    from esc_jax.inference import classifier
    from esc_jax.pretrained import hubert
    from esc_jax.runtime import xla

    xla.initialize()
    config = configs.load(ROOT / "configs/distilhubert.py")
    model, frontend, variables = build.build(config, 50)
    names = tuple(f"class {i}" for i in range(50))
    ours = classifier.SoundClassifier(
        build.Restored(config, names, 16_000, 5.0, False, model, frontend, variables, pathlib.Path(), 0, {})
    )
    with tempfile.TemporaryDirectory() as folder:
        hubert.write(folder, variables, config.model.encoder, names, {"sample_rate": 16_000, **config.frontend})
        theirs = transformers.pipeline("audio-classification", model=folder, device="cpu")
    return ours, theirs


def compare(minutes: float, rounds: int) -> list[dict]:
    """Both on the same file, in turn."""
    from esc_jax.data.stream import AudioStream, windows

    ours, theirs = distilhubert()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/long.wav"
        recording(path, minutes)

        def pipeline() -> int:
            cut = [w for _, w in windows(AudioStream(path, 16_000), 80_000, 80_000)]
            return len(theirs([{"raw": w, "sampling_rate": 16_000} for w in cut], batch_size=8))

        calls = {
            "esc_jax": lambda: len(ours.timeline(path, hop_s=5.0).starts),
            "transformers pipeline": pipeline,
        }
        taken, counts = {name: [] for name in calls}, {}
        for _ in range(rounds + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                counts[name] = call()
                taken[name].append(time.perf_counter() - started)
    return [
        {
            "DistilHuBERT in": name,
            "windows of 5 s": counts[name],
            "seconds": round(statistics.median(seconds[1:]), 1),
            "from, to": f"{min(seconds[1:]):.1f}, {max(seconds[1:]):.1f}",
            "audio per time": round(60 * minutes / statistics.median(seconds[1:]), 1),
        }
        for name, seconds in taken.items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--checkpoint", help="workdir of a finished run")
    what.add_argument("--pipeline", action="store_true", help="DistilHuBERT here and in transformers")
    parser.add_argument("--minutes", type=float, nargs="+", help="of audio (default: 1 10 60; with --pipeline, 5)")
    parser.add_argument("--rounds", type=int, default=3, help="of --pipeline (default: %(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measure(options.checkpoint, options.minutes[0])) + "\n")
        return
    if options.pipeline:
        lines = compare((options.minutes or [5])[0], options.rounds)
    else:
        lengths, own = options.minutes or [1, 10, 60], f"--checkpoint={options.checkpoint}"
        lines = [apart.measure(__file__, [own, f"--minutes={minutes}", "--one"]) for minutes in lengths]
    sys.stdout.write(apart.table(lines))


if __name__ == "__main__":
    main()
