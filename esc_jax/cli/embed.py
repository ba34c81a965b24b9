"""Computes the embeddings of a frozen encoder. An interrupted command continues where it stopped.

    esc-jax embed --model=mn04_as --data_dir=ESC-50-master --out=embeddings.npz
    esc-jax embed --model=runs/resnet34 --data_dir=ESC-50-master --out=embeddings.npz
    esc-jax embed --model=runs/resnet34 --out=embeddings.npz recordings/ "more/**/*.mp3"
    esc-jax embed --model=mn04_as --index=archive.db recordings/

OUT.npz contains `embeddings` (rows, D) and, for each row, `filename` and `start_s`. For a data set it also contains
`label`, `fold`, `source`, the `classes` and the `task`; `esc-jax probe` reads such a file. Labels of a multi-label set
are (rows, classes). A data set gives one row per clip, or per window of a longer file. A recording gives one row per
window; windows have the length of the encoder's training clips and do not overlap. If the last window ends before the
recording does, one more window ends with the recording. A shorter recording is padded with zeros. FILE is as for
`esc-jax predict`. Samples are rounded to 16 bits, as in a data set.

With --index, recordings are added to a store that `esc-jax search` and `esc-jax probe` read. A recording is added when
it is finished. The same command continues after a stop (exit status 75): recordings that the store has are skipped.
Copies of a recording are listed under their own names, but embedded once. One process at a time can write a store.
--hoplite also writes the store in the layout of perch-hoplite, for its notebooks.
"""

import argparse
import os
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from esc_jax import files
from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command, discard_native_output, exit_resumable, initialize_device
from esc_jax.errors import MultipleErrors, collect_errors, counted
from esc_jax.inference import model_path, recordings
from esc_jax.runtime.progress import progress_bar

if TYPE_CHECKING:  # JAX, which --help does not need
    from esc_jax.inference.index_store import Store
    from esc_jax.models.model import Model


def _parser() -> arguments.Parser:
    parser = arguments.Parser("embed", __doc__)
    arguments.add_model(
        parser, "workdir of a run; or a published checkpoint: its name (esc-jax weights list), file, folder or hub id"
    )
    add = parser.add_argument
    rate = "Hz, for published encoders without a sample rate of their own"
    add("--sample_rate", metavar="HZ", type=arguments.integer(), help=rate)
    add("--data_dir", metavar="DIR", type=os.path.expanduser, help="data set: folder, zip or csv")
    add("--data_name", metavar="NAME", help="kind of the data set, as in data.name (default: from its contents)")
    bad = "what to do with clips that cannot be decoded: error or skip (default: %(default)s)"
    add("--on_bad_clip", metavar="ACTION", type=arguments.choice("error", "skip"), default="error", help=bad)
    out = arguments.output(".npz", make_parents=True)
    add("--out", metavar="OUT.npz", type=out, help="file to write")
    add("files", nargs="*", metavar="FILE", help="recording, folder or quoted pattern")
    _add_store_options(parser)
    return parser


def _add_store_options(parser: arguments.Parser) -> None:
    group = parser.add_argument_group("a store for esc-jax search")
    add, span = group.add_argument, arguments.seconds(0.1, 60.0)
    store = arguments.output(*arguments.STORES, make_parents=True)
    add("--index", metavar="DB", type=store, help=f"store to write or extend, a file {', '.join(arguments.STORES)}")
    add("--window_s", metavar="S", type=span, help="length of a passage (default: that of the training clips)")
    add("--hop_s", metavar="S", type=span, help="time between the starts of passages (default: their length)")
    dtype = "type of the stored embeddings: float16 or float32 (default: %(default)s)"
    text = "also write the store as a database of perch-hoplite, into a new folder; needs usearch"
    add("--hoplite", metavar="FOLDER", type=arguments.path, help=text)
    add("--dtype", metavar="TYPE", type=arguments.choice("float16", "float32"), default="float16", help=dtype)


def _embed_data_set(model: "Model", options: argparse.Namespace, cache: pathlib.Path) -> dict[str, Any]:
    """The arrays of the output file for a data set."""
    import numpy as np

    from esc_jax import config as configs
    from esc_jax.data.datasets import registry as datasets
    from esc_jax.data.layouts import registry as layouts
    from esc_jax.inference import embeddings

    data = configs.defaults("resnet").data
    name = options.data_name or layouts.recognize(options.data_dir).name
    data.update(dir=options.data_dir, name=name, on_bad_clip=options.on_bad_clip)
    data.update(sample_rate=model.sample_rate, clip_s=model.clip_s, mask_padding=model.mask_padding)
    clips = datasets.load(data)
    with progress_bar("embedding", "batch") as progress:
        rows = embeddings.embed_clips(model, clips, cache / "embeddings", progress=progress)[0]
    return {
        "embeddings": rows,
        "label": clips.labels,
        "fold": np.array(clips.folds),
        "source": np.array(clips.sources),
        "filename": np.array(clips.filenames),
        "start_s": clips.starts_s,
        "classes": np.array(clips.classes),
        "task": np.array(clips.task),
    }


