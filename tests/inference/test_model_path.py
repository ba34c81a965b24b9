"""Paths of models: runs and published weights."""

import pytest

from esc_jax.inference.model_path import ModelPathError, check_name, check_weights, is_published, is_run
from esc_jax.training import packed, restore


def test_a_run_is_named_by_its_workdir_its_checkpoints_or_one_of_them(untrained):
    for path in (untrained, untrained / "checkpoints", untrained / "checkpoints/0"):
        assert is_run(path) and not is_published(path)
    assert not is_run(untrained / "none") and not is_run(untrained / "checkpoints/0/meta")


def test_published_weights_are_a_file_a_folder_or_a_hub_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pt").write_bytes(b"")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub/model.safetensors").write_bytes(b"")
    for path in ("w.pt", tmp_path / "hub", "facebook/hubert-base-ls960"):
        assert is_published(path) and not is_run(path)
    for path in ("none", "hub/none", tmp_path):  # errors of the checkpoint's reader
        assert not is_published(path)


def test_a_name_that_is_almost_that_of_published_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ModelPathError, match="^mn4_as: no such folder or published weights; did you mean mn40_as or mn04_as.$"
    ):
        check_name("mn4_as")
    check_name("mn04_as")
    check_name("runs/resnet34")
    (tmp_path / "mn4_as").mkdir()
    check_name("mn4_as")


def test_keys_of_weights_name_what_they_take(untrained, tmp_path):
    exported = tmp_path / "classifier.safetensors"
    packed.save(restore.restore(untrained), exported)
    for path in (untrained, exported, tmp_path):
        with pytest.raises(ModelPathError, match=f"^config.model.pretrained={path} is a classifier that esc_jax has"):
            check_weights("model.pretrained", str(path))
    for path in (exported, tmp_path):
        with pytest.raises(ModelPathError, match="^config.distill.teacher=.* is an exported classifier: the key takes"):
            check_weights("distill.teacher", str(path), runs=True)
    check_weights("distill.teacher", str(untrained), runs=True)
    for path in ("", "mn04_as", str(tmp_path / "none")):
        check_weights("model.pretrained", path)
