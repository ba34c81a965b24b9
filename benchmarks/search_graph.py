"""Exact and approximate search of a large embedding store: times, recall and memory.

    python benchmarks/search_graph.py --passages=1000000 --folder=FOLDER

Writes a store of made-up passages with the functions of `esc-jax embed --index`, and searches it with those of
`esc-jax search`. Each part is skipped where FOLDER has its result, so that the same command continues.

How passages are drawn: there are CENTRES points z in 32 dimensions, with the distribution N(0, I). A passage has a
random one of them and x = A (z + 0.5 e) + 0.1 r, where e and r are N(0, I) in 32 and D dimensions, and A has D × 32
numbers from N(0, 1/32). Queries are drawn in the same way.

Columns: `insert_s` and `build_s` are CPU seconds for all passages, of all cores. `open_ms` is what the graph adds to
the start of a search. `exact_ms` and `graph_ms` are CPU time of one query, median; `…_batch_ms` are those of a query
with as many windows as there are queries, for each window. Recall at 10 is against exact search. `peak_mib` is the
resident memory of the process after the graph was built; its buffers are included.
"""

import argparse
import csv
import datetime
import json
import math
import os
import pathlib
import sys
import time
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from esc_jax.inference import index  # noqa: E402
from esc_jax.inference.index_store import Store, StoreSettings, open_for_writing  # noqa: E402

LATENT, SPREAD, NOISE = 32, 0.5, 0.1
CENTRES = 2000
PER_RECORDING = 1000
EXACT_QUERIES = 5  # that are timed one by one
FIELDS = [
    "table", "passages", "drawn", "queries", "insert_s", "build_s", "exact_ms", "exact_batch_ms", "graph_ms",
    "graph_batch_ms", "open_ms", "recall", "store_mib", "graph_mib", "peak_mib", "command", "machine", "date",
]  # fmt: skip


class Clusters:
    """Made-up embeddings.

    Args:
        dimension: D.
    """

    def __init__(self, dimension: int):
        rng = np.random.default_rng(0)
        self._centres = rng.standard_normal((CENTRES, LATENT), np.float32)
        self._map = rng.standard_normal((LATENT, dimension), np.float32) / np.float32(math.sqrt(LATENT))

    def draw(self, count: int, seed: int) -> np.ndarray:
        """(count, D) float32."""
        rng = np.random.default_rng([1, seed])
        centres = self._centres[rng.integers(CENTRES, size=count)]
        z = centres + np.float32(SPREAD) * rng.standard_normal((count, LATENT), np.float32)
        return z @ self._map + np.float32(NOISE) * rng.standard_normal((count, self._map.shape[1]), np.float32)


