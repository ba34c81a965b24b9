"""Fits and tests linear and nearest-neighbour classifiers on frozen embeddings, for every fold of a data set.

    esc-jax probe EMBEDDINGS.npz                                     (a file of esc-jax embed)
    esc-jax train --config=efficientat_frozen --mode=crossval        (embeds, probes and writes a run)
    esc-jax probe --index=archive.db --labels=labels.csv --out=runs/frogs --page=next.html

The regularisation for a test fold is selected within its training folds: each of them is held out once, and predicted
by a classifier fitted on neither it nor the test fold. The classifier is then fitted on all training folds and tested
once.

With --index, a classifier is fitted on the labelled passages of a store. LABELS.csv has the columns recording, start_s,
end_s and label; the page of `esc-jax search --page` writes such a file. The accuracy is measured on held-out passages;
the passages of a recording are held out together. --out is a model for `esc-jax predict --model=RUN`. The passages that
the classifier is least certain about are listed. Label them next, with --page or in the column label of --csv.
"""

import argparse
import csv
import pathlib
import sys
from typing import TYPE_CHECKING

from esc_jax import files
from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command, discard_native_output, initialize_device
from esc_jax.errors import MultipleErrors, printable

if TYPE_CHECKING:  # numpy and JAX, which --help does not need
    from esc_jax.experiments.index_probe import Suggestion


def _parser() -> arguments.Parser:
    parser = arguments.Parser("probe", __doc__)
    arguments.add_offline(parser)
    text = "embeddings of a data set, written by esc-jax embed"
    parser.add_argument("embeddings", metavar="EMBEDDINGS.npz", nargs="?", help=text)
    seeds = "random initialisations of the solver (default: 1)"
    parser.add_argument("--seeds", metavar="N", type=arguments.integer(), help=seeds)
    add = parser.add_argument_group("labelled passages of a store").add_argument
    add("--index", metavar="DB", type=arguments.path, help="the store, written by esc-jax embed --index=DB")
    text = "labels, or a folder of perch-hoplite with annotations; may be repeated: the largest overlap counts"
    add("--labels", metavar="LABELS.csv", type=arguments.path, action="append", help=text)
    add("--out", metavar="RUN", type=arguments.path, help="folder of the classifier to write")
    add(
        "--next",
        metavar="N",
        type=arguments.integer(0, 10_000),
        default=20,
        help="number of passages to label next (default: 20)",
    )
    add("--csv", metavar="NEXT.csv", type=arguments.output(".csv"), help="write the passages to label next")
    add("--page", metavar="NEXT.html", type=arguments.output(".html"), help="write a page to play and label them")
    arguments.add_store_encoder(add)
    return parser


def _table(suggestions: "list[Suggestion]") -> str:
    from esc_jax.inference.timeline import span

    lines = ["label next:"] if suggestions else []
    for one in suggestions:
        times = span(one.start_s, one.end_s)
        lines.append(f"  margin {one.margin:.3f} {times}   {' or '.join(one.classes)}   {printable(one.file)}")
    return "".join(f"{line}\n" for line in lines)


def _write_csv(path: pathlib.Path, suggestions: "list[Suggestion]") -> None:
    """Writes the passages to label as a csv file of labels, with an empty label."""
    from esc_jax.evaluation.escaping import escape_cell
    from esc_jax.inference import labels

    with files.write_output(path, "w", newline="", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow([*labels.COLUMNS, "first", "second", "margin"])
        for one in suggestions:
            names = map(escape_cell, one.classes)
            times = f"{one.start_s:.3f}", f"{one.end_s:.3f}"
            writer.writerow([escape_cell(one.file), *times, "", *names, f"{one.margin:.6f}"])


def _probe_index(options: argparse.Namespace) -> None:
    from esc_jax.experiments import index_probe
    from esc_jax.inference import hoplite, index_store, labels

    if options.out:
        index_probe.check_folder(options.out)
    with index_store.Store(options.index) as store:
        given = [one for path in options.labels for one in (hoplite if path.is_dir() else labels).read_labels(path)]
        labelled = labels.match_labels(store, given)
        _, x = store.embeddings([one.id for one in labelled.passages])
        fitted = index_probe.fit(x, labelled)
        sys.stdout.write(index_probe.describe(labelled, fitted))
        if options.out:
            index_probe.save(options.out, store, given, labelled, x, fitted, options.model)
            sys.stdout.write(f"classifier: {options.out}\n")
        found = index_probe.least_certain(store, fitted.head, labelled.classes, labelled.passages, options.next)
        rate = store.settings.sample_rate
    sys.stdout.write(_table(found))
    problems = list(labelled.problems)
    if options.csv:
        _write_csv(options.csv, found)
    if options.page:
        from esc_jax.report import passages_page

        cards = [
            passages_page.Card(one.file, one.start_s, one.end_s, f"{' or '.join(one.classes)}? margin {one.margin:.3f}")
            for one in found
        ]
        text = (
            "The passages that the classifier is least certain about. Label them, and give the file to esc-jax probe."
        )
        problems += passages_page.write(options.page, "Label next", text, cards, labelled.classes, rate)
        sys.stdout.write(f"page: {options.page}\n")
    if problems:
        raise MultipleErrors(problems)


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = _parser()
    options = parser.parse(argv)
    if bool(options.embeddings) == bool(options.index):
        parser.error("give either EMBEDDINGS.npz, or --index=DB and --labels=LABELS.csv")
    if options.index and not options.labels:
        parser.error("--index needs --labels=LABELS.csv")
    needed = ("labels", "out", "csv", "page", "model")
    if options.embeddings and (given := [name for name in needed if getattr(options, name)]):
        parser.error(f"--{given[0]} needs --index=DB")
    if options.index:
        if options.seeds:
            parser.error("--seeds is for EMBEDDINGS.npz")
        discard_native_output()
        initialize_device()
        _probe_index(options)
        return
    from esc_jax.experiments import probe

    initialize_device()
    sys.stdout.write(probe.probe_embeddings(options.embeddings, options.seeds or 1))
