"""Nearest passages against brute force, overlaps, and the graph for approximate search."""

from hypothesis import given
from hypothesis import strategies as st
import numpy as np
import pytest

from esc_jax.inference import index
from esc_jax.inference.index import Query, SearchError
from esc_jax.inference.index_store import Passage, Store, open_for_writing
from tests.inference.stores import add, make, settings

RNG = np.random.default_rng(0)


def recordings(count, passages, dimension=8, seed=0):
    x = np.random.default_rng(seed).standard_normal((count, passages, dimension)).astype(np.float32)
    return {f"{name:02d}.wav": vectors for name, vectors in enumerate(x)}


def brute_force(x, queries, k):
    """Places of the k nearest rows, by the definition."""
    scores = [max(float(row @ q / np.linalg.norm(row) / np.linalg.norm(q)) for q in queries) for row in x]
    return sorted(range(len(x)), key=lambda place: (-scores[place], place))[:k], scores


@given(st.integers(1, 40), st.integers(1, 3), st.integers(1, 12), st.integers(0, 5))
def test_exact_search_is_brute_force(tmp_path_factory, passages, queries, k, seed):
    path = tmp_path_factory.mktemp("store") / "a.db"
    rng = np.random.default_rng(seed)
    x, wanted = rng.standard_normal((passages, 8)).astype(np.float32), rng.standard_normal((queries, 8))
    make(path, {"a.wav": x})
    with Store(path) as store:
        numbers, similarity = index.exact(store)(wanted, k)
        expected, scores = brute_force(x, wanted, k)
        assert numbers.tolist() == (store.numbers()[expected]).tolist()
        np.testing.assert_allclose(similarity, [scores[place] for place in expected], atol=1e-5)


def test_search_is_the_same_for_any_size_of_blocks(tmp_path, monkeypatch):
    make(tmp_path / "a.db", recordings(5, 7))
    query = RNG.standard_normal((1, 8))
    with Store(tmp_path / "a.db") as store:
        expected = index.exact(store)(query, 9)[0].tolist()
        blocks = store.blocks
        for rows in (1, 4, 9):
            monkeypatch.setattr(store, "blocks", lambda rows=rows: blocks(rows=rows))
            assert index.exact(store)(query, 9)[0].tolist() == expected


def test_zeros_are_similar_to_nothing(tmp_path):
    make(tmp_path / "a.db", {"a.wav": np.stack([np.zeros(8), np.ones(8)])})
    with Store(tmp_path / "a.db") as store:
        assert index.exact(store)(np.ones((1, 8)), 2)[1].tolist() == pytest.approx([1.0, 0.0])


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), max_size=12), st.sampled_from([None, 1, 2]))
def test_overlapping_passages(places, limit):
    passages = [Passage(i, recording, float(start), start + 3.0) for i, (recording, start) in enumerate(places)]
    kept = index.without_overlaps(passages, limit)
    inside = [passages[i] for i in kept]
    for i, one in enumerate(passages):
        before = [other for other in inside if other.id < i and other.recording == one.recording]
        free = all(abs(other.start_s - one.start_s) >= 3 for other in before)
        assert (i in kept) == (free and (limit is None or len(before) < limit))


def find(path, query, top=3, **options):
    with Store(path) as store:
        return [(m.file[-6:], m.start_s) for m in index.find_matches(store, query, top, **options)]