def peak_mib() -> float:
    """Largest resident memory of this process so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Measurements:
    """Numbers in a file, which is written after each part."""

    def __init__(self, path: pathlib.Path):
        self._path = path
        self.values: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}

    def update(self, **values: Any) -> None:
        """Adds numbers and writes the file."""
        self.values |= values
        self._path.write_text(json.dumps(self.values))


def insert(path: pathlib.Path, clusters: Clusters, count: int, dimension: int, measured: Measurements) -> None:
    """Adds the passages that a store does not have, in recordings of a thousand."""
    settings = StoreSettings("clusters", "clusters", 32_000, 5.0, 5.0, dimension)
    with open_for_writing(path, settings) as store:
        for number, first in enumerate(range(0, count, PER_RECORDING)):
            if store.recording_of(str(number)) is not None:
                continue
            vectors = clusters.draw(min(PER_RECORDING, count - first), number)
            started = time.process_time()
            starts = 5.0 * np.arange(len(vectors))
            store.add(f"/{number}.wav", str(number), 0, 0, 5.0 * len(vectors), "", starts, vectors)
            spent = time.process_time() - started
            measured.update(insert_s=measured.values.get("insert_s", 0.0) + spent)


def search_exactly(store: Store, queries: np.ndarray, folder: pathlib.Path, measured: Measurements) -> np.ndarray:
    """(queries, 10) numbers of the nearest passages, in one pass over the store."""
    kept = folder / "expected.npy"
    exact = index.exact(store)
    if "exact_ms" not in measured.values:
        spent = []
        for query in queries[:EXACT_QUERIES]:
            started = time.process_time()
            exact(query[None], 10)
            spent.append(time.process_time() - started)
        started = time.process_time()
        exact(queries, 10)
        batch = (time.process_time() - started) / len(queries)
        measured.update(exact_ms=1000 * float(np.median(spent)), exact_batch_ms=1000 * batch)
    if not kept.is_file():
        wanted = index.unit(queries).T
        best, similarity = np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32)
        for numbers, x in store.blocks():
            best = np.concatenate([best, np.broadcast_to(numbers, (len(queries), len(numbers)))], axis=1)
            similarity = np.concatenate([similarity, (index.unit(x) @ wanted).T], axis=1)
            order = np.argpartition(-similarity, 9, axis=1)[:, :10]
            best, similarity = np.take_along_axis(best, order, 1), np.take_along_axis(similarity, order, 1)
        np.save(kept, best)
    return np.load(kept)


def build(store: Store, measured: Measurements) -> None:
    """Builds the graph, or the rest of it where an interrupted call has saved a part and its time."""
    if "build_s" in measured.values:
        return
    path, values = index.graph_path(store), measured.values
    if path.exists() and path.stat().st_mtime_ns != values.get("part_mtime_ns"):
        path.unlink()
    kept = path.exists()
    before, peak = (values["part_s"], values["peak_mib"]) if kept else (0.0, 0.0)
    started = time.process_time()

    def progress(done: int, total: int) -> None:
        sys.stderr.write(f"\rgraph: {done:,} of {total:,}")
        if path.exists() and (mtime := path.stat().st_mtime_ns) != measured.values.get("part_mtime_ns"):
            spent = before + time.process_time() - started
            measured.update(part_mtime_ns=mtime, part_s=spent, peak_mib=max(peak, peak_mib()))

    index.approximate(store, progress)
    measured.update(build_s=before + time.process_time() - started, peak_mib=max(peak, peak_mib()))
    sys.stderr.write("\n")


def measure(folder: pathlib.Path, count: int, dimension: int, queries: int) -> dict[str, str]:
    """Columns of the table."""
    clusters, measured = Clusters(dimension), Measurements(folder / "measured.json")
    measured.update(passages=count, dimension=dimension, queries=queries)
    path = folder / "clusters.db"
    insert(path, clusters, count, dimension, measured)
    wanted = clusters.draw(queries, 1 << 40)
    with Store(path) as store:
        expected = search_exactly(store, wanted, folder, measured)
        build(store, measured)
        started = time.process_time()
        nearest = index.approximate(store)
        open_s = time.process_time() - started
        spent, found = [], []
        for query in wanted:
            started = time.process_time()
            found.append(nearest(query[None], 10)[0])
            spent.append(time.process_time() - started)
        started = time.process_time()
        nearest(wanted, 10)
        batch = (time.process_time() - started) / queries
        sizes = [os.path.getsize(file) / 2**20 for file in (path, index.graph_path(store))]
    recall = np.mean([len(np.intersect1d(a, b)) / 10 for a, b in zip(expected, found, strict=True)])
    values = measured.values
    return {
        "passages": f"{count:,}",
        "drawn": f"{CENTRES:,} clusters, D = {dimension}",
        "queries": str(queries),
        "insert_s": f"{values['insert_s']:.0f}",
        "build_s": f"{values['build_s']:.0f}",
        "exact_ms": f"{values['exact_ms']:.0f}",
        "exact_batch_ms": f"{values['exact_batch_ms']:.1f}",
        "graph_ms": f"{1000 * np.median(spent):.1f}",
        "graph_batch_ms": f"{1000 * batch:.1f}",
        "open_ms": f"{1000 * open_s:.0f}",
        "recall": f"{100 * recall:.1f}",
        "store_mib": f"{sizes[0]:.0f}",
        "graph_mib": f"{sizes[1]:.0f}",
        "peak_mib": f"{values['peak_mib']:.0f}",
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--passages", type=int, default=1_000_000, help="default: a million")
    add("--dimension", type=int, default=384, help="of an embedding (default: 384, as mn04_as)")
    add("--queries", type=int, default=200, help="default: 200")
    add("--folder", type=pathlib.Path, required=True, help="is created; a million passages take 2 GB")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    writer = csv.DictWriter(sys.stdout, FIELDS, lineterminator="\n", restval="")
    writer.writeheader()
    row = measure(options.folder, options.passages, options.dimension, options.queries)
    writer.writerow({"table": "search-graph"} | row | {"date": datetime.date.today().isoformat()})


if __name__ == "__main__":
    main()
