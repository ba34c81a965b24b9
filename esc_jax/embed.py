"""Frozen encoder → embeddings on disk: one forward pass, resumed where it was interrupted.

    python -m esc_jax.embed --pretrained=mn04_as_mAP_432.pt --data_dir=ESC-50-master --out=embeddings.npz
    python -m esc_jax.embed --checkpoint=runs/resnet34 --data_dir=ESC-50-master --out=embeddings.npz
    python -m esc_jax.embed --checkpoint=runs/resnet34 --out=embeddings.npz recordings/ "more/**/*.mp3"

OUT.npz holds `embeddings` (rows, D) and of each row `filename` and `start_s`; of a data set also `label`, `fold`,
`source` and the `classes`, which is what `python -m esc_jax.probe` reads. A data set gives a row per clip; a recording
a row for every window of the clip length that the encoder was trained on, side by side, and where the last of them ends
before the recording does, one that ends with it. A shorter recording is filled up with zeros. Recordings are named as
for `python -m esc_jax.predict`, and their samples become 16 bits, as those of a data set are.
"""

import argparse
import hashlib
import pathlib
import sys
from typing import Any

import numpy as np

from esc_jax import files
from esc_jax.errors import Problem, Several, collected, command

_OVERHANG = 0.01  # of a window: a recording that is longer than whole windows by less has no row for it


class EmbedError(Problem, ValueError):
    """Embeddings that cannot be written. The message is one sentence for the user."""


def digest(encoder, frontend, variables, clips, views: int) -> str:
    """Name of what `of_clips` gives: it changes with the encoder, its weights, the frontend, the clips, the views."""
    import jax

    parts = (encoder, frontend, clips.fingerprint, clips.length, clips.sample_rate, views)
    parts += ("masked",) if clips.masked else ()
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
        found = np.asarray(encode(variables, *parallel.ready(pipeline.inputs(batch))))[:, batch["mask"]]
        with files.replacing(part(start)) as file:
            np.save(file, found)
    return np.concatenate([np.load(part(start)) for start in starts], axis=1)


def of_recording(
    encode, variables, stream, window: int, *, mask_padding: bool = False, batch_size: int = 20
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) starts in samples and (n, D) embeddings of a recording of any length.

    Args:
        encode: `step.embed_step` of the model.
        variables: its.
        stream: `stream.AudioStream` at the encoder's rate.
        window: samples of a window.
        mask_padding: whether the model is told what a recording shorter than a window was filled up with.
        batch_size: windows at a time.

    Raises:
        AudioError: it cannot be used.
    """
    from esc_jax.data import audio
    from esc_jax.data import stream as streams
    from esc_jax.training import parallel

    starts, found, more = [], [], ()
    batch = np.zeros((batch_size, window), np.int16)
    for start, samples in streams.windows(stream, window, window):
        if starts and start - starts[-1] < _OVERHANG * window:
            continue
        batch[len(starts) % batch_size, : len(samples)] = audio.to_int16(samples)
        starts.append(start)
        if mask_padding and len(samples) < window:  # the only one
            more = (np.full(batch_size, len(samples), np.int32),)
        if len(starts) % batch_size == 0:
            found.append(np.asarray(encode(variables, *parallel.ready((batch, *more))))[0])
            batch = np.zeros_like(batch)
    if not starts:
        raise audio.AudioError(f"{stream.name}: holds no samples")
    if len(starts) % batch_size:
        found.append(np.asarray(encode(variables, *parallel.ready((batch, *more))))[0])
    return np.array(starts), np.concatenate(found)[: len(starts)]


def _of_recordings(options: argparse.Namespace, data, model, frontend, variables):
    """Embeddings, file names and starts (s) of the rows of all recordings; what went wrong, a sentence each."""
    from esc_jax import predict
    from esc_jax.data import stream as streams
    from esc_jax.training import step as steps

    encode = steps.embed_step(model, frontend)
    names, problems = predict.find(options.files)
    rate, window = data.sample_rate, round(data.clip_s * data.sample_rate)
    rows = []
    for name in names:
        with collected(problems, name):
            stream = streams.AudioStream(name, rate)
            starts, found = of_recording(encode, variables, stream, window, mask_padding=data.mask_padding)
            rows.append((found, [name] * len(found), starts / rate))
            problems += [stream.note.partition(";")[0]] if stream.note else []
    if not rows:
        raise Several(problems)
    return *map(np.concatenate, zip(*rows, strict=True)), problems


def _model(options: argparse.Namespace) -> tuple[Any, Any, Any, Any]:
    """What --checkpoint or --pretrained was made for, as a config's `data`, with its model, frontend and variables."""
    from esc_jax import build

    if options.checkpoint:
        run = build.restore(options.checkpoint)
        return run.config.data, run.model, run.frontend, run.variables
    config, model, frontend, variables = build.published(options.pretrained, options.sample_rate)
    return config.data, model, frontend, variables


def _embed(options: argparse.Namespace) -> tuple[str, list[str]]:
    """Does what the command line asks; returns what to say, and what went wrong."""
    from esc_jax import config as configs
    from esc_jax.data import clips as datasets
    from esc_jax.data import prepare
    from esc_jax.training import parallel

    out = pathlib.Path(options.out).expanduser()
    if out.suffix != ".npz" or out.is_dir():  # a forgotten value, above all: the recording that comes next
        raise EmbedError(f"--out={options.out}: name a file to write that ends in .npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    parallel.initialize(prepare.cache_root() / "compiled")
    own, model, frontend, variables = _model(options)
    problems = []
    if options.data_dir:
        data = configs.defaults("resnet").data
        data.dir, data.name, data.on_bad_clip = options.data_dir, options.data_name, options.on_bad_clip
        for key in ("sample_rate", "clip_s", "mask_padding"):
            data[key] = getattr(own, key)
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
        found, names, starts, problems = _of_recordings(options, own, model, frontend, variables)
        arrays = {"filename": names, "start_s": starts}
    with files.replacing(out) as file:
        np.savez(file, embeddings=found, **arrays)
    return f"{out}: {found.shape[0]} embeddings of {found.shape[1]} numbers\n", problems


@command
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
    parser.add_argument("files", nargs="*", metavar="FILE", help="recording, folder or quoted pattern")
    options = parser.parse_args(argv)
    if bool(options.files) == bool(options.data_dir):
        parser.error("give either --data_dir or files")
    if options.checkpoint and options.sample_rate:
        parser.error("--sample_rate is for --pretrained: a run has its own")
    said, problems = _embed(options)
    sys.stdout.write(said)
    if problems:
        raise Several(problems)


if __name__ == "__main__":
    sys.exit(main())
