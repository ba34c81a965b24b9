"""Statistics against scipy, closed forms, and enumeration of everything that can be drawn."""

import itertools
import math

import numpy as np
import pytest
import scipy.special
import scipy.stats

from esc_jax.evaluation import calibration, confidence


def enumerated(values, counts, tail=0.025):
    """Exact percentile interval: every one of the G^G draws of G recordings is equally likely."""
    ratios = sorted(
        sum(values[i] for i in draw) / sum(counts[i] for i in draw)
        for draw in itertools.product(range(len(values)), repeat=len(values))
    )
    share = np.arange(1, len(ratios) + 1) / len(ratios)
    low, high = (ratios[int(np.searchsorted(share, q))] for q in (tail, 1 - tail))
    return low, high


def test_accuracy_interval_is_that_of_every_possible_draw():
    # Four recordings with 3, 1, 2 and 2 clips. No step of the exact distribution lies within 0.005 of the two
    # quantiles, four standard errors of a share of 10,000 draws: the sampled quantiles must be the exact atoms.
    recordings = ["a", "a", "a", "b", "c", "c", "d", "d"]
    correct = [1, 1, 0, 0, 1, 0, 1, 1]
    found = confidence.accuracy_interval(correct, recordings)
    low, high = enumerated([2, 0, 1, 2], [3, 1, 2, 2])
    assert (found.value, found.clusters) == (5 / 8, 4)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_difference_interval_is_that_of_every_possible_draw():
    recordings = ["a", "a", "b", "c", "c", "d"]
    first, second = [1, 1, 1, 0, 1, 0], [0, 1, 0, 1, 1, 0]
    found = confidence.difference_interval(first, second, recordings)
    low, high = enumerated([1, 1, -1, 0], [2, 1, 2, 1])
    assert found.value == pytest.approx(1 / 6)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)


def test_one_clip_per_recording_is_the_ordinary_bootstrap():
    correct = np.random.default_rng(1).random(200) < 0.8
    found = confidence.accuracy_interval(correct, range(200))
    theirs = scipy.stats.bootstrap(
        (correct,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    # Both move in steps of a clip, 0.005; the Monte Carlo error of a quantile is 0.0008.
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high), abs=0.0051)


def test_draws_of_kinds_are_draws_of_recordings():
    rng = np.random.default_rng(3)
    recordings = rng.integers(0, 40, 100)
    correct = rng.random(100) < 0.7
    groups = [correct[recordings == r] for r in np.unique(recordings)]
    ratios = []
    for _ in range(4000):
        drawn = [groups[i] for i in rng.integers(len(groups), size=len(groups))]
        ratios.append(np.concatenate(drawn).mean())
    found = confidence.accuracy_interval(correct, recordings)
    # The standard deviation is 0.05: a quantile of 4,000 draws has a standard error of 0.0021, tested at four.
    assert (found.low, found.high) == pytest.approx(np.quantile(ratios, (0.025, 0.975)), abs=0.0085)


def test_copies_of_a_clip_tell_nothing_new():
    correct = np.random.default_rng(4).random(60) < 0.6
    once = confidence.accuracy_interval(correct, range(60))
    copied = confidence.accuracy_interval(np.repeat(correct, 5), np.repeat(np.arange(60), 5))
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high), abs=1e-12)
    independent = confidence.accuracy_interval(np.repeat(correct, 5), range(300))
    assert independent.high - independent.low < 0.6 * (once.high - once.low)  # 1/√5 = 0.45 of it


def test_the_interval_covers_the_truth_where_clips_depend_on_each_other():
    rng = np.random.default_rng(5)
    inside = 0
    for _ in range(300):
        difficulty = rng.beta(2, 1, 80)  # of each recording; the mean is 2/3
        recordings = np.repeat(np.arange(80), 3)
        found = confidence.accuracy_interval(rng.random(240) < difficulty[recordings], recordings, draws=1000)
        inside += found.low <= 2 / 3 <= found.high
    # 95 % of 300 is 285 with a standard error of 3.8; the percentile interval is a little short of it with 80 groups.
    assert 270 <= inside <= 297


