"""Distances to class means against loops over clips, thresholds as quantiles, and the form in checkpoints."""

import json

import numpy as np
import pytest
from scipy import special

from esc_jax.evaluation import novelty
from esc_jax.evaluation.novelty import Novelty
from esc_jax.models import heads
from esc_jax.pretrained.audioset import AudioSetHead

RNG = np.random.default_rng(0)
# Three classes in six dimensions: each is far from the others, and its clips are close to each other.
CENTERS = 4 * np.eye(6, dtype=np.float32)[:3]
LABELS = np.arange(60) % 3
X = (CENTERS[LABELS] + RNG.normal(0, 0.7, (60, 6))).astype(np.float32)
MEMBERS = novelty.members(LABELS, 3)


def mlp_head(classes=7):
    rng = np.random.default_rng(1)
    shapes = {"hidden": {"kernel": (6, 5), "bias": (5,)}, "classifier": {"kernel": (5, classes), "bias": (classes,)}}
    params = {
        layer: {name: rng.normal(size=shape).astype(np.float16) for name, shape in arrays.items()}
        for layer, arrays in shapes.items()
    }
    return AudioSetHead({"name": "mlp", "width": 5, "classes": classes, "dropout": 0.2}, params)


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def features(x, center, head=None):
    parts = [(x - center) / np.linalg.norm(x - center)]
    if head:
        tags = np.sqrt(special.expit(head(x[None].astype(np.float32))[0].astype(np.float64)))
        parts.append(tags / np.linalg.norm(tags))
    return np.concatenate(parts)


@pytest.mark.parametrize("head", [None, mlp_head()])
def test_the_score_is_the_cosine_to_the_nearest_class(head):
    detector = Novelty.fit(X, MEMBERS, head)
    center = np.mean([X[LABELS == k].mean(axis=0) for k in range(3)], axis=0, dtype=np.float64)
    np.testing.assert_allclose(detector.center, center, atol=1e-6)
    of_clips = np.stack([features(x.astype(np.float64), center, head) for x in X])
    means = [of_clips[LABELS == k].mean(axis=0) for k in range(3)]
    queries = RNG.normal(0, 3, (20, 6)).astype(np.float32)
    expected = [max(cosine(features(q.astype(np.float64), center, head), mean) for mean in means) for q in queries]
    np.testing.assert_allclose(detector.score(queries), expected, atol=1e-5)
    assert detector.score(X).max() <= 1 + 1e-6


def test_the_published_head_is_computed_as_the_module_does():
    head = mlp_head()
    variables = {"params": {k: {n: np.float32(a) for n, a in v.items()} for k, v in head.params.items()}}
    np.testing.assert_allclose(head(X), heads.Mlp(7, 5).apply(variables, X), rtol=1e-6)


def test_a_clip_with_several_classes_counts_for_each_of_them():
    members = MEMBERS.copy()
    members[0] = True
    detector = Novelty.fit(X, members)
    for k in range(3):
        expected = np.mean([features(x, detector.center) for x in X[members[:, k]]], axis=0)
        np.testing.assert_allclose(detector.means[k], expected / np.linalg.norm(expected), atol=1e-5)


def test_classes_and_clips_that_do_not_count():
    members = np.pad(MEMBERS, ((0, 0), (0, 2)))  # two classes without clips
    members[:6] = False  # clips without a class
    one, other = Novelty.fit(X, members), Novelty.fit(X[6:], MEMBERS[6:])
    np.testing.assert_allclose(one.means, other.means, atol=1e-6)
    with pytest.raises(ValueError, match="no clip has a class"):
        Novelty.fit(X, np.zeros((60, 3), bool))
    np.testing.assert_array_equal(novelty.members(np.array([1, -1, 0]), 2), [[0, 1], [0, 0], [1, 0]])
    np.testing.assert_array_equal(novelty.members(MEMBERS, 3), MEMBERS)


def test_one_class_and_an_embedding_of_zeros():
    detector = Novelty.fit(X[LABELS == 0], MEMBERS[LABELS == 0])
    assert len(detector.means) == 1 and not detector.center.any()
    assert detector.score(X[LABELS == 0]).min() > 0.7 > 0.6 > detector.score(X[LABELS == 1]).max()
    assert detector.score(np.zeros((1, 6), np.float32)) == 0


def test_the_threshold_is_a_quantile_of_the_scores():
    scores = RNG.random(1000)
    detector = Novelty.fit(X, MEMBERS).with_threshold(scores, "clips")
    assert (scores < detector.threshold).mean() == pytest.approx(novelty.FALSE_MARKS, abs=1e-3)
    assert detector.threshold == np.quantile(scores, novelty.FALSE_MARKS) and detector.fitted_on == "clips"
    assert not Novelty.fit(X, MEMBERS).unfamiliar(-X).any()  # without a threshold
    np.testing.assert_array_equal(detector.unfamiliar(-X), detector.score(-X) < detector.threshold)


def test_cross_fitting_scores_each_fold_by_the_others():
    folds = np.arange(60) // 20
    detector = novelty.cross_fitted(X, MEMBERS, folds, "three folds")
    scores = np.concatenate([Novelty.fit(X[folds != f], MEMBERS[folds != f]).score(X[folds == f]) for f in range(3)])
    assert detector.threshold == np.quantile(scores, novelty.FALSE_MARKS)
    np.testing.assert_array_equal(detector.means, Novelty.fit(X, MEMBERS).means)
    # A class of one fold has no class mean when its clips are scored.
    alone = np.where(LABELS == 2, 0, folds)
    scores = [Novelty.fit(X[alone != f], MEMBERS[alone != f]).score(X[(alone == f) & (LABELS < 2)]) for f in range(3)]
    assert novelty.cross_fitted(X, MEMBERS, alone, "").threshold == np.quantile(
        np.concatenate(scores), novelty.FALSE_MARKS
    )
    assert novelty.cross_fitted(X, MEMBERS, np.zeros(60), "").threshold == -np.inf


def test_a_detector_is_the_same_after_a_checkpoint():
    for head in (None, mlp_head()):
        detector = Novelty.fit(X, MEMBERS, head).with_threshold(np.array([0.5]), "clips")
        again = Novelty.read(json.loads(json.dumps(detector.to_dict())), detector.arrays())
        np.testing.assert_array_equal(again.score(X), detector.score(X))
        assert (again.threshold, again.fitted_on) == (0.5, "clips")


def test_sounds_of_other_classes_are_marked():
    def sounds(offset, seed):
        noise = np.random.default_rng(seed).normal(0, 0.5, (600, 6))
        return (4 * np.eye(6)[offset + np.arange(600) % 3] + noise).astype(np.float32)

    known = novelty.members(np.arange(600) % 3, 3)
    detector = novelty.cross_fitted(sounds(0, 1), known, np.arange(600) // 100, "clips")
    assert 0.01 < detector.unfamiliar(sounds(0, 2)).mean() < 0.05
    assert detector.unfamiliar(sounds(3, 3)).all()
