"""Finds the passages of an archive that sound most like a recording, or like a part of it.

    esc-jax embed --model=mn04_as --index=archive.db recordings/       (once, and again for new recordings)
    esc-jax search archive.db frog.wav
    esc-jax search archive.db night.wav --start_s=12 --end_s=15 --top=50 --page=frogs.html --labels=frog,other

The similarity is the cosine of the embeddings. A query that is longer than the passages of the store is split into
windows, and the similarity of a passage is the largest one to any of them. A shorter query is padded with zeros. Of
overlapping passages of a recording, only the most similar one is listed. If the recording of the query is in the store,
passages that overlap the query are left out.

--page writes a web page in one file, on which the passages can be played and labelled. Its labels are a csv file for
`esc-jax probe --index=DB --labels=LABELS.csv`.

Search is exact by default. --approximate uses a graph of neighbours (usearch), which is built at the first search and
kept beside the store. It is meant for large stores, and can miss some passages.
"""

import argparse
import sys
from typing import TYPE_CHECKING

from esc_jax import files
from esc_jax.cli import parser as arguments
from esc_jax.cli.command import command, discard_native_output, initialize_device
from esc_jax.errors import MultipleErrors, UserError
from esc_jax.runtime.progress import progress_bar

if TYPE_CHECKING:  # numpy and JAX, which --help does not need
    from esc_jax.inference.index import Nearest
    from esc_jax.inference.index_store import Store


class OverwriteError(UserError, ValueError):
    """A command line that would overwrite its input. The message is one sentence."""


def _parser() -> arguments.Parser:
    parser = arguments.Parser("search", __doc__)
    arguments.add_offline(parser)
    add, span = parser.add_argument, arguments.seconds(0.0, 1e6)
    add("index", metavar="DB", type=arguments.path, help="the store, written by esc-jax embed --index=DB")
    add("query", metavar="QUERY", help="recording of the sound to search for")
    add("--start_s", metavar="S", type=span, default=0.0, help="start of the sound in QUERY, seconds (default: 0)")
    add("--end_s", metavar="S", type=span, help="end of the sound in QUERY, seconds (default: its end)")
    add("--top", metavar="N", type=arguments.integer(1, 10_000), default=10, help="passages to list (default: 10)")
    limit = "largest number of passages of one recording (default: no limit)"
    add("--per_recording", metavar="N", type=arguments.integer(), help=limit)
    add("--approximate", action="store_true", help="faster in large stores; needs usearch")
    add("--csv", metavar="OUT.csv", type=arguments.output(".csv"), help="write recording, start_s, end_s, similarity")
    add("--json", metavar="OUT.json", type=arguments.output(".json"), help="write the same as a JSON document")
    add("--page", metavar="OUT.html", type=arguments.output(".html"), help="write a page that plays the passages")
    names = "comma-separated classes that --page offers as labels (default: yes,no)"
    add("--labels", metavar="NAMES", type=lambda text: text.split(","), help=names)
    arguments.add_store_encoder(add)
    return parser


def _nearest(store: "Store", options: argparse.Namespace) -> "Nearest":
    from esc_jax.inference import index

    if not options.approximate:
        return index.exact(store)
    with progress_bar("building the graph", "passage") as progress:
        return index.approximate(store, progress)


@command
def main(argv: list[str] | None = None) -> None:
    """The command."""
    parser = _parser()
    options = parser.parse(argv)
    if options.end_s is not None and options.end_s <= options.start_s:
        parser.error(f"--end_s={options.end_s:g} is not after --start_s={options.start_s:g}")
    if options.labels and not options.page:
        parser.error("--labels needs --page=OUT.html")
    discard_native_output()
    for path in (options.csv, options.json, options.page):
        if path and path.exists() and files.resolve(path) == files.resolve(options.query):
            raise OverwriteError(f"{path} is both read and written: give another name for the results")
    from esc_jax.inference import index, index_store, matches

    with index_store.Store(options.index) as store:
        initialize_device()
        model = index.load_encoder(store, options.model)
        query = index.embed_query(store, model, options.query, options.start_s, options.end_s)
        found = index.find_matches(
            store, query, options.top, per_recording=options.per_recording, nearest=_nearest(store, options)
        )
        count = store.counts()["passages"]
    sys.stdout.write(matches.table(found, count))
    if options.csv:
        matches.write_csv(options.csv, found)
    if options.json:
        settings = {"index": str(options.index), "query": options.query, "passages": count}
        matches.write_json(options.json, settings | {"start_s": query.start_s, "end_s": query.end_s}, found)
    if options.page:
        from esc_jax.report import passages_page

        problems = passages_page.write_search(
            options.page, options.query, query, found, options.labels or ["yes", "no"], model.sample_rate
        )
        sys.stdout.write(f"page: {options.page}\n")
        if problems:
            raise MultipleErrors(problems)
