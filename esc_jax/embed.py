"""Frozen encoder → embeddings on disk: one forward pass, resumed where it was interrupted.

    python -m esc_jax.embed --pretrained=mn04_as_mAP_432.pt --data_dir=ESC-50-master --out=embeddings.npz
    python -m esc_jax.embed --checkpoint=runs/resnet34 --data_dir=ESC-50-master --out=embeddings.npz
    python -m esc_jax.embed --checkpoint=runs/resnet34 --out=embeddings.npz FILE [FILE …]

OUT.npz holds `embeddings` (rows, D) and of each row `filename` and `start_s`; of a data set also `label`, `fold`,
`source` and the `classes`, which is what `python -m esc_jax.probe` reads. A data set gives a row per clip; a recording
a row for every window of the clip length that the encoder was trained on, the last one filled up with silence.
"""

import argparse
import hashlib
import pathlib
import sys
from typing import Any

import numpy as np

from esc_jax import files


def digest(encoder, frontend, variables, clips, views: int) -> str:
    """Name of what `of_clips` gives: it changes with the encoder, its weights, the frontend, the clips, the views."""
    import jax

    parts = (encoder, frontend, clips.fingerprint, clips.length, clips.sample_rate, views)
    found = hashlib.sha256(repr(parts).encode())
    weights = {name: tree.get("encoder", {}) for name, tree in variables.items()}
    for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
        found.update(jax.tree_util.keystr(path).encode() + np.ascontiguousarray(leaf).tobytes())
    return found.hexdigest()[:16]


def of_clips(
    model, frontend, variables, clips, folder: pathlib.Path, *, views: int = 1, batch_size: int = 20
) -> np.ndarray:
    """(views, N, D) float32 embeddings of every clip, as it is and rotated in time as in test-time augmentation.

    Args:
        model, frontend, variables: as `build.start` or `build.restore` gives them.
        clips: the data set.
        folder: keeps finished parts under the digest of what they were made of, so that the same pass is never made
            twice, nor begun anew after an interruption.
        views: 1 for the clips as they are.
        batch_size: clips at a time, all their views together.
    """
    import tqdm

    from esc_jax.data import pipeline
    from esc_jax.training import parallel
    from esc_jax.training import step as steps

    folder = folder / digest(model.encoder, frontend, variables, clips, views)
    folder.mkdir(parents=True, exist_ok=True)

    encode = steps.embed_step(model, frontend, views)

    def part(start: int) -> pathlib.Path:
        return folder / f"{start:06d}.npy"

    starts = range(0, len(clips), batch_size)
    missing = [start for start in starts if not part(start).exists()]
    indices = [i for start in missing for i in range(start, min(start + batch_size, len(clips)))]
    batches = pipeline.eval_batches(clips, indices, batch_size)
    for start in tqdm.tqdm(missing, desc="embedding", unit="batch", leave=False, disable=None):
        batch = next(batches)
        found = np.asarray(encode(variables, parallel.ready(batch["audio"])))[:, batch["mask"]]
        with files.replacing(part(start)) as file:
            np.save(file, found)
    return np.concatenate([np.load(part(start)) for start in starts], axis=1)


def of_waveform(model, frontend, variables, waveform: np.ndarray, window: int, batch_size: int = 20) -> np.ndarray:
    """(windows, D) embeddings of a mono waveform at the encoder's rate, cut into windows of `window` samples."""
    from esc_jax.training import parallel
    from esc_jax.training import step as steps

    encode = steps.embed_step(model, frontend)
    count = max(1, -(-len(waveform) // window))
    padded = np.zeros((-(-count // batch_size) * batch_size, window), np.float32)
    padded.reshape(-1)[: len(waveform)] = waveform
    batches = np.split(padded, len(padded) // batch_size)
    found = [np.asarray(encode(variables, parallel.ready(batch)))[0] for batch in batches]
    return np.concatenate(found)[:count]


def _model(options: argparse.Namespace) -> tuple[Any, Any, Any, int, float]:
    """Model, frontend, variables, sample rate and clip length of --checkpoint or --pretrained."""
    from esc_jax import build

    if options.checkpoint:
        run = build.restore(options.checkpoint)
        return run.model, run.frontend, run.variables, run.sample_rate, run.clip_s
    config, model, frontend, variables = build.published(options.pretrained, options.sample_rate)
    return model, frontend, variables, config.data.sample_rate, config.data.clip_s


def _embed(options: argparse.Namespace) -> str:
    """Does what the command line asks; returns what to say."""
    from esc_jax import config as configs
    from esc_jax.data import audio, prepare
    from esc_jax.data import clips as datasets
    from esc_jax.training import parallel

    parallel.initialize(prepare.cache_root() / "compiled")
    model, frontend, variables, rate, clip_s = _model(options)
    out = pathlib.Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    if options.data_dir:
        data = configs.defaults("resnet").data
        data.dir, data.name, data.sample_rate, data.clip_s = options.data_dir, options.data_name, rate, clip_s
        data.on_bad_clip = options.on_bad_clip
        clips = datasets.load(data)
        found = of_clips(model, frontend, variables, clips, prepare.cache_root() / "embeddings")[0]
        arrays = {
            "label": clips.labels,
            "fold": np.array(clips.folds),
            "source": np.array(clips.sources),
            "filename": np.array(clips.filenames),
            "start_s": np.zeros(len(clips)),
            "classes": np.array(clips.classes),
        }
    else:
        rows, names, starts = [], [], []
        for file in options.files:
            waveform = audio.load(pathlib.Path(file).read_bytes(), rate, name=file)
            rows.append(of_waveform(model, frontend, variables, waveform, round(clip_s * rate)))
            names += [file] * len(rows[-1])
            starts += [clip_s * i for i in range(len(rows[-1]))]
        found = np.concatenate(rows)
        arrays = {"filename": np.array(names), "start_s": np.array(starts)}
    with files.replacing(out) as file:
        np.savez(file, embeddings=found, **arrays)
    return f"{out}: {found.shape[0]} embeddings of {found.shape[1]} numbers\n"


def main(argv: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        "python -m esc_jax.embed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--checkpoint", help="workdir of a run")
    source.add_argument("--pretrained", help="a published checkpoint: its file, folder or hub id")
    parser.add_argument("--sample_rate", type=int, help="Hz, for published encoders that were not trained at one")
    parser.add_argument("--data_dir", help="a data set in the layout of ESC-50, folder or zip")
    parser.add_argument("--data_name", default="esc50", help="what it is (default: %(default)s)")
    parser.add_argument(
        "--on_bad_clip",
        choices=("error", "skip"),
        default="error",
        help="for clips that don't decode (data.on_bad_clip)",
    )
    parser.add_argument("--out", required=True, help="the .npz file to write")
    parser.add_argument("files", nargs="*", help="recordings")
    options = parser.parse_args(argv)
    if bool(options.files) == bool(options.data_dir):
        parser.error("give either --data_dir or files")

    from esc_jax.errors import Problem

    try:
        sys.stdout.write(_embed(options))
    except Problem as error:
        sys.stderr.write(f"esc_jax: {error}\n")
        sys.exit(2)
    except OSError as error:
        sys.stderr.write(f"esc_jax: {error.strerror or error}: {error.filename or options.out}\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
