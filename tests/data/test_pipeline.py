"""Batches: order, shards, resuming, and the exact pass of an evaluation."""

import dataclasses

import numpy as np
import pytest

from esc_jax.data import folds, pipeline

INDICES = [1, 2, 3, 5, 6, 7, 9, 10, 11]


def take(batches, count):
    return [next(batches) for _ in range(count)]


def names(noise_clips, batch):
    """Which clips a batch holds, identified by their audio."""
    known = {noise_clips.fetch(i).tobytes(): i for i in range(len(noise_clips))}
    return [known[row.tobytes()] for row in batch["audio"]]


def test_epochs_are_shuffles_of_the_training_clips(noise_clips):
    batches = take(pipeline.train_batches(noise_clips, INDICES, 3, seed=0), 9)
    epochs = [sum((names(noise_clips, b) for b in batches[e : e + 3]), []) for e in (0, 3, 6)]
    assert [sorted(e) for e in epochs] == [INDICES] * 3
    assert len({tuple(e) for e in epochs}) == 3
    for batch in batches:
        np.testing.assert_array_equal(batch["label"], noise_clips.labels[names(noise_clips, batch)])


def test_the_incomplete_batch_of_an_epoch_is_dropped(noise_clips):
    batches = take(pipeline.train_batches(noise_clips, INDICES, 4, seed=0), 6)
    for epoch in (0, 2, 4):
        both = names(noise_clips, batches[epoch]) + names(noise_clips, batches[epoch + 1])
        assert len(set(both)) == 8


def test_processes_share_the_global_batches(noise_clips):
    whole = take(pipeline.train_batches(noise_clips, INDICES, 4, seed=3), 5)
    parts = [
        take(pipeline.train_batches(noise_clips, INDICES, 4, seed=3, process_index=i, process_count=2), 5)
        for i in (0, 1)
    ]
    for batch, *halves in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(batch["audio"], np.concatenate([h["audio"] for h in halves]))


def test_resuming_goes_on_with_the_next_batch(noise_clips):
    batches = pipeline.train_batches(noise_clips, INDICES, 3, seed=1)
    take(batches, 4)
    place = batches.get_state()
    expected = take(batches, 3)
    resumed = pipeline.train_batches(noise_clips, INDICES, 3, seed=1)
    resumed.set_state(place)
    for one, other in zip(expected, take(resumed, 3), strict=True):
        np.testing.assert_array_equal(one["audio"], other["audio"])


def test_weighted_batches_draw_clips_by_their_probabilities(noise_clips):
    """400 batches of 3: within four standard deviations of the expected number of every clip."""
    weights = np.arange(1, 10) / 45
    batches = pipeline.train_batches(noise_clips, INDICES, 3, seed=2, weights=weights)
    drawn = np.bincount(np.concatenate([names(noise_clips, b) for b in take(batches, 400)]), minlength=12)[INDICES]
    assert (np.abs(drawn - 1200 * weights) < 4 * np.sqrt(1200 * weights * (1 - weights))).all()
    place = batches.get_state()
    expected = take(batches, 3)
    resumed = pipeline.train_batches(noise_clips, INDICES, 3, seed=2, weights=weights)
    resumed.set_state(place)
    for one, other in zip(expected, take(resumed, 3), strict=True):
        np.testing.assert_array_equal(one["audio"], other["audio"])


def test_multi_label_batches_are_filled_with_clips_without_a_class(noise_clips):
    clips = noise_clips.as_multi_label()
    assert clips.task == "multi_label" and clips.labels.dtype == bool
    (*_, last) = pipeline.eval_batches(clips, INDICES, 5)
    assert last["label"].shape == (5, 3) and last["label"].sum(axis=1).tolist() == [1, 1, 1, 1, 0]
    np.testing.assert_array_equal(last["label"][:4].argmax(1), noise_clips.labels[INDICES[5:]])