def _embed_recordings(model: "Model", paths: list[str], problems: list[str]) -> dict[str, Any]:
    """The arrays of the output file for recordings; errors are added to `problems`.

    Raises:
        MultipleErrors: no recording could be embedded.
    """
    import numpy as np
    import tqdm

    from esc_jax.data import stream as streams
    from esc_jax.inference import embeddings
    from esc_jax.training import step as steps

    encode = steps.embed_step(model)
    names, sentences = recordings.find_recordings(paths)
    problems += sentences
    rows, filenames, starts = [], [], []
    for name in tqdm.tqdm(names, desc="embedding", unit="file", leave=False, disable=None):
        with collect_errors(problems, name):
            stream = streams.AudioStream(name, model.sample_rate)
            positions, vectors = embeddings.embed_recording(encode, model, stream)
            rows.append(vectors)
            filenames += [name] * len(vectors)
            starts.append(positions / model.sample_rate)
            if note := stream.describe("embedded"):
                if stream.defect:
                    problems.append(note)
                else:
                    sys.stderr.write(f"esc_jax: {note}\n")
    if not rows:
        raise MultipleErrors(problems)
    return {
        "embeddings": np.concatenate(rows),
        "filename": np.array(filenames),
        "start_s": np.concatenate(starts),
    }


def _embed_into_store(model: "Model", options: argparse.Namespace, problems: list[str]) -> None:
    """Adds recordings to the store; errors are added to `problems`."""
    import tqdm

    from esc_jax.inference import index, index_store, timeline

    settings = index.store_settings(model, options.model, options.hop_s, options.dtype)
    names, sentences = recordings.find_recordings(options.files)
    problems += sentences
    counts = dict.fromkeys(("done", "duplicate", "skipped", "failed"), 0)
    seconds = 0.0

    def summary() -> str:
        parts = [f"{counted(counts['done'], 'recording')} of {timeline.clock(seconds)} added"]
        parts += [counted(counts["duplicate"], "copy", "copies")] if counts["duplicate"] else []
        parts += [f"{counts['skipped']} added before"] if counts["skipped"] else []
        parts += [f"{counts['failed']} failed"] if counts["failed"] else []
        return f"{options.index}: {', '.join(parts)}"

    with (
        index_store.open_for_writing(options.index, settings) as store,
        # What was added is on the disk, and a transaction that is not finished does not count.
        exit_resumable(lambda: f"stopped: {summary()}"),
        tqdm.tqdm(desc=str(options.index), total=len(names), unit="file", disable=None) as bar,
    ):
        for outcome in index.add_recordings(store, model, names):
            counts[outcome.status] += 1
            seconds += outcome.duration_s
            problems += [outcome.note] if outcome.note else []
            bar.update()
        passages = store.counts()["passages"]
        sys.stdout.write(f"{summary()}; {counted(passages, 'passage')} of {counted(settings.dimension, 'number')}\n")
        if options.hoplite:
            _write_hoplite(store, options.hoplite)


def _write_hoplite(store: "Store", folder: pathlib.Path) -> None:
    from esc_jax.inference import hoplite

    with progress_bar(str(folder), "passage") as progress:
        hoplite.write_database(store, folder, progress)
    sys.stdout.write(f"{folder}: a database of perch-hoplite\n")


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = _parser()
    options = parser.parse(argv)
    if bool(options.files) == bool(options.data_dir):
        parser.error("give either --data_dir or files")
    if bool(options.out) == bool(options.index):
        parser.error("give either --out=OUT.npz or --index=DB")
    if options.index and options.data_dir:
        parser.error("--index is for recordings: give their folder instead of --data_dir")
    if options.out and (given := [name for name in ("window_s", "hop_s", "hoplite") if getattr(options, name)]):
        parser.error(f"--{given[0]} needs --index=DB")
    if options.sample_rate and model_path.has_config(options.model):
        parser.error("--sample_rate is for published encoders: a run has its own")
    discard_native_output()
    import numpy as np

    from esc_jax.inference import embeddings

    problems: list[str] = []
    if options.index:
        if options.hoplite:
            from esc_jax.inference import hoplite

            hoplite.check_folder(options.hoplite)
        initialize_device()
        _embed_into_store(
            embeddings.load_encoder(options.model, options.sample_rate, options.window_s), options, problems
        )
        if problems:
            raise MultipleErrors(problems)
        return
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cache = initialize_device()
    model = embeddings.load_encoder(options.model, options.sample_rate)
    if options.data_dir:
        arrays = _embed_data_set(model, options, cache)
    else:
        arrays = _embed_recordings(model, options.files, problems)
    with files.atomic_write(options.out) as file:
        np.savez(file, **arrays)
    count, width = arrays["embeddings"].shape
    sys.stdout.write(f"{options.out}: {counted(count, 'embedding')} of {counted(width, 'number')}\n")
    if problems:
        raise MultipleErrors(problems)
