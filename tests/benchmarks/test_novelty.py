"""Detectors of unknown classes on sounds that are easy to tell apart."""

import numpy as np


def test_classes_are_left_out_in_turn(load_benchmark):
    draw_classes = load_benchmark("novelty").draw_classes
    draws = list(draw_classes(45, 2, 50))
    assert len(draws) == 20 and all(len(set(draw)) == 45 for draw in draws)
    foreign = [set(range(50)) - set(draw) for draw in draws]
    assert set.union(*foreign[:10]) == set(range(50)) and sum(map(len, foreign[:10])) == 50
    draws = list(draw_classes(4, 1, 50))
    assert len(draws) == 12 and len({target for draw in draws for target in draw}) == 48


def test_detectors_of_unknown_classes(load_benchmark):
    """Of six classes that are far apart, three are known."""
    module = load_benchmark("novelty")
    rng = np.random.default_rng(0)
    labels, folds = np.arange(240) % 6, np.arange(240) // 60 + 1
    x = (6 * np.eye(80)[labels] + rng.normal(size=(240, 80))).astype(np.float32)
    weights = rng.normal(size=(80, 20)).astype(np.float32)
    data = module.Data(x, labels, folds, 6, lambda embeddings: embeddings @ weights)
    outcome = module.probe_draw(data, [0, 2, 4], [1, 2, 3], 4)
    assert outcome.keys() == module.DETECTORS.keys()
    for name in ("Mahalanobis", "3 nearest neighbours", "class means"):
        assert outcome[name]["auroc"] > 0.95, name
    assert outcome["class means"]["marked"] > 90 > 20 > outcome["class means"]["false_marks"]
    (row,) = (row for row in module.summarize([outcome, outcome], classes=3) if row["detector"] == "class means")
    assert row["draws"] == 2 and row["auroc"] == f"{outcome['class means']['auroc']:.3f}"
    known, foreign = np.array([3.0, 2.0, 1.0, 4.0]), np.array([2.5, 0.0])
    measures = module.measure(known, foreign, 1.5)
    assert measures["auroc"] == 6 / 8 and measures["marked"] == 50 and measures["false_marks"] == 25
