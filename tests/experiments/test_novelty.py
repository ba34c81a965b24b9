"""Sounds of classes that were left out are marked: by probes, and by the clips that a trained network leaves for it."""

import csv
import dataclasses

import numpy as np
import optax
import pytest

from esc_jax.data import synthetic
from esc_jax.data.folds import Split
from esc_jax.evaluation import novelty
from esc_jax.evaluation.novelty import Novelty
from esc_jax.experiments import calibrate
from esc_jax.inference.classifier import SoundClassifier
from esc_jax.tasks import registry as tasks
from esc_jax.training import checkpoint, state
from esc_jax.training.restore import restore
from tests.evaluation.test_novelty import mlp_head

TINY = "--config=tests/configs/tiny.py"
TASK = tasks.get("single_label")


def known_clips(table, out, known):
    """Writes a csv of the clips of known classes, and returns the rows of all clips."""
    with open(table, newline="") as file:
        rows = [{**row, "filename": str(table.parents[1] / "audio" / row["filename"])} for row in csv.DictReader(file)]
    with open(out, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("filename", "category", "fold"))
        writer.writerows((row["filename"], row["category"], row["fold"]) for row in rows if row["category"] in known)
    return rows


def marked(classifier, rows):
    """Share of the clips that are marked as unfamiliar."""
    return np.mean([bool(classifier.timeline(row["filename"]).unfamiliar.all()) for row in rows])


@pytest.mark.slow
def test_a_probe_marks_sounds_of_other_classes(run, tmp_path):
    """Of a random encoder, which knows little of sounds: noises are known, tones are not."""
    known, foreign = ("hiss", "crackle"), ("tone", "harmonics", "vibrato", "tremolo")
    folder = synthetic.generate(tmp_path / "sounds", clips_per_fold=4)
    rows = known_clips(folder / "meta/esc50.csv", tmp_path / "known.csv", known)
    data = ("--config.data.name=csv", f"--config.data.dir={tmp_path / 'known.csv'}", "--config.data.clip_s=5")
    run("main", TINY, "--config.method=probe", *data, f"--workdir={tmp_path / 'run'}")
    classifier = SoundClassifier(restore(tmp_path / "run"))
    assert classifier.novelty.fitted_on == "the training folds, each held out once"
    assert classifier.novelty.head is None and np.isfinite(classifier.novelty.threshold)
    parts = [[row for row in rows if row["fold"] == "5" and row["category"] in names] for names in (known, foreign)]
    assert marked(classifier, parts[0]) < marked(classifier, parts[1])


@pytest.mark.extended
def test_a_probe_of_four_classes_of_esc50(run, shared, tmp_path):
    known = ("dog", "rain", "door_wood_knock", "siren")
    rows = known_clips(shared / "esc50/meta/esc50.csv", tmp_path / "known.csv", known)
    weights = shared / "weights/efficientat/mn04_as_mAP_432.pt"
    settings = (f"--config.model.pretrained={weights}", "--config.data.name=csv", "--config.data.test_fold=4")
    settings += ("--config.eval.tta=0",)
    data = f"--config.data.dir={tmp_path / 'known.csv'}"
    run("main", "--config=efficientat_frozen", *settings, data, f"--workdir={tmp_path / 'run'}")
    classifier = SoundClassifier(restore(tmp_path / "run"))
    assert classifier.novelty.head is not None
    rows = [row for row in rows if row["fold"] == "4"]
    parts = [[row for row in rows if (row["category"] in known) == inside] for inside in (True, False)]
    assert marked(classifier, parts[0]) <= 2 / 32 and marked(classifier, parts[1][::8]) > 0.9


def outputs(indices):
    """Logits and embeddings of clips of `noise_clips`, whose class is their index modulo 3."""
    rows = np.asarray(indices)
    noise = np.random.default_rng(0).normal(0, 0.4, (12, 6))
    x = (np.eye(6)[np.arange(12) % 3] + noise).astype(np.float32)[rows]
    return 5 * x[:, :3], x


