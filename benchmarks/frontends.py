"""Time per clip of the spectrogram frontends and of reference implementations, and how much their results differ.

    python benchmarks/frontends.py
    python benchmarks/frontends.py --clips=10 --rounds=3 --out=DIR

Clips are five seconds of synthesized sound. Input and output are float32 arrays in memory. Everything runs in one
process on the CPU. Times are medians over rounds. In each round every implementation is called twice and the second
call is counted; the first round, which compiles, is not.

- log-mel at 32 kHz (FFT 1024, hop 320, 128 bands of Slaney's scale from 20 Hz, ln(power + 1e-5)): LogMel, jitted, on
  all clips at once; librosa's melspectrogram and a logarithm, clip by clip; torch.stft on all clips at once with all
  cores, its power times librosa's mel bank, and a logarithm.
- Kaldi's filterbank at 16 kHz (25 ms every 10 ms, 80 bins): KaldiFbank, jitted, on all clips at once;
  kaldi-native-fbank, clip by clip. It refuses the 128 bins of BEATs, of which some are empty.

Differences are those of natural logarithms over all clips, frames and bands. Kaldi's logarithm has no offset: the
largest differences are rounding errors in bands that are nearly silent beside a loud band.
The benchmark needs torch and kaldi-native-fbank. It prints a Markdown table and writes frontends.json and frontends.md
to --out.
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


def synthetic_clips(count: int, rate: int) -> np.ndarray:
    """(count, time) float32 waveforms, cycling through the synthetic classes."""
    from esc_jax.data import audio, synthetic

    names = tuple(synthetic.CLASSES)
    clips = [synthetic.clip(names[i % len(names)], np.random.default_rng(i)) for i in range(count)]
    return np.stack([audio.to_mono(clip[:, None], synthetic.RATE, rate) for clip in clips])


def log_mel(waveforms: np.ndarray) -> Calls:
    """Implementations that return (clips, frames, bands); esc_jax is the first."""
    import jax
    import librosa
    import torch

    from esc_jax.frontends.log_mel import LogMel
    from esc_jax.runtime import devices

    frontend = LogMel(sample_rate=LOG_MEL_RATE, mean=0.0, std=1.0)
    compiled = jax.jit(frontend)
    n_fft, hop, mels = frontend.n_fft, frontend.hop, frontend.mels

    def librosa_features() -> np.ndarray:
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
    def torch_features() -> np.ndarray:
        spectrum = torch.stft(
            torch.from_numpy(waveforms), n_fft, hop, window=window, pad_mode="constant", return_complex=True
        )
        # The fastest way to compute the power: abs() would take a square root.
        power = spectrum.real.square() + spectrum.imag.square()
        return (bank @ power).add_(frontend.offset).log_().transpose(-1, -2).numpy()

    return {
        "esc_jax": lambda: np.asarray(compiled(devices.to_device(waveforms))),
        "librosa, clip by clip": librosa_features,
        "torch.stft": torch_features,
    }


def fbank(waveforms: np.ndarray) -> Calls:
    """Implementations that return (clips, frames, bins); esc_jax is the first."""
    import jax
    import kaldi_native_fbank

    from esc_jax.frontends.kaldi_fbank import KaldiFbank
    from esc_jax.runtime import devices

    frontend = KaldiFbank(sample_rate=FBANK_RATE, bins=FBANK_BINS, mean=0.0, std=0.5)
    compiled = jax.jit(frontend)
    options = kaldi_native_fbank.FbankOptions()  # its other defaults are those of KaldiFbank
    options.frame_opts.dither = 0.0
    options.frame_opts.samp_freq = FBANK_RATE
    options.mel_opts.num_bins = FBANK_BINS
    options.use_energy = False

    def kaldi_features() -> np.ndarray:
        features = []
        for waveform in waveforms:
            computer = kaldi_native_fbank.OnlineFbank(options)
            computer.accept_waveform(FBANK_RATE, waveform * np.float32(frontend.scale))
            computer.input_finished()
            features.append(np.stack([computer.get_frame(i) for i in range(computer.num_frames_ready)]))
        return np.stack(features)

    return {
        "esc_jax": lambda: np.asarray(compiled(devices.to_device(waveforms))),
        "kaldi-native-fbank, clip by clip": kaldi_features,
    }


def compare(features: str, calls: Calls, clips: int, rounds: int) -> list[dict]:
    """A row of the table for each implementation; the first one is the reference of the others."""
    reference = next(iter(calls))
    features_of = {name: call() for name, call in calls.items()}
    difference = {name: np.abs(values - features_of[reference]) for name, values in features_of.items()}
    times = record.time_alternating(calls, rounds, warmup=calls)
    return [
        {
            "features": features,
            "implementation": name,
            "ms per clip": round(1e3 * statistics.median(seconds) / clips, 3),
            "from": round(1e3 * min(seconds) / clips, 3),
            "to": round(1e3 * max(seconds) / clips, 3),
            "relative time": round(statistics.median(seconds) / statistics.median(times[reference]), 2),
            "largest difference": float(f"{difference[name].max():.1e}"),
            "99.9 % below": float(f"{np.quantile(difference[name], 0.999):.1e}"),
        }
        for name, seconds in times.items()
    ]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--clips", type=int, default=50, help="clips of five seconds (default: %(default)s)")
    parser.add_argument("--out", default=record.RESULTS, help="folder of the files (default: benchmarks/results)")
    parser.add_argument("--tiny", action="store_true", help="two clips, for tests")
    options = parser.parse_args()
    for package in ("torch", "librosa", "kaldi_native_fbank"):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"benchmarks/frontends.py needs {package}: pip install -r requirements.txt -e '.[dev,torch]'")
    from esc_jax.runtime import xla

    xla.initialize()
    clips = 2 if options.tiny else options.clips
    rows = [
        row
        for features, implementations, rate in (
            ("log-mel, 32 kHz", log_mel, LOG_MEL_RATE),
            ("Kaldi's filterbank, 16 kHz", fbank, FBANK_RATE),
        )
        for row in compare(features, implementations(synthetic_clips(clips, rate)), clips, options.rounds)
    ]
    sys.stdout.write(record.save("frontends", rows, options.out))


if __name__ == "__main__":
    main()
