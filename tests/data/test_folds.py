"""Splits: who trains, who tests, and what is disjoint."""

import hypothesis
from hypothesis import strategies as st
import pytest

from esc_jax.data import folds
from esc_jax.data.source import DataError

CLIPS = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 9)), min_size=1, max_size=60)


@hypothesis.given(
    clips=CLIPS, protocol=st.sampled_from(folds.PROTOCOLS), test_fold=st.integers(0, 6), drop=st.booleans()
)
def test_split(clips, protocol, test_fold, drop):
    of_clip, sources = [c[0] for c in clips], [f"r{c[1]}" for c in clips]
    have = sorted(set(of_clip))
    if test_fold not in have or len(have) < (3 if protocol == "validation" else 2):
        with pytest.raises(DataError):
            folds.split(of_clip, sources, protocol, test_fold, drop)
        return
    found = folds.split(of_clip, sources, protocol, test_fold, drop)
    assert {of_clip[i] for i in found.test} == {test_fold}
    assert bool(found.validation) == (protocol == "validation")
    parts = [*found.train, *found.validation, *found.test, *found.dropped]
    assert sorted(parts) == list(range(len(clips)))  # every clip once
    held_out = {sources[i] for i in (*found.test, *found.validation)}
    on_both_sides = {s for i, s in enumerate(sources) if i in (*found.train, *found.dropped) and s in held_out}
    assert set(found.leaky) == on_both_sides
    assert not drop or not {sources[i] for i in found.train} & held_out
    assert drop or not found.dropped


def test_a_missing_fold_is_refused_with_those_there_are():
    with pytest.raises(DataError, match=r"data.test_fold=5: this data set has folds 1, 2, 3 and 4"):
        folds.split([1, 2, 3, 4], list("abcd"), "holdout", 5)


def test_known_leaks_of_esc50(shared):
    from esc_jax.data.source import Source

    rows = Source(shared / "esc50").rows
    leaky = set()
    for fold in (1, 2, 3, 4):
        leaky |= set(folds.split([r.fold for r in rows], [r.src_file for r in rows], "holdout", fold).leaky)
    # All four are known; the partner clip of some may be in the fold that is not here.
    assert leaky <= {"131943", "134049", "209698", "234879"} and leaky
