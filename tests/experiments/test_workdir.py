"""The workdir of a run: which config it belongs to."""

import json

import pytest

from esc_jax import config as configs
from esc_jax.errors import ConfigError
from esc_jax.experiments import workdir


def snapshot(folder):
    return {path: path.stat().st_mtime_ns for path in (folder, *folder.rglob("*"))}


def test_a_check_writes_nothing(tmp_path):
    config = configs.defaults("resnet")
    workdir.check_workdir(tmp_path / "new/run", config)
    assert not (tmp_path / "new").exists()
    workdir.bind_workdir(tmp_path / "run", config)
    before = snapshot(tmp_path)
    workdir.check_workdir(tmp_path / "run", config)
    config.optim.lr = 0.5
    with pytest.raises(ConfigError, match=r"run contains a run of another config: optim.lr \(0.001, now 0.5\); choose"):
        workdir.check_workdir(tmp_path / "run", config)
    with pytest.raises(ConfigError, match="another config"):
        workdir.bind_workdir(tmp_path / "run", config)
    assert snapshot(tmp_path) == before


def test_a_workdir_has_the_config_that_it_was_bound_to(tmp_path):
    config = configs.defaults("resnet")
    config.optim.groups = (("encoder/.*", 0.1),)  # a list in JSON
    workdir.bind_workdir(tmp_path / "a/run", config)
    stored = json.loads((tmp_path / "a/run/config.json").read_text())
    assert stored == json.loads(json.dumps(config.to_dict()))
    config.data.dir, config.train.tensorboard, config.experiment = "elsewhere", False, "name"
    workdir.bind_workdir(tmp_path / "a/run", config)  # keys that do not change the result


def test_a_long_list_of_differences_is_cut(tmp_path):
    config = configs.defaults("resnet")
    workdir.bind_workdir(tmp_path, config)
    config.seed, config.train.epochs, config.optim.lr, config.eval.tta = 1, 2, 3.0, 4
    with pytest.raises(ConfigError, match=r"eval.tta \(5, now 4\); optim.lr \(0.001, now 3.0\); seed \(0, now 1\) …;"):
        workdir.check_workdir(tmp_path, config)


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_config_that_cannot_be_read_is_an_error(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match="config.json cannot be read: choose another --workdir"):
        workdir.check_workdir(tmp_path, configs.defaults("resnet"))


def test_keys_of_other_versions_differ_only_where_they_are_on():
    assert workdir.differences({"a": 1, "old": 0}, {"a": 1, "new": ""}) == []
    assert workdir.differences({"a": 1, "old": 2}, {"a": 1, "new": True}) == [
        "new (None, now True)",
        "old (2, now None)",
    ]


def test_a_key_of_a_later_version_may_have_its_default(tmp_path):
    """`eval.view_crop_s` is 2.5 where views are no crops."""
    config = configs.defaults("resnet")
    config.pretrain = configs.pretrain_defaults("simclr")
    old = {k: v for k, v in configs.flatten(config).items() if k not in ("eval.view_crop_s", "pretrain.temperature")}
    assert workdir.differences(old, configs.flatten(config)) == []
    config.eval.view_crop_s = 1.0
    assert workdir.differences(old, configs.flatten(config)) == ["eval.view_crop_s (None, now 1.0)"]
