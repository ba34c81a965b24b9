"""Throughput and memory of windowed prediction on long recordings, and a comparison with a PyTorch pipeline.

    python benchmarks/prediction.py --model=runs/NAME
    python benchmarks/prediction.py --pipeline

The first command classifies pink noise of one minute, ten minutes and an hour, one window per second. Each recording is
processed in a process of its own, whose maximum resident set is reported as memory. The second command compares
DistilHuBERT with random weights (24 million parameters) with the transformers pipeline of the same network, which
loads our export of it: the same file in the same windows of five seconds, decoding and resampling included. The two
alternate; times are medians over rounds, without the first. It needs torch. Both commands print a Markdown table and
write no file. The real-time factor is the duration of the audio over the processing time.
"""

import argparse
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from typing import Any

import numpy as np
import soundfile
import subprocesses

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
FILE_RATE = 44_100


def pink_noise(rng: np.random.Generator, samples: int) -> np.ndarray:
    """(samples,) with a peak of 0.3; `samples` is even."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    noise = np.fft.irfft(spectrum)
    return 0.3 * noise / np.abs(noise).max()


def write_recording(path: str, minutes: float) -> None:
    """Writes pink noise in blocks of a minute, mono, 16 bits, 44.1 kHz."""
    block = pink_noise(np.random.default_rng(0), 60 * FILE_RATE)
    with soundfile.SoundFile(path, "w", FILE_RATE, 1) as file:
        for _ in range(round(minutes)):
            file.write(block)


def measure(model: str, minutes: float) -> dict:
    """The row of one recording, classified after a short one for which everything is compiled."""
    import esc_jax

    classifier = esc_jax.load_classifier(model)
    with tempfile.TemporaryDirectory() as folder:
        write_recording(f"{folder}/short.wav", 1)
        write_recording(f"{folder}/long.wav", minutes)
        classifier.timeline(f"{folder}/short.wav")
        started = time.perf_counter()
        timeline = classifier.timeline(f"{folder}/long.wav")
        seconds = time.perf_counter() - started
    return {
        "audio, minutes": minutes,
        "windows": len(timeline.starts),
        "seconds": round(seconds, 1),
        "real-time factor": round(60 * minutes / seconds, 1),
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def distilhubert() -> tuple[Any, Any]:
    """DistilHuBERT with random weights as a `SoundClassifier` and as a transformers pipeline that loads our export."""
    import transformers

    from esc_jax import config as configs
    from esc_jax.inference.classifier import SoundClassifier
    from esc_jax.models import model as models
    from esc_jax.pretrained import hubert
    from esc_jax.runtime import xla
    from esc_jax.training.restore import Restored

    xla.initialize()
    config = configs.load(ROOT / "configs/distilhubert.py")
    config.data.mask_padding = False
    config.task = "single_label"
    model = models.create(config, [f"class {number}" for number in range(50)])
    classifier = SoundClassifier(Restored(model, config, pathlib.Path(), 0, {}))
    preprocessor = {"sample_rate": 16_000, **config.frontend}
    with tempfile.TemporaryDirectory() as folder:
        hubert.write(folder, model.variables, config.model.encoder, model.classes, preprocessor)
        pipeline = transformers.pipeline("audio-classification", model=folder, device="cpu")
    return classifier, pipeline


def compare(minutes: float, rounds: int) -> list[dict]:
    """A row for each of the two on the same file; they alternate."""
    from esc_jax.data.stream import AudioStream, windows

    classifier, pipeline = distilhubert()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/long.wav"
        write_recording(path, minutes)

        def run_pipeline() -> int:
            pieces = [samples for _, samples in windows(AudioStream(path, 16_000), 80_000, 80_000)]
            return len(pipeline([{"raw": piece, "sampling_rate": 16_000} for piece in pieces], batch_size=8))

        calls = {
            "esc_jax": lambda: len(classifier.timeline(path, hop_s=5.0).starts),
            "transformers pipeline": run_pipeline,
        }
        times: dict[str, list[float]] = {name: [] for name in calls}
        counts = {}
        for _ in range(rounds + 1):
            for name, call in calls.items():
                started = time.perf_counter()
                counts[name] = call()
                times[name].append(time.perf_counter() - started)
    return [
        {
            "implementation": name,
            "windows of 5 s": counts[name],
            "seconds": round(statistics.median(seconds[1:]), 1),
            "from, to": f"{min(seconds[1:]):.1f}, {max(seconds[1:]):.1f}",
            "real-time factor": round(60 * minutes / statistics.median(seconds[1:]), 1),
        }
        for name, seconds in times.items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="workdir of a finished run")
    what.add_argument("--pipeline", action="store_true", help="compare DistilHuBERT with transformers")
    parser.add_argument(
        "--minutes", type=float, nargs="+", help="lengths of the audio (default: 1 10 60; with --pipeline, 5)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds of --pipeline (default: %(default)s)")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measure(options.model, options.minutes[0])) + "\n")
        return
    if options.pipeline:
        rows = compare((options.minutes or [5])[0], options.rounds)
    else:
        model = f"--model={options.model}"
        rows = [
            subprocesses.run_json(__file__, [model, f"--minutes={minutes}", "--one"])
            for minutes in options.minutes or [1, 10, 60]
        ]
    sys.stdout.write(subprocesses.markdown_table(rows))


if __name__ == "__main__":
    main()