def test_what_the_threshold_of_a_trained_network_is_set_on(noise_clips):
    split = Split(
        train=tuple(range(4, 12)), validation=(), test=(0, 1, 2, 3), train_folds=(2, 3), validation_folds=(),
        test_folds=(1,), leaky=(), dropped=(),
    )  # fmt: skip
    x, trained = outputs(range(12))[1], np.arange(4, 12)
    members = novelty.members(noise_clips.labels, 3)
    alone = calibrate.fit(TASK, noise_clips, split, outputs, None)
    assert alone.calibration.temperature is None and alone.novelty.fitted_on == "training clips"
    np.testing.assert_allclose(alone.novelty.means, Novelty.fit(x[trained], members[trained]).means, atol=1e-6)
    assert np.isfinite(alone.novelty.threshold) and set(alone.meta()) == {"calibration", "novelty"}

    held_out = dataclasses.replace(split, train=tuple(range(7, 12)), calibration=(4, 5, 6))
    fitted = calibrate.fit(TASK, noise_clips, held_out, outputs, mlp_head())
    scores = Novelty.fit(x[7:], members[7:], mlp_head()).score(x[4:7])
    assert fitted.novelty.threshold == pytest.approx(np.quantile(scores, novelty.FALSE_MARKS), abs=1e-6)
    assert fitted.novelty.fitted_on == fitted.calibration.fitted_on == "3 held-out clips of the training folds"

    validated = dataclasses.replace(split, train=tuple(range(8, 12)), validation=(4, 5, 6, 7), train_folds=(3,))
    assert calibrate.fit(TASK, noise_clips, validated, outputs, None).novelty.fitted_on == "the validation fold"


def test_a_limited_number_of_clips_of_each_class(noise_clips, monkeypatch):
    monkeypatch.setattr(calibrate, "CLIPS_PER_CLASS", 2)
    asked = []

    def record(indices):
        asked.append(list(indices))
        return outputs(indices)

    split = Split(tuple(range(12)), (), (), (1, 2, 3), (), (), (), ())
    calibrate.fit(TASK, noise_clips, split, record, None)
    assert len(asked) == 1 and np.bincount(noise_clips.labels[asked[0]]).tolist() == [2, 2, 2]


@pytest.mark.slow
def test_a_validated_run_has_the_detector_of_its_best_epoch(run, tmp_path):
    run("main", TINY, "--config.protocol=validation", f"--workdir={tmp_path}")
    restored = restore(tmp_path)
    detector = novelty.restore(restored)
    assert detector.fitted_on == "the validation fold" and np.isfinite(detector.threshold)
    assert restored.meta["metric"] is not None
    width = restored.model.variables["params"]["head"]["classifier"]["kernel"].shape[0]
    assert detector.means.shape == (12, width)


def test_a_damaged_detector_is_an_error(untrained, tmp_path):
    restored = restore(untrained)
    assert restored.novelty is None and novelty.restore(restored) is None
    _, x = outputs(range(12))
    detector = Novelty.fit(x, novelty.members(np.arange(12) % 3, 3), mlp_head()).with_threshold(np.zeros(2), "clips")
    meta = {key: restored.meta[key] for key in ("config", "classes", "sample_rate")} | {"novelty": detector.to_dict()}
    checkpoints = checkpoint.Checkpoints(tmp_path / "checkpoints")
    fresh = state.create(restored.model.variables, optax.sgd(0.1), ema=False)
    checkpoints.save(fresh, meta, novelty=detector.arrays())
    checkpoints.close()
    np.testing.assert_array_equal(novelty.restore(restore(tmp_path)).score(x), detector.score(x))
    for path in (tmp_path / "checkpoints/0/novelty").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
    with pytest.raises(checkpoint.CheckpointError):
        restore(tmp_path)
