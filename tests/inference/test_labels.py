"""Labels of passages: files, and which passages they are for."""

import pathlib

import numpy as np
import pytest

from esc_jax.inference import labels
from esc_jax.inference.index_store import Store
from esc_jax.inference.labels import Label, LabelError
from tests.inference.stores import make


@pytest.fixture
def store(tmp_path):
    """Two recordings with passages of 2 s at 0, 1 and 2 s."""
    x = np.random.default_rng(0).uniform(size=(3, 8))
    make(tmp_path / "a.db", {"a.wav": x, "b.wav": x})
    with Store(tmp_path / "a.db") as opened:
        yield opened


def test_files_of_labels(tmp_path):
    path = tmp_path / "labels.csv"
    given = [Label("/a, b.wav", 0.0, 1.5, "frog"), Label("/=c.wav", 1.0, 2.0, "=owl"), Label("x", 0, 1, "")]
    labels.write_labels(path, given)
    assert labels.read_labels(path) == given[:2]
    path.write_text(path.read_text() + ",,,\n", encoding="utf-8-sig")  # as Excel saves it
    assert labels.read_labels(path) == given[:2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recording,start_s,label\n", "has no column end_s"),
        ("", "has no column recording"),
        ("recording,start_s,end_s,label\na,0,x,l\n", "line 2: 0 to x is not a range"),
        ("recording,start_s,end_s,label\n\na,2,1,l\n", "2 to 1 is not a range of seconds in a recording"),
        ("recording,start_s,end_s,label\na,0,inf,l\n", "is not a range"),
        ("recording,label,start_s,end_s\na,l\n", "is not a range"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(LabelError, match=message):
        labels.read_labels(tmp_path / "l.csv")


def match(store, *given):
    found = labels.match_labels(store, [Label(*one) for one in given])
    names = [
        (pathlib.Path(store.path_of(one.recording)).name, one.start_s, found.classes[target])
        for one, target in zip(found.passages, found.targets, strict=True)
    ]
    return names, found.problems


def test_a_label_is_for_passages_that_it_overlaps_by_half(store):
    names, problems = match(
        store, ("/archive/a.wav", 0.0, 2.0, "x"), ("/archive/b.wav", 2.9, 3.3, "y"), ("/archive/b.wav", 0.0, 0.9, "z")
    )
    # 0–2 s covers the first passage, and half of the second; 2.9–3.3 s lies in 2–4 s, and a quarter of it in 1–3 s.
    assert names == [
        ("a.wav", 0.0, "x"), ("a.wav", 1.0, "x"), ("b.wav", 0.0, "z"), ("b.wav", 2.0, "y"),
    ]  # fmt: skip
    assert problems == []


def test_of_several_labels_the_largest_overlap_counts_and_then_the_last(store):
    names, _ = match(
        store, ("/archive/a.wav", 0.0, 2.0, "x"), ("/archive/a.wav", 0.5, 3.5, "y"), ("/archive/a.wav", 2.0, 4.0, "z"),
        ("/archive/b.wav", 0.0, 2.0, "x"), ("/archive/b.wav", 0.0, 2.0, "w"),
    )  # fmt: skip
    assert names[:3] == [("a.wav", 0.0, "x"), ("a.wav", 1.0, "y"), ("a.wav", 2.0, "z")]
    assert names[3] == ("b.wav", 0.0, "w")


def test_labels_that_no_passage_has(store):
    given = ("/archive/a.wav", 0.0, 2.0, "x"), ("/archive/b.wav", 0.0, 2.0, "y")
    _, problems = match(
        store, *given, ("/none.wav", 0, 1, "x"), ("/none.wav", 1, 2, "x"), ("/archive/a.wav", 9, 10, "x")
    )
    assert problems == [
        "/none.wav: the store does not have this recording; 2 labels not used",
        "/archive/a.wav: no passage at 9 to 10 s",
    ]
    with pytest.raises(LabelError, match="two classes or more, but the passages of the store have only x"):
        match(store, given[0])
    with pytest.raises(LabelError, match="have none"):
        match(store, ("/none.wav", 0, 1, "x"))