def test_matches_do_not_overlap_each_other_or_the_query(tmp_path):
    """Passages of 2 s start every second; the nearest to the query are all in the first recording."""
    path, query = tmp_path / "a.db", np.eye(8)[0]
    near = np.stack([query + 0.01 * k * np.eye(8)[1] for k in range(6)])
    make(path, {"00.wav": near, "01.wav": 0.1 * near + np.eye(8)[2], "02.wav": RNG.uniform(size=(3, 8))})
    alone = Query(query[None], None, 0.0, 2.0)
    assert find(path, alone) == [("00.wav", 0.0), ("00.wav", 2.0), ("00.wav", 4.0)]
    assert find(path, alone, per_recording=2, top=2) == [("00.wav", 0.0), ("00.wav", 2.0)]
    assert len({name for name, _ in find(path, alone, per_recording=1)}) == 3
    of_store = Query(query[None], 1, 1.0, 3.0)
    assert find(path, of_store, top=2) == [("00.wav", 3.0), ("00.wav", 5.0)]
    everything = find(path, alone, top=100)
    for name, start in everything:
        assert not any(name == other and 0 < abs(start - s) < 2 for other, s in everything)


def test_the_graph_finds_what_exact_search_finds(tmp_path):
    pytest.importorskip("usearch")
    path = tmp_path / "a.db"
    make(path, recordings(10, 30))
    queries = RNG.standard_normal((20, 8))
    with Store(path) as store:
        exact, calls = index.exact(store), []
        nearest = index.approximate(store, lambda done, total: calls.append((done, total)))
        assert calls == [(300, 300)]
        found = [len(set(nearest(q[None], 10)[0]) & set(exact(q[None], 10)[0])) for q in queries]
        assert np.mean(found) >= 9.5
        numbers, similarity = nearest(queries[:1], 10)
        place = {number: i for i, number in enumerate(store.numbers().tolist())}
        x = np.concatenate([x for _, x in store.blocks()])
        expected = index.unit(x[[place[n] for n in numbers.tolist()]]) @ index.unit(queries[:1])[0]
        np.testing.assert_allclose(similarity, expected, atol=1e-6)
        index.approximate(store, lambda *_: pytest.fail("the graph was kept"))


def test_the_graph_follows_the_store(tmp_path):
    pytest.importorskip("usearch")
    path, first = tmp_path / "a.db", recordings(3, 10)
    make(path, first)
    with open_for_writing(path, settings()) as store:
        index.approximate(store)
        new = RNG.standard_normal((1, 8)).astype(np.float32)
        add(store, "new.wav", new)
        calls = []
        nearest = index.approximate(store, lambda done, total: calls.append((done, total)))
        assert calls == [(31, 31)] and nearest(new, 1)[0].tolist() == [31]  # one was added, and the others kept
        add(store, "new.wav", -new, content="other")
        assert nearest(new, 31)[0].max() <= 30  # the open graph still has it; the store does not
        nearest = index.approximate(store)
        assert 31 not in nearest(new, 31)[0] and nearest(-new, 1)[0].tolist() == [32]
        index.graph_path(store).write_bytes(b"damaged")
        assert index.approximate(store)(-new, 1)[0].tolist() == [32]


def test_a_graph_keeps_a_few_passages_that_were_removed(tmp_path, monkeypatch):
    """One recording of twenty is replaced; its passages were the nearest to the query. The graph is not built again."""
    pytest.importorskip("usearch")
    monkeypatch.setattr(index, "_ADDED", 50)
    path, query = tmp_path / "a.db", np.ones((1, 8))
    make(path, recordings(20, 10) | {"07.wav": query + 0.01 * RNG.standard_normal((10, 8))})
    with open_for_writing(path, settings()) as store:
        assert set(index.approximate(store)(query, 10)[0]) == set(range(71, 81))
        calls = []
        for content, expected in ("second", [(200, 200)]), ("third", [(200, 200)]):
            add(store, "07.wav", RNG.standard_normal((10, 8)), content=content)
            nearest = index.approximate(store, lambda *count: calls.append(count))
            assert calls == expected
            calls.clear()
            for k in (5, 200):
                assert set(nearest(query, k)[0]) == set(index.exact(store)(query, k)[0])
        add(store, "07.wav", RNG.standard_normal((10, 8)), content="fourth")  # 30 of 220 were removed
        index.approximate(store, lambda *count: calls.append(count))
        assert calls == [(50, 200), (100, 200), (150, 200), (200, 200)]


