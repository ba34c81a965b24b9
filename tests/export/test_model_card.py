"""The model card contains what is known about the model, and nothing else."""

import json
import pathlib

import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.export import measurement, model_card
from esc_jax.export.measurement import MeasurementError
from esc_jax.models.model import Model
from esc_jax.pretrained import catalog
from esc_jax.training.restore import Restored

CLASSES = ("dog", "sea_waves", "chainsaw", "rain", "wind", "snoring", "hen")
ESC50 = ("dog", "sea_waves", "chainsaw", "church_bells", *(f"class {i}" for i in range(46)))
ESC10 = ("dog", "sea_waves", "chainsaw", "helicopter", *(f"class {i}" for i in range(6)))
GTZAN = ("blues", "disco", "hiphop", "reggae", *(f"class {i}" for i in range(6)))
URBAN = ("air_conditioner", "dog_bark", "jackhammer", "siren", *(f"class {i}" for i in range(6)))
FSD = ("Bark", "Meow", "Siren", "Zipper_(clothing)", *(f"class {i}" for i in range(196)))
RESULTS = {
    "task": "single_label",
    "accuracy": {"mean": 0.945, "std": None, "ci95": [0.9183, 0.9634]},
    "accuracy_tta": {"mean": 0.95, "std": None, "ci95": [0.92, 0.97]},
    "tta_views": 5,
    "folds": [{"fold": 2, "total": 400}],
    "protocol": "holdout",
    "test_selected": False,
    "checkpoint_step": 3,
}


def write_card(tmp_path, results, classes=CLASSES, **changes) -> str:
    """The card of a run whose weights are not needed."""
    config = configs.defaults("resnet", "linear", "log_mel")
    config.experiment, config.task = "tiny_resnet", (results or {}).get("task", "single_label")
    config.data.update(sample_rate=16_000, clip_s=0.5, test_fold=2)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    folder = tmp_path / "checkpoints"
    folder.mkdir(exist_ok=True)
    if results is not None:
        (tmp_path / "results.json").write_text(json.dumps(results))
    model = Model(
        module=None, frontend=None, variables={"params": {"w": np.zeros((3, 4))}}, classes=classes, sample_rate=16_000,
        clip_s=0.5,
    )  # fmt: skip
    return model_card.stablehlo_card(Restored(model, config, folder, 3, {}))


def test_the_card_contains_the_measured_score(tmp_path):
    text = write_card(tmp_path, RESULTS)
    assert "# tiny_resnet" in text and "7 classes, clips of 0.5 s, mono, 16000 Hz" in text and "12 parameters" in text
    assert "Measured accuracy: **94.50 %** (95 % interval 91.8 to 96.3) on 400 clips of fold 2" in text
    assert "averaged over 5 views, which this export does not compute: 95.00 %" in text
    assert "Protocol `holdout`: trained for a fixed number of epochs" in text and "sea_waves" in text
    oracle = RESULTS | {"protocol": "oracle", "test_selected": True, "accuracy_tta": None}
    assert "selected on the test fold itself, so the value is too high (†)" in write_card(tmp_path, oracle)


def test_the_card_contains_no_score_that_was_not_measured(tmp_path):
    message = "There is no measured accuracy of these weights: the run has no results."
    assert message in write_card(tmp_path, None)
    text = write_card(tmp_path, RESULTS | {"checkpoint_step": 9})
    assert "the results of the run are of step 9, the weights of step 3" in text and "%**" not in text
    with pytest.raises(MeasurementError, match="was not written by a run"):
        write_card(tmp_path, {"accuracy": 1})


def test_a_model_trained_on_every_clip_quotes_its_cross_validation(tmp_path):
    every = RESULTS | {"protocol": "all", "folds": [], "accuracy": None, "accuracy_tta": None, "tta_views": 0}
    text = write_card(tmp_path, every)
    assert "There is no measured accuracy of these weights: they were trained on every clip" in text
    assert "Cross-validation" not in text and "%" not in text
    quoted = {
        "workdir": "cv", "protocol": "holdout", "folds": [1, 2, 3], "clips": 1200,
        "accuracy": {"mean": 0.9, "std": 0.0123, "ci95": [0.88, 0.917]},
    }  # fmt: skip
    text = write_card(tmp_path, every | {"crossval": quoted})
    assert (
        "Cross-validation of the same config: accuracy **90.00 %** ± 1.23 (standard deviation over runs) (95 % interval"
        " 88.0 to 91.7) on 1200 clips of folds 1, 2, 3. This is the score of other weights: each fold was" in text
    )
    assert "Protocol `holdout`: trained for a fixed number of epochs" in text and "Measured" not in text
    restored = Restored(None, configs.defaults("resnet"), tmp_path / "checkpoints", 3, {})
    restored.config.task = "single_label"
    assert measurement.read_cross_validation(restored).folds == (1, 2, 3)
    assert measurement.to_json(measurement.read_measurement(restored))["mean"] is None


