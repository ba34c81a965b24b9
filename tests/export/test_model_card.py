"""The card of an export: it says what is true, and nothing that was not measured."""

import json

import numpy as np
import pytest

from esc_jax import build
from esc_jax import config as configs
from esc_jax.export import model_card as export_card

CLASSES = ("dog", "sea_waves", "chainsaw", "rain", "wind", "snoring", "hen")
RESULTS = {
    "accuracy": {"mean": 0.945, "std": None, "ci95": [0.9183, 0.9634]},
    "accuracy_tta": {"mean": 0.95, "std": None, "ci95": [0.92, 0.97]},
    "tta_views": 5,
    "folds": [{"fold": 2, "total": 400}],
    "protocol": "holdout",
    "test_selected": False,
    "checkpoint_step": 3,
}


def card(tmp_path, results, classes=CLASSES, **changes) -> str:
    """The card of a run whose weights need not be read."""
    config = configs.defaults("resnet", "linear", "log_mel")
    config.experiment = "tiny_resnet"
    config.data.update(sample_rate=16_000, clip_s=0.5, test_fold=2)
    with config.unlocked():
        config.update_from_flattened_dict(changes)
    folder = tmp_path / "checkpoints"
    folder.mkdir(exist_ok=True)
    if results is not None:
        (tmp_path / "results.json").write_text(json.dumps(results))
    run = build.Restored(
        config=config, classes=classes, sample_rate=16_000, clip_s=0.5, mask_padding=False, model=None, frontend=None,
        variables={"params": {"w": np.zeros((3, 4))}}, folder=folder, step=3, meta={},
    )  # fmt: skip
    return export_card.stablehlo(run)


def test_the_card_says_what_was_measured(tmp_path):
    text = card(tmp_path, RESULTS)
    assert "# tiny_resnet" in text and "7 classes, clips of 0.5 s, mono, 16000 Hz" in text and "12 parameters" in text
    assert "**94.50 %** of 400 clips of fold 2, 95 % interval 91.8 to 96.3" in text
    assert "With 5 views averaged, which this export does not do: 95.00 %" in text
    assert "Protocol `holdout`, test fold 2" in text and "sea_waves" in text
    oracle = RESULTS | {"protocol": "oracle", "test_selected": True, "accuracy_tta": None}
    assert "selected on the test fold itself, so this accuracy is too good (†)" in card(tmp_path, oracle)


def test_the_card_claims_nothing_that_was_not_measured(tmp_path):
    assert "No accuracy is known: the run has no results." in card(tmp_path, None)
    text = card(tmp_path, RESULTS | {"checkpoint_step": 9})
    assert "the run's results are of step 9, these weights of 3" in text and "%**" not in text
    with pytest.raises(export_card.CardError, match="is not what a run writes"):
        card(tmp_path, {"accuracy": 1})


@pytest.mark.parametrize(
    ("changes", "said", "unsaid"),
    [
        ({}, "CC BY-NC 3.0", "published weights"),
        ({"data.name": "esc10"}, "CC BY 3.0", "BY-NC"),
        ({"data.name": "synthetic"}, "derive from no published recordings or weights", "CC BY"),
        ({"data.name": "gtzan"}, "without a licence for its recordings", "CC BY"),
        ({"model.pretrained": "/home/me/mn04_as.pt", "model.name": "efficientat"}, "`mn04_as.pt`: the lic", "/home"),
        ({"model.pretrained": "ntu-spml/distilhubert", "model.name": "hubert"}, "`ntu-spml/distilhubert`", "`distil"),
    ],
)
def test_the_card_names_the_licences_that_apply(tmp_path, changes, said, unsaid):
    text = card(tmp_path, None, **changes)
    assert said in text and unsaid not in text


def test_data_of_ones_own_in_the_layout_of_esc50_are_not_called_esc50(tmp_path):
    text = card(tmp_path, None, classes=("kettle", "door"))
    assert "a data set in ESC-50's layout" in text and "CC BY" not in text
