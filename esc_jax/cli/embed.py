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
import pathlib
import sys
from typing import Any

import numpy as np

from esc_jax import files
from esc_jax.cli.command import command
from esc_jax.errors import MultipleErrors, collect_errors
from esc_jax.inference.embeddings import EmbedError, embed_clips, embed_recording


def _of_recordings(options: argparse.Namespace, data, model, frontend, variables):
    """Embeddings, file names and starts (s) of the rows of all recordings; what went wrong, a sentence each."""
    from esc_jax.data import stream as streams
    from esc_jax.inference import recordings
    from esc_jax.training import step as steps

    encode = steps.embed_step(model, frontend)
    names, problems = recordings.find_recordings(options.files)
    rate, window = data.sample_rate, round(data.clip_s * data.sample_rate)
    rows = []
    for name in names:
        with collect_errors(problems, name):
            stream = streams.AudioStream(name, rate)
            starts, found = embed_recording(encode, variables, stream, window, mask_padding=data.mask_padding)
            rows.append((found, [name] * len(found), starts / rate))
            problems += [stream.note.partition(";")[0]] if stream.note else []
    if not rows:
        raise MultipleErrors(problems)
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
    from esc_jax.data.datasets import registry as datasets
    from esc_jax.data import cache
    from esc_jax.runtime import xla

    out = pathlib.Path(options.out).expanduser()
    if out.suffix != ".npz" or out.is_dir():  # a forgotten value, above all: the recording that comes next
        raise EmbedError(f"--out={options.out}: name a file to write that ends in .npz")
    out.parent.mkdir(parents=True, exist_ok=True)
    xla.initialize(cache.cache_root() / "compiled")
    own, model, frontend, variables = _model(options)
    problems = []
    if options.data_dir:
        data = configs.defaults("resnet").data
        data.dir, data.name, data.on_bad_clip = options.data_dir, options.data_name, options.on_bad_clip
        for key in ("sample_rate", "clip_s", "mask_padding"):
            data[key] = getattr(own, key)
        clips = datasets.load(data)
        found = embed_clips(model, frontend, variables, clips, cache.cache_root() / "embeddings")[0]
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
    with files.atomic_write(out) as file:
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
        raise MultipleErrors(problems)
