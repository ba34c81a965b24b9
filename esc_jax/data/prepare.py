"""Prepares a data set in the layout of ESC-50 or GTZAN as TFDS ArrayRecord files, once per sample rate.

    python -m esc_jax.data.prepare --source=ESC-50-master --sample_rate=32000

Training calls this by itself, in a process of its own: only preparing needs TensorFlow, and so no other process
pays for it. A prepared set lives under the cache folder, keyed by the content of its source, and appears there in one
rename: a killed preparation leaves nothing that could be taken for a whole one.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

from esc_jax import files
from esc_jax.data.gtzan import TfdsTracks, Tracks
from esc_jax.data.source import DataError, Source, open_source

AnySource = Source | Tracks | TfdsTracks


def cache_root(cache_dir: str = "") -> pathlib.Path:
    """The folder for what can be made again: `cache_dir`, else $ESC_JAX_CACHE, else the user's cache."""
    chosen = cache_dir or os.environ.get("ESC_JAX_CACHE")
    if chosen:
        return pathlib.Path(chosen).expanduser().resolve()
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "esc_jax"


def _tfds_dir(source: AnySource, cache_dir: str, on_bad_clip: str) -> pathlib.Path:
    suffix = "-skip" if on_bad_clip == "skip" else ""
    return cache_root(cache_dir) / "prepared" / (source.fingerprint + suffix)


def prepared_dir(source: AnySource, sample_rate: int, cache_dir: str = "", on_bad_clip: str = "error") -> pathlib.Path:
    """Folder of the prepared data set; prepares it first, in a process of its own, where that was not done.

    Args:
        source: the data set on disk.
        sample_rate: Hz; one of the builder's SAMPLE_RATES.
        cache_dir: where prepared sets are kept.
        on_bad_clip: "error" or "skip".

    Raises:
        DataError: the preparation failed, with its own sentence where it has one.
    """
    parent = _tfds_dir(source, cache_dir, on_bad_clip) / "esc50" / f"{sample_rate}hz"
    if not (found := sorted(parent.glob("[0-9]*.[0-9]*.[0-9]*"))):
        command = [sys.executable, "-m", "esc_jax.data.prepare", f"--source={source.path}"]
        command += [f"--sample_rate={sample_rate}", f"--cache_dir={cache_dir}", f"--on_bad_clip={on_bad_clip}"]
        # The child imports esc_jax from wherever this process did.
        path = os.pathsep.join([str(pathlib.Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        with files.temporary_folder("esc_jax_prepare_") as scratch:  # TFDS leaves a folder behind
            own = {"PYTHONPATH": path, "TMPDIR": str(scratch)}
            done = subprocess.run(command, env=os.environ | own, stderr=None, stdout=subprocess.PIPE)
        found = sorted(parent.glob("[0-9]*.[0-9]*.[0-9]*"))
        said = done.stdout.decode(errors="replace").strip().splitlines()
        if said and done.returncode == DataError.status:
            raise DataError(said[-1])
        if done.returncode or not found:
            raise DataError(
                f"preparing {source.path} failed with exit status {done.returncode}; its own messages stand above"
            )
    return found[-1]


def _prepare(source: AnySource, sample_rate: int, cache_dir: str, on_bad_clip: str) -> None:
    try:
        # Quiet before the import: TensorFlow announces devices and instruction sets that don't matter here.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
        import tensorflow  # noqa: F401
    except ImportError:
        raise DataError(
            "preparing a data set needs TensorFlow (pip install tensorflow-cpu); training and prediction do not"
        ) from None
    import filelock
    import tensorflow_datasets as tfds

    from esc_jax.data.esc50 import esc50_dataset_builder

    if sample_rate not in esc50_dataset_builder.SAMPLE_RATES:
        rates = ", ".join(map(str, esc50_dataset_builder.SAMPLE_RATES))
        raise DataError(f"data.sample_rate={sample_rate}: a data set can be prepared at {rates} Hz")
    target = _tfds_dir(source, cache_dir, on_bad_clip)
    name = esc50_dataset_builder.config_name(sample_rate)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(target / f"{name}.lock"):  # of several that start at once, one prepares
            builder = esc50_dataset_builder.Builder(
                config=name, data_dir=target, source=source, on_bad_clip=on_bad_clip
            )
            if builder.data_path.exists():
                return
            for leftover in builder.data_path.parent.glob("incomplete.*"):  # of a preparation that was killed
                shutil.rmtree(leftover, ignore_errors=True)
            sys.stderr.write(f"Preparing {len(source.rows)} clips at {sample_rate} Hz in {builder.data_path}\n")
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False, compute_stats="skip")
            )
    except esc50_dataset_builder.BadClipsError as error:
        raise DataError(str(error)) from None
    except OSError as error:
        raise DataError(f"preparing the data set failed: {error}") from None


def main() -> None:
    """Prepares, or ends with one sentence and the status of a DataError, which no unforeseen failure has."""
    parser = argparse.ArgumentParser("python -m esc_jax.data.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--source", required=True, help="folder or zip in the layout of ESC-50 or GTZAN")
    parser.add_argument("--sample_rate", type=int, default=32_000, help="Hz to resample to (default: %(default)s)")
    parser.add_argument(
        "--cache_dir", default="", help="where prepared data sets are kept; the user's cache by default"
    )
    parser.add_argument("--on_bad_clip", choices=("error", "skip"), default="error", help="for files that don't decode")
    options = parser.parse_args()
    try:
        _prepare(open_source(options.source), options.sample_rate, options.cache_dir, options.on_bad_clip)
    except DataError as error:
        sys.stdout.write(f"{error}\n")
        sys.exit(error.status)


if __name__ == "__main__":
    main()
