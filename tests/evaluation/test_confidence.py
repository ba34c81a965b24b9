"""Confidence intervals and paired tests against scipy, closed forms, and enumeration of all draws."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats

from esc_jax.evaluation import confidence
from esc_jax.tasks import registry as tasks


def enumerate_interval(values, counts, tail=0.025):
    """Exact percentile interval: every one of the G^G draws of G recordings is equally likely."""
    ratios = sorted(
        sum(values[i] for i in draw) / sum(counts[i] for i in draw)
        for draw in itertools.product(range(len(values)), repeat=len(values))
    )
    share = np.arange(1, len(ratios) + 1) / len(ratios)
    low, high = (ratios[int(np.searchsorted(share, q))] for q in (tail, 1 - tail))
    return low, high


def test_the_interval_of_a_mean_is_that_of_wilson_for_independent_clips():
    """With one clip per recording; of 5,000 recordings, the quantile of t is that of the normal distribution."""
    for correct in (4000, 4950, 30):
        interval = confidence.mean_interval(np.arange(5000) < correct, range(5000))
        expected = scipy.stats.binomtest(correct, 5000).proportion_ci(method="wilson")
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=2e-3)
        assert (interval.value, interval.clusters) == (correct / 5000, 5000)


def test_the_interval_of_a_mean_solves_the_equation_of_wilson():
    """Its ends are the values p₀ with |p − p₀| = t √(p₀ (1 − p₀) / n), with n from a loop over recordings."""
    recordings = ["a", "a", "a", "b", "c", "c", "d", "d"]
    correct = [1, 1, 0, 0, 1, 0, 1, 1]
    interval = confidence.mean_interval(correct, recordings)
    mean, variance = 5 / 8, 0.0
    for name in "abcd":
        inside = [c for c, r in zip(correct, recordings, strict=True) if r == name]
        variance += (sum(inside) - mean * len(inside)) ** 2
    number = mean * (1 - mean) / (4 / 3 * variance / 64)
    number = min(max(number, 64 / (9 + 1 + 4 + 4)), 8)
    t = scipy.stats.t.ppf(0.975, 3)
    for end in (interval.low, interval.high):
        assert abs(mean - end) == pytest.approx(t * math.sqrt(end * (1 - end) / number), rel=1e-9)
    assert (interval.value, interval.clusters) == (5 / 8, 4)


def test_the_interval_of_a_difference_is_that_of_all_possible_draws():
    recordings = ["a", "a", "b", "c", "c", "d"]
    first, second = [1, 1, 1, 0, 1, 0], [0, 1, 0, 1, 1, 0]
    interval = confidence.difference_interval(first, second, recordings)
    low, high = enumerate_interval([1, 1, -1, 0], [2, 1, 2, 1])
    assert interval.value == pytest.approx(1 / 6)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=1e-12)


def test_the_difference_of_one_clip_per_recording_has_the_ordinary_bootstrap():
    correct = np.random.default_rng(1).random(200) < 0.8
    interval = confidence.difference_interval(correct, np.zeros(200), range(200))
    expected = scipy.stats.bootstrap(
        (correct,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    # Both move in steps of a clip, 0.005; the Monte Carlo error of a quantile is 0.0008.
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.0051)


def test_draws_of_kinds_equal_draws_of_recordings():
    rng = np.random.default_rng(3)
    recordings = rng.integers(0, 40, 100)
    correct = rng.random(100) < 0.7
    groups = [correct[recordings == r] for r in np.unique(recordings)]
    ratios = []
    for _ in range(4000):
        drawn = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        ratios.append(np.concatenate(drawn).mean())
    interval = confidence.difference_interval(correct, np.zeros(100), recordings)
    # The standard deviation is 0.05: a quantile of 4,000 draws has a standard error of 0.0021, tested at four.
    assert (interval.low, interval.high) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.0085)


def test_copies_of_a_clip_do_not_narrow_the_interval():
    correct = np.random.default_rng(4).random(60) < 0.6
    once = confidence.mean_interval(correct, range(60))
    copied = confidence.mean_interval(np.repeat(correct, 5), np.repeat(np.arange(60), 5))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-12)
    independent = confidence.mean_interval(np.repeat(correct, 5), range(300))
    assert independent.high - independent.low < 0.6 * (once.high - once.low)  # 1/√5 = 0.45 of it


@pytest.mark.parametrize(("groups", "mean"), [(30, 0.9), (250, 0.95), (100, 0.99), (80, 2 / 3)])
def test_the_interval_covers_the_true_mean_of_dependent_clips(groups, mean):
    """1,500 samples; 95 % has a standard error of 0.6 %, and up to 98 % of few discrete values are covered."""
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(1500):
        difficulty = rng.beta(4 * mean, 4 * (1 - mean), groups)  # of each recording; the correlation of clips is 0.2
        recordings = np.repeat(np.arange(groups), rng.integers(1, 5, groups))
        interval = confidence.mean_interval(rng.random(len(recordings)) < difficulty[recordings], recordings)
        inside += interval.low <= mean <= interval.high
    assert 0.93 <= inside / 1500 <= 0.98


def test_the_interval_of_a_perfect_score_has_a_width():
    """As of 15 independent clips: n / (n + t²)."""
    all_right = confidence.mean_interval([True] * 30, np.arange(30) // 2)
    low = 15 / (15 + scipy.stats.t.ppf(0.975, 14) ** 2)
    assert (all_right.low, all_right.high) == pytest.approx((low, 1.0), abs=1e-9)
    all_wrong = confidence.mean_interval([False] * 30, np.arange(30) // 2)
    assert (all_wrong.low, all_wrong.high) == pytest.approx((0.0, 1 - low), abs=1e-9)
    single = confidence.mean_interval([True, False], ["a", "a"])
    assert (single.value, single.low, single.high) == (0.5, 0.0, 1.0)


def test_intervals_are_repeatable_and_depend_on_seed_and_level():
    rng = np.random.default_rng(6)
    correct, recordings = rng.random(150) < 0.7, rng.integers(0, 90, 150)
    other = np.zeros(150)
    interval = confidence.difference_interval(correct, other, recordings)
    assert interval == confidence.difference_interval(correct, other, recordings)
    assert interval != confidence.difference_interval(correct, other, recordings, seed=1, draws=999)
    narrow = confidence.difference_interval(correct, other, recordings, level=0.5)
    assert interval.low < narrow.low < interval.value < narrow.high < interval.high
    interval, narrow = (confidence.mean_interval(correct, recordings, level=level) for level in (0.95, 0.5))
    assert interval.low < narrow.low < interval.value < narrow.high < interval.high


def test_pairing_cancels_the_difficulty_of_clips():
    rng = np.random.default_rng(7)
    hard = rng.random(400) < 0.5
    first = ~hard | (rng.random(400) < 0.05)
    second = ~hard
    interval = confidence.difference_interval(first, second, range(400))
    unpaired = math.hypot(*(x.std() / math.sqrt(400) for x in (first, second)))
    assert interval.high - interval.low < 0.5 * 2 * 1.96 * unpaired
    reverse = confidence.difference_interval(second, first, range(400))
    # Another order of kinds in the same draws: equal to Monte Carlo error, 0.0005 at this width.
    assert (reverse.value, reverse.low, reverse.high) == pytest.approx(
        (-interval.value, -interval.high, -interval.low), abs=0.003
    )


@pytest.mark.parametrize(
    ("first", "second", "low", "value", "high"),
    [
        ([1, 0, 1, 1], [1, 0, 1, 1], -(1 - 0.025**0.25), 0, 1 - 0.025**0.25),  # as for none of four clips wrong
        ([1, 1, 1, 1], [0, 0, 0, 0], 2 * 0.025**0.25 - 1, 1, 1),
        ([1], [1], -1, 0, 1),
    ],
)
def test_the_interval_of_equal_differences_has_a_width(first, second, low, value, high):
    interval = confidence.difference_interval(first, second, range(len(first)))
    assert (interval.low, interval.value, interval.high) == pytest.approx((low, value, high))


@pytest.mark.parametrize(
    "call",
    [
        lambda: confidence.mean_interval([], []),
        lambda: confidence.mean_interval([True], ["a", "b"]),
        lambda: confidence.difference_interval([1, 0], [1], ["a", "b"]),
        lambda: confidence.mcnemar(-1, 3),
    ],
)
def test_arguments_that_do_not_match_are_an_error(call):
    with pytest.raises(ValueError):
        call()


def test_mcnemar_is_the_binomial_test():
    for first, second in itertools.product(range(13), repeat=2):
        n = first + second
        expected = scipy.stats.binomtest(first, n).pvalue if n else 1.0
        assert confidence.mcnemar(first, second) == pytest.approx(expected, rel=1e-12), (first, second)
    expected = scipy.stats.binomtest(900, 1900).pvalue
    assert confidence.mcnemar(900, 1000) == pytest.approx(expected, rel=1e-9)
    assert 0 < confidence.mcnemar(0, 1000) == pytest.approx(2.0**-999, rel=1e-12)


def test_mcnemar_is_the_share_of_sign_flips_that_are_as_extreme():
    n, first = 7, 6
    flips = [sum(signs) for signs in itertools.product((0, 1), repeat=n)]
    extreme = sum(abs(k - n / 2) >= abs(first - n / 2) for k in flips)
    assert confidence.mcnemar(first, n - first) == extreme / 2**n == 0.125


def draw_rankings(rng, count, classes=8):
    """Labels and scores of clips; a tenth of them has each class."""
    labels = rng.random((count, classes)) < 0.1
    return labels, 1.5 * labels + rng.standard_normal(labels.shape)


def test_the_interval_of_a_ranking_covers_its_expectation():
    """That over test sets of the same size, where classes have few positives."""
    task = tasks.get("multi_label")
    expected = np.mean([task.score(*draw_rankings(np.random.default_rng(1000 + i), 60)) for i in range(400)])
    covered = 0
    for seed in range(100):
        test = draw_rankings(np.random.default_rng(seed), 60)
        interval = confidence.score_interval(task, [test], [range(60)], draws=200)
        assert interval.low < interval.value < interval.high
        covered += interval.low <= expected <= interval.high
    assert covered >= 88  # of 95; four standard errors are 8.7


def test_an_interval_contains_the_score_of_rare_classes():
    """With one positive of each class, most draws that have it rank it higher than the whole set does."""
    rng = np.random.default_rng(0)
    labels, scores = np.eye(12, dtype=bool), rng.random((12, 12))
    interval = confidence.score_interval(tasks.get("multi_label"), [(labels, scores)], [range(12)])
    assert interval.low < interval.value < interval.high


def test_a_paired_difference_of_rankings():
    task, rng = tasks.get("multi_label"), np.random.default_rng(0)
    labels, scores = draw_rankings(rng, 200)
    runs = [[(labels, scores + 0.1 * rng.standard_normal(labels.shape))] for _ in range(2)]
    recordings = [np.arange(200) // 2]
    first, second = (confidence.score_interval(task, run, recordings) for run in runs)
    difference = confidence.score_difference_interval(task, *runs, recordings)
    assert difference.value == pytest.approx(first.value - second.value) and difference.clusters == 100
    assert difference.low < difference.value < difference.high
    assert difference.high - difference.low < 0.5 * (first.high - first.low)  # the difficulty of clips cancels
    same = confidence.score_difference_interval(task, runs[0], runs[0], recordings)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_a_weighted_mean_is_that_of_repeated_clips():
    """Clips that are repeated within their recordings have the same sums; the interval depends on these only."""
    rng = np.random.default_rng(0)
    correct, recordings, weights = rng.random(60) < 0.6, np.arange(60) // 3, rng.integers(1, 4, 60)
    weighted = confidence.mean_interval(correct, recordings, weights=weights * 60 / weights.sum())
    repeated = confidence.mean_interval(np.repeat(correct, weights), np.repeat(recordings, weights))
    np.testing.assert_allclose(
        (weighted.value, weighted.low, weighted.high), (repeated.value, repeated.low, repeated.high)
    )
