"""Search by example: recordings into a store of embeddings, and the passages of a store that are nearest to a sound.

The similarity of a passage is the cosine of its embedding x and that of the query q, xᵀq / (‖x‖ ‖q‖). A query of
several windows has the largest one. Exact search computes it for every passage, block by block. Approximate search uses
a graph of neighbours (HNSW; Malkov & Yashunin, 2018) in a file beside the store, and computes it for the candidates.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import math
import os
import pathlib
import time
from typing import Any

import numpy as np

from esc_jax import files
from esc_jax.data.stream import AudioStream, Excerpt
from esc_jax.errors import Failure, describe_error
from esc_jax.inference import embeddings, model_path
from esc_jax.inference.index_store import (
    Passage,
    RangeError,
    Store,
    StoreAccessError,
    StoreError,
    StoreSettings,
    content_hash,
)
from esc_jax.inference.parallel import Outcome, run_ahead
from esc_jax.models.model import Model
from esc_jax.training import step as steps

Nearest = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
_ADDED = 16_384  # vectors given to the graph at a time
_SAVE_INTERVAL_S = 300.0  # between the times at which a graph that is being built is saved
_COMPARED, _ROUNDING = 16, 2e-3  # vectors of a graph that are compared with the store's; difference of a number
_SEARCH_WIDTH = 128  # candidates that a search of the graph keeps; more is slower and finds more
_REMOVED = 0.1  # largest part of a graph that the store does not have any more


class SearchError(Failure, RuntimeError):
    """A search that could not be carried out. The message is one sentence."""


# Recordings into a store --------------------------------------------------------------------------------------------


def store_settings(model: Model, path: str, hop_s: float | None = None, dtype: str = "float16") -> StoreSettings:
    """The settings of a store of a model's embeddings.

    Args:
        model: the encoder, whose `clip_s` is the window.
        path: that it was loaded from.
        hop_s: between the starts of passages, s; None for the window.
        dtype: of the stored embeddings.
    """
    return StoreSettings(
        model=os.path.abspath(path) if os.path.exists(path) else path,
        encoder=embeddings.encoder_fingerprint(model),
        sample_rate=model.sample_rate,
        window_s=model.clip_s,
        hop_s=hop_s or model.clip_s,
        dimension=embeddings.dimension(model),
        dtype=dtype,
    )


def add_recordings(store: Store, model: Model, recordings: Sequence[str]) -> Iterator[Outcome]:
    """Embeds recordings into a store, several at a time: some are decoded while the device computes others.

    A file that the store has, with its size and modification time, is skipped. A file with the content of a recording
    of the store is entered as a copy.

    Args:
        store: open for writing, with the settings of the model.
        model: the encoder, whose `clip_s` is the window of the store.
        recordings: paths of files.

    Yields:
        The outcome of each recording, in the order of their ends.

    Raises:
        StoreAccessError: the store cannot be written. It has all recordings of the outcomes so far.
    """
    encode = steps.embed_step(model)

    def run(recording: str) -> Outcome:
        started = time.monotonic()
        path = os.path.abspath(os.path.expanduser(recording))
        try:
            before = os.stat(path)
            if store.is_known(path, before.st_size, before.st_mtime_ns):
                return Outcome(recording, "skipped")
            stream = AudioStream(recording, model.sample_rate)  # first: it refuses what is no regular file
            sha256 = content_hash(path)
            if (known := store.recording_of(sha256)) is None:
                starts, vectors = embeddings.embed_recording(encode, model, stream, hop_s=store.settings.hop_s)
            else:
                stream.close()
            after = os.stat(path)
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise SearchError(f"{recording}: changed while it was read; run the same command again")
        except Exception as error:
            description = describe_error(error, recording)
            if description is None or isinstance(error, (StoreError, StoreAccessError)):
                raise
            return Outcome(recording, "failed", 0.0, time.monotonic() - started, description[1])
        if known is not None:
            store.add_copy(path, known, before.st_size, before.st_mtime_ns)
            return Outcome(recording, "duplicate")
        duration_s, note = stream.samples / model.sample_rate, stream.describe("embedded")
        times = starts / model.sample_rate
        try:
            new = store.add(path, sha256, before.st_size, before.st_mtime_ns, duration_s, note, times, vectors)
        except RangeError as error:
            return Outcome(recording, "failed", 0.0, time.monotonic() - started, str(error))
        status = "done" if new else "duplicate"
        return Outcome(recording, status, duration_s, time.monotonic() - started, note)

    yield from run_ahead(run, recordings)


# Nearest passages ---------------------------------------------------------------------------------------------------


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, D) scaled to length one; zeros stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _largest(similarity: np.ndarray, numbers: np.ndarray, k: int) -> np.ndarray:
    """Indices of the k largest, in descending order; of equal ones the smallest number comes first."""
    if len(similarity) > k:
        limit = np.partition(similarity, len(similarity) - k)[len(similarity) - k]
        candidates = np.flatnonzero(similarity >= limit)
    else:
        candidates = np.arange(len(similarity))
    order = np.lexsort((numbers[candidates], -similarity[candidates]))
    return candidates[order[:k]]


def exact(store: Store) -> Nearest:
    """The function (queries (Q, D), k) → numbers (k,) and similarities (k,) of the k nearest passages of a store."""

    def nearest(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = unit(queries.astype(np.float32)).T
        best, similarity = np.zeros(0, np.int64), np.zeros(0, np.float32)
        for numbers, x in store.blocks():
            best = np.concatenate([best, numbers])
            similarity = np.concatenate([similarity, (unit(x) @ wanted).max(axis=1)])
            order = _largest(similarity, best, k)
            best, similarity = best[order], similarity[order]
        return best, similarity

    return nearest


def graph_path(store: Store) -> pathlib.Path:
    """The file of the graph for approximate search, beside the store."""
    return store.path.with_name(f"{store.path.name}.usearch")


def approximate(store: Store, progress: Callable[[int, int], None] | None = None) -> Nearest:
    """As `exact`, by a graph of neighbours, which can miss some of the nearest passages.

    The graph is built at the first call, and passages that were added since then are added to it. Passages that were
    removed stay in it, but are not found. If they are more than a tenth of it, it is built again.

    Args:
        store: with the passages.
        progress: called with the number of passages in the graph and of all.

    Raises:
        SearchError: usearch is not installed, or the graph cannot be written.
    """
    graph = _graph(store, progress)

    def search(wanted: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        graph.expansion_search = max(_SEARCH_WIDTH, 2 * count)
        matches = graph.search(wanted, count)
        rows = [matches] if len(wanted) == 1 else [matches[row] for row in range(len(wanted))]
        return store.embeddings(np.unique(np.concatenate([row.keys for row in rows])))

    def nearest(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        wanted = unit(queries.astype(np.float32))
        count = min(k, len(graph))
        if not count:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        found, x = search(wanted, count)
        while len(found) < k and count < len(graph):  # some were removed from the store
            count = min(2 * count, len(graph))
            found, x = search(wanted, count)
        similarity = (unit(x) @ wanted.T).max(axis=1)
        order = _largest(similarity, found, k)
        return found[order], similarity[order]

    return nearest


def _graph(store: Store, progress: Callable[[int, int], None] | None) -> Any:
    """The graph of all passages of a store."""
    try:
        from usearch.index import Index
    except ImportError:
        sentence = 'approximate search needs usearch: pip install "esc-jax[search]", or search without --approximate'
        raise SearchError(sentence) from None
    path = graph_path(store)

    def empty() -> Any:
        return Index(ndim=store.settings.dimension, metric="ip", dtype="f16")  # of vectors of length one: the cosine

    graph = empty()
    with contextlib.suppress(Exception):  # a damaged file raises many types: the graph is built again
        graph.view(str(path))  # only the pages that a search needs are read
    last = _last_passage(graph, store)
    missing, total = store.count_after(last), store.count_after(0)
    if last and not missing:
        return graph
    if not os.access(path.parent, os.W_OK):
        raise SearchError(f"{path} cannot be written: search without --approximate")
    graph = empty()  # one that is only viewed cannot grow, and one of another store may have another dimension
    if last:
        graph.load(str(path))
    done, saved, saved_at = total - missing, True, time.monotonic()
    for added, x in store.blocks(last, _ADDED):
        graph.add(added, unit(x))
        done, saved = done + len(added), False
        if time.monotonic() - saved_at >= _SAVE_INTERVAL_S:
            _save(graph, path)
            saved, saved_at = True, time.monotonic()
        if progress:
            progress(done, total)
    if not saved:
        _save(graph, path)
    return graph


def _last_passage(graph: Any, store: Store) -> int:
    """The largest number in a graph; 0 if the graph is empty, or is not that of the first passages of a store.

    Numbers ascend and are never used again, and passages are added in their order. The graph thus has all passages up
    to its largest number, and those that were removed since. Some vectors are compared, too: the store may be a new one
    under an old name.
    """
    if not len(graph) or graph.ndim != store.settings.dimension:
        return 0
    known = np.sort(np.array(graph.keys[:], np.int64))
    last = int(known[-1])
    removed = len(known) - (store.count_after(0) - store.count_after(last))
    if not 0 <= removed <= _REMOVED * len(known):
        return 0
    sample = np.unique(known[np.linspace(0, len(known) - 1, _COMPARED).astype(int)])
    numbers, x = store.embeddings(sample)
    if len(numbers) < len(sample) - removed or not len(numbers):
        return 0
    kept = graph.get(numbers.astype(np.uint64), np.float32)
    return last if np.allclose(kept, unit(x), atol=_ROUNDING) else 0


def _save(graph: Any, path: pathlib.Path) -> None:
    try:
        with files.atomic_write(path) as file:
            graph.save(file.name)
    except (OSError, RuntimeError) as error:  # usearch raises the latter, for a full disk as well
        sentence = f"{path} could not be written ({error}): free some space, or search without --approximate"
        raise SearchError(sentence) from None


# Matches ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Query:
    """A sound to search for.

    Attributes:
        vectors: (Q, D) embeddings of its windows.
        recording: number of its recording, if the store has it; else None.
        start_s, end_s: part of the recording, s.
    """

    vectors: np.ndarray
    recording: int | None
    start_s: float
    end_s: float


@dataclasses.dataclass(frozen=True)
class Match:
    """A passage that is near to a query: path of its recording, begin and end in seconds, similarity."""

    file: str
    start_s: float
    end_s: float
    similarity: float


def load_encoder(store: Store, path: str | None = None) -> Model:
    """The encoder of a store, for windows of the store.

    Args:
        store: with its name or path.
        path: where it is now, if it was moved.

    Raises:
        StoreError: this is another encoder.
    """
    settings = store.settings
    path = path or settings.model
    rate = None if model_path.has_config(path) else settings.sample_rate
    model = embeddings.load_encoder(path, rate, settings.window_s)
    if embeddings.encoder_fingerprint(model) != settings.encoder:
        raise StoreError(
            f"{store.path} has passages of another encoder ({settings.model}): {path} has changed or differs"
        )
    return model


def embed_query(store: Store, model: Model, path: str, start_s: float = 0.0, end_s: float | None = None) -> Query:
    """Embeds a sound, or a part of it, in the windows of a store.

    A sound that is shorter than a window is padded with zeros, as short recordings are in the store.

    Args:
        store: that will be searched.
        model: its encoder.
        path: of the sound.
        start_s: begin of the part, s.
        end_s: end of the part, s; None for the end of the sound.

    Raises:
        AudioError: the file cannot be used, or ends before the part begins.
    """
    stream = AudioStream(path, model.sample_rate)
    hop = store.settings.hop_s
    _, vectors = embeddings.embed_recording(
        steps.embed_step(model), model, Excerpt(stream, start_s, end_s), batch_size=4, hop_s=hop
    )
    end = stream.samples / model.sample_rate if end_s is None else end_s
    return Query(vectors, store.recording_of(content_hash(os.path.expanduser(path))), start_s, end)


def overlaps(a: Passage, recording: int | None, start_s: float, end_s: float) -> bool:
    """Whether a passage and a part of a recording have more than a millisecond in common."""
    return a.recording == recording and min(a.end_s, end_s) - max(a.start_s, start_s) > 1e-3


def without_overlaps(passages: Sequence[Passage], limit: int | None = None) -> list[int]:
    """Indices of the passages that overlap none before them that was kept, and the first `limit` of each recording."""
    kept: dict[int, list[Passage]] = {}
    indices = []
    for index, one in enumerate(passages):
        others = kept.setdefault(one.recording, [])
        full = limit is not None and len(others) >= limit
        if not full and not any(overlaps(one, other.recording, other.start_s, other.end_s) for other in others):
            others.append(one)
            indices.append(index)
    return indices


def find_matches(
    store: Store, query: Query, top: int, *, per_recording: int | None = None, nearest: Nearest | None = None
) -> list[Match]:
    """The passages that are nearest to a query, the nearest first.

    Of passages of a recording that overlap, only the nearest is a match. Passages that overlap the query itself, if the
    store has its recording, are left out.

    Args:
        store: that is searched.
        query: of `embed_query`.
        top: largest number of matches.
        per_recording: largest number of matches in a recording; None for any.
        nearest: `exact(store)` or `approximate(store)`; None for the former.
    """
    with store.snapshot():
        return _find_matches(store, query, top, per_recording, nearest or exact(store))


def _find_matches(store: Store, query: Query, top: int, per_recording: int | None, nearest: Nearest) -> list[Match]:
    count = store.counts()["passages"]
    # A match hides the passages that overlap it: at most these on either side.
    hidden = 2 * math.ceil(store.settings.window_s / store.settings.hop_s)
    k = (top + 1 + math.ceil((query.end_s - query.start_s) / store.settings.hop_s)) * (1 + hidden)
    while True:
        numbers, similarity = nearest(query.vectors, min(k, count))
        found = store.passages(numbers)
        others = [
            index for index, one in enumerate(found) if not overlaps(one, query.recording, query.start_s, query.end_s)
        ]
        chosen = [others[index] for index in without_overlaps([found[index] for index in others], per_recording)][:top]
        if len(chosen) == top or k >= count:
            break
        k *= 4
    matches = [(found[i], float(similarity[i])) for i in chosen]
    return [Match(store.path_of(one.recording), one.start_s, one.end_s, value) for one, value in matches]