def test_an_empty_store_has_no_matches(tmp_path):
    pytest.importorskip("usearch")
    make(tmp_path / "a.db", {})
    with Store(tmp_path / "a.db") as store:
        query = Query(np.ones((1, 8)), None, 0.0, 2.0)
        for nearest in (index.exact(store), index.approximate(store)):
            assert index.find_matches(store, query, 3, nearest=nearest) == []


def test_a_graph_that_cannot_be_written(tmp_path, monkeypatch):
    """The limit of the size of a file acts as a full disk. The graph that was there is kept."""
    resource = pytest.importorskip("resource")
    pytest.importorskip("usearch")
    make(tmp_path / "a.db", recordings(3, 100))
    with open_for_writing(tmp_path / "a.db", settings()) as store:
        index.approximate(store)
        before = index.graph_path(store).read_bytes()
        add(store, "new.wav", RNG.standard_normal((1, 8)))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            with pytest.raises(SearchError, match=r"a\.db\.usearch could not be written"):
                index.approximate(store)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        monkeypatch.setattr(index.os, "access", lambda path, mode: path != tmp_path)
        with pytest.raises(SearchError, match=r"a\.db\.usearch cannot be written: search without --approximate"):
            index.approximate(store, lambda *_: pytest.fail("nothing is built"))
        assert index.graph_path(store).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.db", "a.db.lock", "a.db.usearch"]


def test_without_usearch(tmp_path, monkeypatch):
    make(tmp_path / "a.db", recordings(1, 2))
    monkeypatch.setitem(__import__("sys").modules, "usearch.index", None)
    with Store(tmp_path / "a.db") as store, pytest.raises(SearchError, match=r'pip install "esc-jax\[search\]"'):
        index.approximate(store)


def test_the_graph_of_another_store_is_not_used(tmp_path):
    """A store that was deleted and written again has the same numbers, and embeddings of the same or another length."""
    pytest.importorskip("usearch")
    path = tmp_path / "a.db"
    for seed, dimension in (0, 8), (1, 8), (2, 12), (3, 6):
        path.unlink(missing_ok=True)
        make(path, recordings(4, 10, dimension, seed), dimension=dimension)
        with Store(path) as store:
            calls = []
            nearest = index.approximate(store, lambda *count, calls=calls: calls.append(count))
            assert calls == [(40, 40)]
            (x,) = [x for _, x in store.blocks()]
            assert nearest(x[7:8], 1)[0].tolist() == [8]


def test_a_graph_is_saved_while_it_is_built(tmp_path, monkeypatch):
    pytest.importorskip("usearch")
    monkeypatch.setattr(index, "_ADDED", 10)
    monkeypatch.setattr(index, "_SAVE_INTERVAL_S", 0.0)
    make(tmp_path / "a.db", recordings(5, 10))

    def stop(done, total):
        if done == 40:
            raise KeyboardInterrupt

    with Store(tmp_path / "a.db") as store:
        with pytest.raises(KeyboardInterrupt):
            index.approximate(store, stop)
        calls = []
        nearest = index.approximate(store, lambda *count: calls.append(count))
        assert calls == [(50, 50)]  # 40 were kept
        queries = RNG.standard_normal((3, 8))
        assert set(nearest(queries, 5)[0]) == set(index.exact(store)(queries, 5)[0])  # several windows at once


def test_counts_do_not_read_the_embeddings(tmp_path):
    """The plan of SQLite: a count of all passages goes through an index, which has no embeddings."""
    make(tmp_path / "a.db", recordings(3, 4))
    with Store(tmp_path / "a.db") as store:
        assert [store.count_after(number) for number in (0, 5, 12)] == [12, 7, 0]
        plan = store._connection.execute("EXPLAIN QUERY PLAN SELECT count(*) FROM passages").fetchall()
        assert "COVERING INDEX" in plan[0][3]
