"""Splits: who trains, who tests, and what is disjoint."""

import collections
import itertools
import random

import hypothesis
from hypothesis import strategies as st
import pytest

from esc_jax.data import folds
from esc_jax.data.rows import DataError

CLIPS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=60)


@hypothesis.given(
    clips=CLIPS, protocol=st.sampled_from(folds.PROTOCOLS), test_fold=st.integers(0, 6), drop=st.booleans()
)
def test_split(clips, protocol, test_fold, drop):
    of_clip, sources = [c[0] for c in clips], [f"r{c[1]}" for c in clips]
    have = sorted(set(of_clip))

    def recordings(fold):
        return {source for source, of in zip(sources, of_clip, strict=True) if of == fold}

    if protocol == "all":
        result = folds.split(of_clip, sources, protocol, test_fold, drop)
        assert result.train == tuple(range(len(clips))) and result.train_folds == tuple(have)
        assert not (result.validation or result.test or result.leaky)
        return
    if test_fold not in have or len(have) < (3 if protocol == "validation" else 2):
        with pytest.raises(DataError):
            folds.split(of_clip, sources, protocol, test_fold, drop)
        return
    if protocol == "validation" and drop:
        after = have[(have.index(test_fold) + 1) % len(have)]
        if recordings(after) <= recordings(test_fold):
            with pytest.raises(DataError, match="no clip to validate on"):
                folds.split(of_clip, sources, protocol, test_fold, drop)
            return
    result = folds.split(of_clip, sources, protocol, test_fold, drop)
    assert {of_clip[i] for i in result.test} == {test_fold}
    assert bool(result.validation) == (protocol == "validation")
    parts = [*result.train, *result.validation, *result.test, *result.dropped]
    assert sorted(parts) == list(range(len(clips)))  # every clip once
    # The parts of a recording's clips, those that were left out included.
    part = dict.fromkeys(result.train_folds, "train") | dict.fromkeys(result.validation_folds, "validation")
    of_source = collections.defaultdict(set)
    for source, fold in zip(sources, of_clip, strict=True):
        of_source[source].add(part.get(fold, "test"))
    assert set(result.leaky) == {source for source, parts in of_source.items() if len(parts) > 1}
    kept = [{sources[i] for i in indices} for indices in (result.train, result.validation, result.test)]
    assert not drop or not any(a & b for a, b in itertools.combinations(kept, 2))
    assert drop or not result.dropped


GROUPED = st.lists(st.tuples(st.integers(0, 12), st.sets(st.integers(0, 3), max_size=2)), min_size=1, max_size=50)


@hypothesis.given(clips=GROUPED, number=st.integers(2, 6), seed=st.integers(0, 99))
def test_assigned_folds(clips, number, seed):
    """Every group in one fold, whatever the order of the clips."""
    groups, targets = [f"g{group}" for group, _ in clips], [tuple(sorted(classes)) for _, classes in clips]
    result = folds.assign_folds(groups, targets, number)
    assert set(result) <= set(range(1, number + 1))
    of_group = dict(zip(groups, result, strict=True))
    assert [of_group[group] for group in groups] == result
    assert len(set(result)) == min(number, len(of_group))  # no fold is empty if there are enough groups
    order = random.Random(seed).sample(range(len(clips)), len(clips))
    shuffled = folds.assign_folds([groups[i] for i in order], [targets[i] for i in order], number)
    assert shuffled == [result[i] for i in order]


@hypothesis.given(targets=st.lists(st.integers(0, 4), min_size=1, max_size=80), number=st.integers(2, 6))
def test_classes_are_spread_evenly(targets, number):
    """The numbers of clips of a class differ by one at most between folds."""
    result = folds.assign_folds([f"r{i}" for i in range(len(targets))], [(t,) for t in targets], number)
    for target in set(targets):
        counts = collections.Counter(fold for fold, t in zip(result, targets, strict=True) if t == target)
        assert max(counts.values()) - min(counts[fold] for fold in range(1, number + 1)) <= 1


def test_groups_of_several_sizes_and_classes():
    """100 recordings of 1 to 8 clips: every fold has 18 to 22 % of the clips of each class."""
    rng = random.Random(0)
    clips = [(f"r{i}", (i % 3, 3) if i % 7 == 0 else (i % 3,)) for i in range(100) for _ in range(rng.randint(1, 8))]
    result = folds.assign_folds([group for group, _ in clips], [classes for _, classes in clips], 5)
    for target in range(4):
        counts = collections.Counter(
            fold for fold, (_, classes) in zip(result, clips, strict=True) if target in classes
        )
        assert all(abs(count / counts.total() - 0.2) < 0.02 for count in counts.values())


def test_assigned_folds_do_not_change():
    """Results are compared between machines and years."""
    names = [f"rain/{i:02d}" for i in range(10)]
    assert folds.assign_folds(names, [(i % 2,) for i in range(10)], 5) == [
        2, 1, 5, 4, 4, 5, 3, 2, 1, 3,
    ]  # fmt: skip


def test_a_missing_fold_is_refused_with_those_there_are():
    with pytest.raises(DataError, match=r"data.test_fold=5: this data set has folds 1, 2, 3 and 4"):
        folds.split([1, 2, 3, 4], list("abcd"), "holdout", 5)


def test_known_leaks_of_esc50(shared):
    from esc_jax.data.layouts.esc50 import Esc50Layout

    rows = Esc50Layout(shared / "esc50").rows
    leaky = set()
    for fold in (1, 2, 3, 4):
        leaky |= set(folds.split([r.fold for r in rows], [r.src_file for r in rows], "holdout", fold).leaky)
    # All four are known; the partner clip of some may be in the fold that is not here.
    assert leaky <= {"131943", "134049", "209698", "234879"} and leaky


@hypothesis.given(CLIPS, st.integers(2, 6))
def test_calibration_clips_are_whole_recordings_of_the_training_folds(clips, parts):
    of_clip, sources = [c[0] for c in clips], [f"r{c[1]}" for c in clips]
    targets = [(c[1] % 3,) for c in clips]
    split = folds.split(of_clip, sources, "all", 0)
    try:
        result = folds.hold_out(split, sources, targets, 1 / parts)
    except DataError as error:
        assert len(set(sources)) < parts and "cannot be held out" in str(error)
        return
    assert sorted(result.train + result.calibration) == list(split.train)
    assert not {sources[i] for i in result.train} & {sources[i] for i in result.calibration}
    if len(set(sources)) == len(sources):  # single clips can be divided evenly
        assert abs(len(result.calibration) - len(clips) / parts) <= 3  # one for each class


def test_a_share_of_every_class_is_held_out():
    targets = [(i % 4,) for i in range(200)]
    split = folds.split([1] * 200, [str(i) for i in range(200)], "all", 0)
    result = folds.hold_out(split, [str(i) for i in range(200)], targets, 0.1)
    counts = collections.Counter(targets[i] for i in result.calibration)
    assert counts == {(c,): 5 for c in range(4)}
    assert "calibration 20 clips" in result.report() and "test none" in result.report()
