"""A multi-label run from its data to a recording: probe, results, pictures, report."""

import json
import pathlib

import numpy as np
import pytest

from esc_jax.evaluation.calibration import Calibration
from esc_jax.report import write
from esc_jax.tasks import registry as tasks
from esc_jax.training import checkpoint

TINY, TASK = "--config=tests/configs/tiny.py", tasks.get("multi_label")


@pytest.fixture(scope="module")
def probed(run, tmp_path_factory):
    """A cross-validated probe with a binary head for every class: (workdir, what the command printed)."""
    workdir = tmp_path_factory.mktemp("multi_label") / "run"
    arguments = ("--config.task=multi_label", "--config.method=probe", "--config.eval.tta=0", "--mode=crossval")
    return workdir, run("main", TINY, *arguments, f"--workdir={workdir}").stdout


@pytest.mark.slow
def test_the_results_of_a_cross_validation(probed, tmp_path):
    workdir, printed = probed
    results = json.loads((workdir / "results.json").read_text())
    assert results["task"] == "multi_label" and "accuracy" not in results and "confusion" not in results
    assert results["mAP"]["ci95"][0] < results["mAP"]["mean"] < results["mAP"]["ci95"][1]
    assert results["mAP"]["mean"] > 1.5 / 12 and np.shape(results["cooccurrence"]) == (12, 12)
    assert sum(one["positives"] for one in results["per_class"].values()) == 60
    assert set(results["calibration"]["temperature"]) == {"1", "2", "3", "4", "5"}
    assert (workdir / "cooccurrence.png").stat().st_size > 1000 and not (workdir / "confusion_matrix.png").exists()
    assert "macro AUC" in printed and "best classes" in printed and "mAP, %" in (workdir / "report.md").read_text()
    findings = write.write_report(workdir, tmp_path)
    assert [run.score.value for run in findings.runs] == [results["mAP"]["mean"]] and findings.mistakes[0][1]


@pytest.mark.slow
def test_thresholds_are_those_of_the_checkpoint(probed):
    workdir, _ = probed
    fold = json.loads((workdir / "results.json").read_text())["folds"][1]
    fitted = Calibration.read(checkpoint.read_meta(*checkpoint.find(workdir / "fold2")))
    assert fold["fold"] == 2
    np.testing.assert_allclose(fold["thresholds"], fitted.raw_thresholds(TASK))


@pytest.mark.slow
def test_the_detected_classes_of_a_recording(probed, run, environment, tmp_path):
    workdir, _ = probed
    data = next(pathlib.Path(environment["ESC_JAX_CACHE"]).glob("synthetic-*"))
    file = min((data / "audio").iterdir())
    run("predict", f"--model={workdir / 'fold1'}", "--top_k=12", f"--json={tmp_path / 'o.json'}", str(file))
    document = json.loads((tmp_path / "o.json").read_text())
    fitted = Calibration.read(checkpoint.read_meta(*checkpoint.find(workdir / "fold1")))
    thresholds = dict(zip(document["classes"], fitted.thresholds, strict=True))
    for window in document["files"][0]["windows"]:
        above = [one["class"] for one in window["top"] if one["probability"] >= thresholds[one["class"]]]
        assert window["detected"] == above
    assert document["task"] == "multi_label"