def test_background_clips_follow_the_others_without_a_class(noise_clips):
    rng = np.random.default_rng(1)
    other = dataclasses.replace(
        noise_clips.subset((0,), "zeros"), fingerprint="b", fetch=lambda i: rng.integers(9, 99, 10).astype(np.int16)
    )
    whole = dataclasses.replace(noise_clips, background=other).with_background()
    assert len(whole) == 12 + len(other) and whole.background is None
    np.testing.assert_array_equal(whole.labels, [*noise_clips.labels, *[-1] * len(other)])
    assert set(whole.folds[12:]) == {folds.BACKGROUND_FOLD} and whole.fingerprint != noise_clips.fingerprint
    np.testing.assert_array_equal(whole.fetch(5), noise_clips.fetch(5))
    assert 0 < whole.read([12])[0, :10].min() and not whole.read([12])[0, 10:].any()
    labels = dataclasses.replace(noise_clips.as_multi_label(), background=other).with_background().labels
    assert not labels[12:].any() and labels[:12].sum() == 12


@pytest.mark.parametrize("batch_size", [1, 4, 9, 20])
def test_an_evaluation_sees_every_clip_once_in_order(noise_clips, batch_size):
    batches = list(pipeline.eval_batches(noise_clips, INDICES, batch_size))
    assert all(len(b["audio"]) == batch_size for b in batches)
    real = [n for b in batches for n, m in zip(names_or_filling(noise_clips, b), b["mask"], strict=True) if m]
    assert real == INDICES
    assert not any(b["audio"][~b["mask"]].any() for b in batches)


def names_or_filling(noise_clips, batch):
    known = {noise_clips.fetch(i).tobytes(): i for i in range(len(noise_clips))}
    return [known.get(row.tobytes()) for row in batch["audio"]]


def test_short_clips_are_padded_and_long_ones_cut(noise_clips):
    longer = dataclasses.replace(noise_clips, length=9000).read([0])
    np.testing.assert_array_equal(longer[0, :8000], noise_clips.fetch(0))
    assert longer.shape == (1, 9000) and not longer[0, 8000:].any()
    np.testing.assert_array_equal(dataclasses.replace(noise_clips, length=100).read([0])[0], noise_clips.fetch(0)[:100])


def test_a_subset_renumbers_its_classes(noise_clips):
    subset = noise_clips.subset((2, 0), "two")
    assert subset.classes == ("c", "a")
    assert [noise_clips.filenames.index(n) % 3 for n in subset.filenames] == [(2, 0)[t] for t in subset.labels]
    np.testing.assert_array_equal(subset.fetch(1), noise_clips.fetch(noise_clips.filenames.index(subset.filenames[1])))


def test_batches_say_what_is_padded_where_they_are_to_and_anything_is(noise_clips):
    lengths = 8000 - 500 * np.arange(12)
    cut = dataclasses.replace(
        noise_clips, samples=lengths, fetch=lambda i: noise_clips.fetch(i)[: lengths[i]], mask_padding=True
    )
    for batches in (pipeline.train_batches(cut, INDICES, 3, seed=0), pipeline.eval_batches(cut, INDICES, 5)):
        for batch in take(batches, 2):
            sounding = [np.flatnonzero(row)[-1] + 1 for row in batch["audio"][batch.get("mask", slice(None))]]
            real = batch["samples"][batch.get("mask", slice(None))]
            # Noise may end in a sample that is 0.
            assert all(0 <= count - last < 5 for count, last in zip(real, sounding, strict=True))
            assert batch["samples"].dtype == np.int32 and (batch["samples"] > 0).all()
            assert [id(part) for part in pipeline.inputs(batch)] == [id(batch[key]) for key in ("audio", "samples")]
    subset = cut.subset((2, 0), "two")
    assert subset.valid([0, 3]).tolist() == [lengths[noise_clips.filenames.index(subset.filenames[i])] for i in (0, 3)]
    whole = dataclasses.replace(cut, length=int(lengths.min()))
    for clips in (whole, dataclasses.replace(cut, mask_padding=False), noise_clips):
        batch = next(pipeline.train_batches(clips, INDICES, 3, seed=0))
        assert set(batch) == {"audio", "label"} and len(pipeline.inputs(batch)) == 1


def test_a_clip_without_samples_is_one_of_silence(noise_clips):
    empty = dataclasses.replace(noise_clips, samples=np.zeros(12, int), fetch=lambda i: np.zeros(0, np.int16))
    assert not empty.read([0, 1]).any() and empty.valid([0, 1]).tolist() == [1, 1]
