"""Search by example and search of large stores, at a small size. Times are not tested."""

import argparse
import json

import numpy as np
import pytest
import soundfile

from esc_jax.inference import index
from esc_jax.inference.classifier import restore_any
from esc_jax.inference.index_store import Store


def test_precision_and_average_precision_of_a_ranking(load_benchmark):
    """Against scikit-learn's definition, by hand: relevant at ranks 1, 3 and 12 of 12."""
    module = load_benchmark("search")
    similarity = -np.arange(12.0)[None]
    relevant = np.isin(np.arange(12), [0, 2, 11])[None]
    precision, average = module.rank(similarity, relevant)
    assert precision[0] == pytest.approx(2 / 10) and average[0] == pytest.approx((1 + 2 / 3 + 3 / 12) / 3)


def test_few_shot_curves_and_retrieval(load_benchmark, tmp_path):
    """Classes that are far apart: everything is right, from the first label on."""
    module = load_benchmark("search")
    rng = np.random.default_rng(0)
    labels, folds = np.arange(160) % 4, np.arange(160) // 80 + 1
    # A probe standardizes the embeddings: with one label of a class, dimensions of noise would count like the others.
    x = (20 * np.eye(4)[labels] + rng.normal(size=(160, 4))).astype(np.float32)
    data = module.Data(x, labels, folds, np.arange(160).astype(str))
    order = module.nested_order(labels, rng)
    assert all(sorted(labels[order[4 * k : 4 * k + 4]]) == [0, 1, 2, 3] for k in range(40))
    rows = list(module.few_shot(data, draws=2))
    assert len(rows) == 4 and all(values.shape == (2, 5) and (values == 100).all() for _, values in rows)
    assert rows[0][0]["n16"] == "100.0"
    assert module.retrieval([(data, [1, 2])]) == module.retrieval([(data, [1]), (data, [2])])
    assert module.retrieval([(data, [1, 2])])["p10"] == "100.0" and module.retrieval([(data, [2])])["queries"] == "80"
    module.plot([row for row, _ in rows], tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 5000
    low, high = module.student_interval(np.array([1.0, 2.0, 3.0]))
    assert (low, high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))


def test_search_in_a_large_store(load_benchmark, tmp_path):
    """A second call takes what the folder has, and gives the same; exact search in one pass is the library's."""
    pytest.importorskip("usearch")
    module = load_benchmark("search_graph")
    first = module.measure(tmp_path, 2500, 16, 12)
    assert first["passages"] == "2,500" and float(first["recall"]) > 90
    again = module.measure(tmp_path, 2500, 16, 12)
    assert {name: again[name] for name in ("recall", "build_s", "exact_ms")} == {
        name: first[name] for name in ("recall", "build_s", "exact_ms")
    }
    with Store(tmp_path / "clusters.db") as store:
        assert store.counts() == {"recordings": 3, "files": 3, "passages": 2500}
        wanted = module.Clusters(16).draw(12, 1 << 40)
        exact = index.exact(store)
        for query, expected in zip(wanted, np.load(tmp_path / "expected.npy"), strict=True):
            assert set(exact(query[None], 10)[0]) == set(expected)


def test_an_interrupted_search_benchmark_continues_its_graph(load_benchmark, tmp_path, monkeypatch):
    """The time of the part that was saved counts; a part whose time is not known is not used."""
    pytest.importorskip("usearch")
    module = load_benchmark("search_graph")
    monkeypatch.setattr(index, "_ADDED", 500)
    monkeypatch.setattr(index, "_SAVE_INTERVAL_S", 0.0)
    build, calls = index.approximate, []

    def stopped_at(last):
        def approximate(store, progress=None):
            def count(done, total):
                progress(done, total)
                calls.append(done)
                if done == last:
                    raise KeyboardInterrupt

            return build(store, progress and count)

        return approximate

    monkeypatch.setattr(index, "approximate", stopped_at(1000))
    with pytest.raises(KeyboardInterrupt):
        module.measure(tmp_path, 2500, 16, 12)
    path = tmp_path / "measured.json"
    part = json.loads(path.read_text()) | {"part_s": 1000.0}
    path.write_text(json.dumps(part))
    monkeypatch.setattr(index, "approximate", stopped_at(None))
    calls.clear()
    assert float(module.measure(tmp_path, 2500, 16, 12)["build_s"]) >= 1000 and calls == [1500, 2000, 2500]
    assert float(json.loads(path.read_text())["peak_mib"]) >= part["peak_mib"]
    for name in ("build_s", "part_mtime_ns"):
        part.pop(name, None)
    path.write_text(json.dumps(part))
    calls.clear()
    assert float(module.measure(tmp_path, 2500, 16, 12)["build_s"]) < 1000 and calls == [500, 1000, 1500, 2000, 2500]


def test_queries_are_of_the_test_fold_of_a_run(load_benchmark, untrained, tmp_path):
    """Any encoder; a run has queries of the fold that it was not trained on."""
    module = load_benchmark("search")
    fold = restore_any(untrained).config.data.test_fold
    rng = np.random.default_rng(0)
    (tmp_path / "audio").mkdir()
    (tmp_path / "meta").mkdir()
    lines = ["filename,fold,target,src_file"]
    for place in range(8):
        lines.append(f"{place}.wav,{fold + place % 2},{place % 4 // 2},{place}")
        soundfile.write(tmp_path / f"audio/{place}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    (tmp_path / "meta/esc50.csv").write_text("\n".join(lines))
    options = argparse.Namespace(
        what=["retrieval"],
        index=None,
        model=[str(untrained)],
        folder=tmp_path / "stores",
        name="tiny",
        data_dir=tmp_path,
    )
    for _ in range(2):  # the store is kept
        (row,) = module.rows(options)
        assert row["encoder"] == "tiny" and row["queries"] == "4"
    options.what = ["few-shot"]
    with pytest.raises(module.FoldError, match="trained on none of the clips, and not a run"):
        list(module.rows(options))
    options.model *= 2
    with pytest.raises(module.FoldError, match="would count twice"):
        list(module.rows(options))
    with pytest.raises(module.FoldError, match="leaves no fold of the data for queries"):
        module.query_folds(str(untrained), [fold + 1])