def test_the_card_of_a_multi_label_model(tmp_path):
    score = {"mean": 0.5432, "std": None, "ci95": [0.5, 0.6]}
    results = RESULTS | {"task": "multi_label", "mAP": score, "mAP_tta": None}
    text = write_card(tmp_path, results, classes=("dog", "rain"))
    assert "Detects sounds: any number of 2 classes at the same time, clips of 0.5 s" in text
    assert "Measured mAP: **54.32 %** (95 % interval 50.0 to 60.0) on 400 clips of fold 2" in text
    assert "they do not sum to 1. A class counts as present from its threshold: dog 0.5, rain 0.5." in text
    assert "accuracy" not in text and "if probability >= threshold:" in text


@pytest.mark.parametrize(
    ("classes", "changes", "present", "absent"),
    [
        (ESC50, {}, "CC BY-NC 3.0", "published weights"),
        (ESC10, {"data.name": "esc10"}, "CC BY 3.0", "BY-NC"),
        (CLASSES, {"data.name": "synthetic"}, "not derived from published recordings or weights", "CC BY"),
        (GTZAN, {"data.name": "gtzan"}, "without a licence for its recordings", "CC BY"),
        (URBAN, {"data.name": "urbansound8k"}, "The recordings of UrbanSound8K are CC BY-NC 3.0", "CC BY 4.0"),
        (FSD, {"data.name": "fsd50k"}, "FSD50K is CC BY 4.0 as a collection, and each of its clips", "BY-NC"),
        (CLASSES, {"data.name": "folder"}, "on recordings of your own, from random weights", "CC BY"),
        (
            CLASSES,
            {"data.name": "csv"},
            "- The licences of the recordings that the model was trained on.",
            "not derived",
        ),
        (CLASSES, {"data.name": "audiofolder"}, "on recordings of your own", "audiofolder"),
        (
            CLASSES,
            {"model.pretrained": "/home/me/mn04_as.pt", "model.name": "efficientat"},
            "`mn04_as.pt`: the lic",
            "/home",
        ),
        (
            CLASSES,
            {"model.pretrained": "ntu-spml/distilhubert", "model.name": "hubert"},
            "`ntu-spml/distilhubert`",
            "`distil",
        ),
    ],
)
def test_the_card_names_the_licences(tmp_path, classes, changes, present, absent):
    text = write_card(tmp_path, None, classes=classes, **changes)
    assert present in text and absent not in text


@pytest.mark.parametrize(("name", "other"), [("esc50", ESC10), ("esc50", ("kettle", "door")), ("esc10", ESC50)])
def test_other_data_in_the_layout_of_esc50_are_not_called_esc50(tmp_path, name, other):
    text = write_card(tmp_path, None, classes=other, **{"data.name": name})
    assert "on a data set in ESC-50's layout" in text and "CC BY" not in text


def test_other_data_in_the_layout_of_gtzan_are_not_called_gtzan(tmp_path):
    text = write_card(tmp_path, None, classes=("kettle", "door"), **{"data.name": "gtzan"})
    assert "on a data set with a folder for each class" in text and "GTZAN" not in text


@pytest.mark.parametrize(("name", "title"), [("urbansound8k", "UrbanSound8K"), ("fsd50k", "FSD50K")])
def test_other_data_in_a_published_layout_are_not_called_by_its_name(tmp_path, name, title):
    text = write_card(tmp_path, None, classes=("kettle", "door"), **{"data.name": name})
    assert f"on a data set in {title}'s layout" in text and "CC BY" not in text


def test_names_of_classes_stay_text(tmp_path):
    classes = ("<script>alert(1)</script>", "a|b", "*c*", *CLASSES[3:])
    text = write_card(tmp_path, RESULTS, classes, experiment="<b>x</b>")
    assert "<script" not in text.replace(r"\<script", "") and r"a\|b, \*c\*, rain" in text
    assert text.startswith(r"# \<b\>x\</b\>")
    multi = RESULTS | {"task": "multi_label"}
    multi |= {"mAP": multi.pop("accuracy"), "mAP_tta": None, "folds": [{"fold": 2, "total": 400}]}
    assert "<script" not in write_card(tmp_path, multi, classes).replace(r"\<script", "")


def test_a_model_of_the_catalog_is_called_by_its_name():
    config = configs.defaults("resnet", "linear", "log_mel")
    config.experiment = "resnet18_distilled"
    for folder, name in (
        (catalog.CATALOG["esc50_small"].path, "esc50_small"),
        (pathlib.Path("mn04_as"), "mn04_as"),
        (pathlib.Path("runs/esc50"), "resnet18_distilled"),
    ):
        assert model_card.model_name(Restored(None, config, folder, 0, {})) == name
