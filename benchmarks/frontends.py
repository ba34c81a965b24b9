"""Our spectrograms beside the libraries that define them: time per clip, and how far the numbers differ.

    python benchmarks/frontends.py
    python benchmarks/frontends.py --clips=10 --rounds=3 --out=DIR

Clips are five seconds of synthesised sound. Everything starts from float32 waveforms in memory and ends with float32
features in memory, in one process, on the CPU for all but ours; medians over rounds in which each is called twice, the
second call being counted, after one in which ours is compiled.

- log-mel at 32 kHz (FFT 1024, hop 320, 128 bands of Slaney's scale from 20 Hz, ln(power + 1e-5)): LogMel, jitted, on
  all clips at once; librosa's melspectrogram and a logarithm, clip by clip; torch.stft on all clips at once and on all
  cores, its power times librosa's mel bank, and a logarithm.
- Kaldi's filterbank at 16 kHz (25 ms every 10 ms, 80 bins): KaldiFbank, jitted, on all clips at once;
  kaldi-native-fbank, clip by clip. 80, because it refuses the 128 bins of BEATs, some of which are empty.

Differences are those of natural logarithms, over all clips, frames and bands. Kaldi's logarithm has nothing added under
it: the largest ones are in bands that are nearly silent beside a loud one, and are rounding of float32 on both sides.
It needs torch and kaldi-native-fbank. Prints a Markdown table; frontends.json and frontends.md go to --out.
"""

import argparse
from collections.abc import Callable
import importlib.util
import os
import pathlib
import statistics
import sys

import numpy as np
import record

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
LOG_MEL_RATE, FBANK_RATE = 32_000, 16_000
FBANK_BINS = 80

Calls = dict[str, Callable[[], np.ndarray]]


def sounds(count: int, rate: int) -> np.ndarray:
    """(count, time) float32 waveforms of the synthetic classes in turn."""
    from esc_jax.data import audio, synthetic

    names = tuple(synthetic.CLASSES)
    made = [synthetic.clip(names[i % len(names)], np.random.default_rng(i)) for i in range(count)]
    return np.stack([audio.to_mono(clip[:, None], synthetic.RATE, rate) for clip in made])


def log_mel(waveforms: np.ndarray) -> Calls:
    """Computations of (clips, frames, bands), ours first."""
    import jax
    import librosa
    import torch

    from esc_jax.frontends.log_mel import LogMel
    from esc_jax.runtime import devices

    frontend = LogMel(sample_rate=LOG_MEL_RATE, mean=0.0, std=1.0)
    compiled = jax.jit(frontend)
    n_fft, hop, mels = frontend.n_fft, frontend.hop, frontend.mels

    def by_librosa() -> np.ndarray:
        powers = [
            librosa.feature.melspectrogram(
                y=waveform,
                sr=LOG_MEL_RATE,
                n_fft=n_fft,
                hop_length=hop,
                n_mels=mels,
                fmin=frontend.fmin,
                pad_mode="constant",
            )
            for waveform in waveforms
        ]
        return np.stack([np.log(power + frontend.offset).T for power in powers])

    torch.set_num_threads(os.cpu_count())
    window = torch.hann_window(n_fft)
    bank = torch.from_numpy(librosa.filters.mel(sr=LOG_MEL_RATE, n_fft=n_fft, n_mels=mels, fmin=frontend.fmin))

    @torch.inference_mode()
    def by_torch() -> np.ndarray:
        spectrum = torch.stft(
            torch.from_numpy(waveforms), n_fft, hop, window=window, pad_mode="constant", return_complex=True
        )
        # The fastest of three ways to take the power: abs() would draw a root.
        power = spectrum.real.square() + spectrum.imag.square()
        return (bank @ power).add_(frontend.offset).log_().transpose(-1, -2).numpy()

    return {
        "esc_jax": lambda: np.asarray(compiled(devices.to_device(waveforms))),
        "librosa, clip by clip": by_librosa,
        "torch.stft": by_torch,
    }


def fbank(waveforms: np.ndarray) -> Calls:
    """Computations of (clips, frames, bins), ours first."""
    import jax
    import kaldi_native_fbank  # whose absence `main` has said

    from esc_jax.frontends.kaldi_fbank import KaldiFbank
    from esc_jax.runtime import devices

    frontend = KaldiFbank(sample_rate=FBANK_RATE, bins=FBANK_BINS, mean=0.0, std=0.5)
    compiled = jax.jit(frontend)
    options = kaldi_native_fbank.FbankOptions()  # whose other defaults are those of KaldiFbank
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = FBANK_RATE
    options.mel_opts.num_bins = FBANK_BINS
    options.use_energy = False

    def by_kaldi() -> np.ndarray:
        found = []
        for waveform in waveforms:
            computer = kaldi_native_fbank.OnlineFbank(options)
            computer.accept_waveform(FBANK_RATE, waveform * np.float32(frontend.scale))
            computer.input_finished()
            found.append(np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)]))
        return np.stack(found)

    return {
        "esc_jax": lambda: np.asarray(compiled(devices.to_device(waveforms))),
        "kaldi-native-fbank, clip by clip": by_kaldi,
    }


def compare(features: str, calls: Calls, clips: int, rounds: int) -> list[dict]:
    """A line for each way to compute the features, ours first, which the others are measured against."""
    ours = next(iter(calls))
    found = {name: call() for name, call in calls.items()}
    apart = {name: np.abs(values - found[ours]) for name, values in found.items()}
    taken = record.in_turn(calls, rounds, before=calls)
    return [
        {
            "features": features,
            "by": name,
            "ms per clip": round(1e3 * statistics.median(seconds) / clips, 3),
            "from": round(1e3 * min(seconds) / clips, 3),
            "to": round(1e3 * max(seconds) / clips, 3),
            "times ours": round(statistics.median(seconds) / statistics.median(taken[ours]), 2),
            "largest difference": float(f"{apart[name].max():.1e}"),
            "99.9 % below": float(f"{np.quantile(apart[name], 0.999):.1e}"),
        }
        for name, seconds in taken.items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=50, help="of five seconds (default: %(default)s)")
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")
    parser.add_argument("--tiny", action="store_true", help="two clips: for tests")
    options = parser.parse_args()
    for package in ("torch", "librosa", "kaldi_native_fbank"):
        if importlib.util.find_spec(package) is None:
            sys.exit(
                f"benchmarks/frontends.py needs {package}: pip install -r requirements-test.txt"
                " -r requirements-torch.txt"
            )
    from esc_jax.runtime import xla

    xla.initialize()
    clips = 2 if options.tiny else options.clips
    lines = [
        line
        for features, of, rate in (
            ("log-mel, 32 kHz", log_mel, LOG_MEL_RATE),
            ("Kaldi's filterbank, 16 kHz", fbank, FBANK_RATE),
        )
        for line in compare(features, of(sounds(clips, rate)), clips, options.rounds)
    ]
    sys.stdout.write(record.save("frontends", lines, options.out))


if __name__ == "__main__":
    main()