def test_nothing_wrong_is_not_certainty():
    all_right = confidence.accuracy_interval([True] * 30, np.arange(30) // 2)
    theirs = scipy.stats.binomtest(15, 15).proportion_ci(method="exact")
    assert (all_right.low, all_right.high) == pytest.approx((theirs.low, 1.0), abs=1e-9)
    all_wrong = confidence.accuracy_interval([False] * 30, np.arange(30) // 2)
    assert (all_wrong.low, all_wrong.high) == pytest.approx((0.0, 1 - theirs.low), abs=1e-9)
    single = confidence.accuracy_interval([True, False], ["a", "a"])
    assert (single.value, single.low, single.high) == (0.5, 0.0, 1.0)


def test_intervals_repeat_and_follow_seed_and_level():
    rng = np.random.default_rng(6)
    correct, recordings = rng.random(150) < 0.7, rng.integers(0, 90, 150)
    found = confidence.accuracy_interval(correct, recordings)
    assert found == confidence.accuracy_interval(correct, recordings)
    assert found != confidence.accuracy_interval(correct, recordings, seed=1, draws=999)
    narrow = confidence.accuracy_interval(correct, recordings, level=0.5)
    assert found.low < narrow.low < found.value < narrow.high < found.high


def test_pairing_cancels_what_is_hard_for_both():
    rng = np.random.default_rng(7)
    hard = rng.random(400) < 0.5
    first = ~hard | (rng.random(400) < 0.05)
    second = ~hard
    found = confidence.difference_interval(first, second, range(400))
    unpaired = math.hypot(*(x.std() / math.sqrt(400) for x in (first, second)))
    assert found.high - found.low < 0.5 * 2 * 1.96 * unpaired
    turned = confidence.difference_interval(second, first, range(400))
    # Another order of kinds in the same draws: equal to Monte Carlo error, 0.0005 at this width.
    assert (turned.value, turned.low, turned.high) == pytest.approx((-found.value, -found.high, -found.low), abs=0.003)


@pytest.mark.parametrize(
    ("first", "second", "low", "value", "high"),
    [
        ([1, 0, 1, 1], [1, 0, 1, 1], -(1 - 0.025**0.25), 0, 1 - 0.025**0.25),  # as for none of four clips wrong
        ([1, 1, 1, 1], [0, 0, 0, 0], 2 * 0.025**0.25 - 1, 1, 1),
        ([1], [1], -1, 0, 1),
    ],
)
def test_no_difference_among_a_few_recordings_does_not_say_that_there_is_none(first, second, low, value, high):
    found = confidence.difference_interval(first, second, range(len(first)))
    assert (found.low, found.value, found.high) == pytest.approx((low, value, high))


@pytest.mark.parametrize(
    "call",
    [
        lambda: confidence.accuracy_interval([], []),
        lambda: confidence.accuracy_interval([True], ["a", "b"]),
        lambda: confidence.difference_interval([1, 0], [1], ["a", "b"]),
        lambda: confidence.mcnemar(-1, 3),
        lambda: calibration.reliability([], []),
        lambda: calibration.reliability([0.5], [True, False]),
        lambda: calibration.fit_temperature(np.zeros((2, 3)), [0]),
    ],
)
def test_what_does_not_fit_together_is_refused(call):
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


def test_reliability_is_a_loop_over_clips():
    rng = np.random.default_rng(8)
    confidence = np.concatenate([rng.random(300), [0.0, 0.1, 0.5, 1.0]])
    correct = rng.random(304) < confidence
    found = calibration.reliability(confidence, correct, bins=10)
    bins = {}
    for c, right in zip(confidence, correct, strict=True):
        bins.setdefault(max(0, math.ceil(c * 10) - 1), []).append((c, right))
    ece = sum(
        len(rows) / 304 * abs(np.mean([r for _, r in rows]) - np.mean([c for c, _ in rows])) for rows in bins.values()
    )
    assert found.count.tolist() == [len(bins.get(b, ())) for b in range(10)]
    assert found.ece == pytest.approx(ece, abs=1e-12)


def test_ece_of_what_is_known():
    assert calibration.reliability([1.0] * 4, [True, True, False, False]).ece == 0.5
    assert calibration.reliability([0.75] * 4, [True, True, True, False]).ece == 0.0
    # Two bins, each off by 0.1 in another direction: they do not cancel.
    mixed = calibration.reliability([0.5] * 5 + [0.9] * 5, [1, 1, 1, 0, 0] + [1, 1, 1, 1, 0], bins=2)
    assert mixed.ece == pytest.approx(0.1)
    half = calibration.reliability([0.0, 0.5, 0.51], [0, 1, 1], bins=2)  # (0, ½] and (½, 1]; 0 is in the first
    assert half.count.tolist() == [2, 1]
    empty = calibration.reliability([0.9], [True], bins=2)
    assert np.isnan(empty.accuracy[0]) and empty.ece == pytest.approx(0.1)


def test_nll_and_temperature_follow_their_definitions():
    rng = np.random.default_rng(9)
    logits, labels = rng.normal(size=(40, 5)) * 30, rng.integers(0, 5, 40)
    expected = np.mean([scipy.special.logsumexp(row / 3) - row[k] / 3 for row, k in zip(logits, labels, strict=True)])
    assert calibration.nll(logits, labels, 3.0) == pytest.approx(expected, rel=1e-12)
    tempered = calibration.tempered(logits, 3.0)
    np.testing.assert_allclose(tempered, scipy.special.softmax(logits / 3, axis=1), rtol=1e-12)
    assert (tempered.argmax(axis=1) == logits.argmax(axis=1)).all()
    assert np.isfinite(calibration.log_probabilities(np.array([0.0, 1.0]))).all()


def test_temperature_in_closed_form():
    # Two classes with logits (2, 0), 3 of 4 right: the NLL is smallest where sigmoid(2 / T) = 3/4, T = 2 / ln 3.
    logits, labels = np.array([[2.0, 0.0]] * 4), [0, 0, 0, 1]
    assert calibration.fit_temperature(logits, labels) == pytest.approx(2 / math.log(3), rel=1e-5)
    shares = scipy.special.softmax(logits, axis=1)  # its logarithm is the logits, up to a constant in each row
    found = calibration.fit_temperature(calibration.log_probabilities(shares), labels)
    assert found == pytest.approx(2 / math.log(3), rel=1e-5)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_temperature_that_made_the_labels_is_found(true):
    rng = np.random.default_rng(10)
    logits = rng.normal(size=(20_000, 4)) * 2
    shares = scipy.special.softmax(logits / true, axis=1)
    labels = (rng.random((20_000, 1)) > shares.cumsum(axis=1)).sum(axis=1).clip(max=3)
    found = calibration.fit_temperature(logits, labels)
    assert found == pytest.approx(true, rel=0.04)  # the standard error is near 1 % at 20,000 clips
    best = calibration.nll(logits, labels, found)
    assert best <= min(calibration.nll(logits, labels, found * f) for f in (0.5, 0.99, 1.01, 2))


def test_temperature_where_everything_is_right():
    found = calibration.fit_temperature(np.eye(3), [0, 1, 2])
    assert 0.01 <= found < 0.05 and calibration.nll(np.eye(3), [0, 1, 2], found) < 1e-9
