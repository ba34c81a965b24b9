"""Configs: the files of the repository, keys and defaults, checks, names."""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from esc_jax import config as configs
from esc_jax.augment import compose
from esc_jax.errors import ConfigError, UserError
from esc_jax.experiments import workdir
from esc_jax.frontends import registry as frontends
from esc_jax.frontends.settings import FrontendError
from esc_jax.models import registry as models
from esc_jax.objectives import registry as objectives
from esc_jax.training import optim

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_config_of_the_repository_describes_a_model(path):
    config = configs.load(path)
    configs.check(config)
    assert f"--config=configs/{path.name}" in path.read_text().split('"""')[1]
    rate = config.data.sample_rate
    samples = round((config.augment.crop_s or config.data.clip_s) * rate)
    model, frontend = models.build(config.model, 50), frontends.build(config.frontend, rate)

    def logits(key, audio):
        features = frontend(compose.augment_waveforms(config.augment, key, jnp.arange(2), audio, rate))
        features = compose.augment_spectrograms(config.augment, key, jnp.arange(2), features)
        return model.init_with_output(key, features)

    clip = jax.ShapeDtypeStruct((2, round(config.data.clip_s * rate)), jnp.float32)
    output, variables = jax.eval_shape(logits, jax.random.key(0), clip)
    assert output.shape == (2, 50) and samples <= clip.shape[1]
    optim.build(config.optim, variables["params"], total=100, per_epoch=10)


def test_configs_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    by_path = configs.load(ROOT / "configs/simclr.py").to_dict()
    assert by_path["pretrain"]["objective"] == "simclr"
    monkeypatch.chdir(tmp_path)  # outside the repository
    for name in ("simclr", "configs/simclr.py"):
        assert configs.find(name).name == "simclr.py"
        assert configs.load(name).to_dict() == by_path
    for name in ("simclr.py", "simclrr", "nothing/simclr.py"):
        with pytest.raises(ConfigError, match=f"--config={name} does not exist; did you mean simclr"):
            configs.find(name)
    with pytest.raises(ConfigError, match="--config=zzz does not exist$"):
        configs.find("zzz")
    # A file of one's own comes first.
    pathlib.Path("configs").mkdir()
    text = "from esc_jax import config\n\n\ndef get_config():\n    return config.load('quickstart')\n"
    pathlib.Path("configs/simclr.py").write_text(text)
    assert configs.load("configs/simclr.py").data.name == "synthetic"


def test_files_that_are_no_configs_are_an_error(tmp_path):
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(ConfigError, match=r"empty.py has no get_config\(\)"):
        configs.load(tmp_path / "empty.py")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ConfigError, match="notes.txt is not a Python file"):
        configs.load(tmp_path / "notes.txt")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("augment.crop_s", 9.0, "augment.crop_s=9 is longer than the clips"),
        ("augment.mixup_kinds", (), r"augment.mixup_kinds=\(\) must name some of loudness, loudness_a, time"),
        ("augment.mixup_kinds", (1, 2), r"augment.mixup_kinds=\(1, 2\) must name some of loudness, loudness_a, time"),
        ("augment.mixup_kinds", ("tiem",), "config.augment.mixup_kinds: tiem is not one of .*; did you mean time?"),
        (
            "augment.mixup_targets",
            "union",
            "mixup_targets=union gives several classes: set config.train.loss to binary",
        ),
        ("augment.resample", (0.8, 3.0), "augment.resample=.*a factor must be a number from 0.5 to 2 .*such as 0.8"),
        ("augment.resample", (0.8123,), "augment.resample=.*a fraction of whole numbers up to 100"),
        ("augment.resample", ("x",), "augment.resample=.*a factor must be a number"),
        ("augment.resample_draw", "epoch", "augment.resample_draw=epoch: choose one of batch, example"),
        ("augment.color_noise", ("pnik",), "augment.color_noise=.* must name some of white, pink, red, blue, violet"),
        ("augment.color_noise_snr_min", 40.0, "color_noise_snr_min=40 is above config.augment.color_noise_snr_max=35"),
        ("augment.equalizer_bands", 99, "augment.equalizer_bands=99 is out of range"),
        ("augment.wave_mask", 1.0, "augment.wave_mask=1.0 is out of range"),
        ("augment.filter_kind", "steps", "augment.filter_kind=steps: choose one of step, linear; did you mean step?"),
        ("augment.filter_bands_min", 9, "filter_bands_min=9 is above config.augment.filter_bands_max=5"),
        ("augment.mixup_draw", "epoch", "augment.mixup_draw=epoch: choose one of batch, example"),
        ("distill.weight", 2.0, "distill.weight=2.0 is out of range"),
        ("augment.speed_octaves", 0.1, "speed_octaves needs a crop"),
        ("train.epochs", 0, "train.epochs=0 is out of range: it must be between 1 and 1048576"),
        ("train.label_smoothing", 1.0, "train.label_smoothing=1.0 is out of range"),
        ("train.wise_ft_alpha", 1.5, "train.wise_ft_alpha=1.5 is out of range: it must be between 0 and 1"),
        ("optim.lr", 0.0, "optim.lr=0.0 must be above 0"),
        ("optim.div_factor", 0.0, "optim.div_factor=0.0 is out of range"),
        ("optim.lr_examples", True, "config.optim.lr_examples=True must be a number from 0 to 1048576"),
        ("optim.schedule", "step", "optim.schedule=step: the schedules are one_cycle"),
        ("optim.groups", ("encoder/.*", 0.1), "optim.groups=.* must be pairs"),
        ("optim.unfreeze", (("(", 1),), "optim.unfreeze: '[(]' is not a regular expression"),
        ("frontend.mels", 0, "frontend: mels is 0"),
        ("model.dtype", "float16", "choose one of float32, bfloat16"),
        ("model.eval_mode", "(", "config.model.eval_mode=.* is not a regular expression"),
        ("protocol", "holdoutt", "config.protocol=holdoutt: choose one of .*; did you mean holdout?"),
        ("task", "single", "config.task=single: choose one of .*single_label"),
        ("pretrain.objective", "simclr", "keys of config.pretrain are those of another objective.*pretrain_defaults"),
        ("pretrain.objective", "simclrr", "pretrain.objective=simclrr: choose one of .*; did you mean simclr?"),
    ],
)
def test_values_that_cannot_run_are_an_error(key, value, message):
    config = configs.defaults("resnet")
    configs.check(config)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        configs.check(config)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("raw", "frontend.name=raw has no option .*n_fft.*: take a config that was made with frontend.name=raw"),
        ("log_mell", "frontend.name=log_mell: the frontends are log_mel, "),
    ],
)
def test_another_frontend_is_refused_before_any_data_are_read(name, message):
    config = configs.defaults("resnet")
    config.pretrain = configs.pretrain_defaults("byol_a")
    config.frontend.name = name
    with pytest.raises(FrontendError, match=message):
        configs.check(config)


def test_filters_need_a_spectrogram_with_enough_bins():
    config = configs.defaults("resnet")
    config.augment.update(filter_db=6.0, filter_narrowest=30)
    with pytest.raises(
        ConfigError, match="filter_bands_max=5 bands of .*30 bins need 150 bins, and the frontend has 128"
    ):
        configs.check(config)


@pytest.mark.parametrize("key", ["filter_db", "freq_mixstyle_alpha", "frequency_warp", "time_mask", "freq_mask"])
@pytest.mark.parametrize("stage", ["", "pretrain."])
def test_augmentations_of_spectrograms_need_a_spectrogram(key, stage):
    config = configs.defaults("hubert", frontend="raw")
    if stage:
        config.pretrain = configs.pretrain_defaults("simclr")
    configs.check(config)
    config.update_from_flattened_dict({f"{stage}augment.{key}": 0.5 if key == "frequency_warp" else 1})
    with pytest.raises(
        ConfigError, match=f"config.{stage}augment.{key}=.* changes a spectrogram, and frontend.name=raw"
    ):
        configs.check(config)


def test_label_smoothing_is_for_one_class():
    config = configs.defaults("resnet")
    config.train.label_smoothing = 0.1
    configs.check(config)
    config.train.loss = "binary"
    with pytest.raises(ConfigError, match="label_smoothing=0.1 is for the cross-entropy of one class: set it to 0"):
        configs.check(config)


def test_attention_pools_one_level():
    config = configs.defaults("efficientat", frontend="efficientat_mel")
    config.model.encoder.embedding = "blocks"
    configs.check(config)
    config.model.head.pooling = "attention"
    with pytest.raises(ConfigError, match="encoder.embedding=blocks has no effect: set it to last"):
        configs.check(config)
    config.model.encoder.embedding = "last"
    configs.check(config)


@pytest.mark.parametrize(("key", "value"), [("method", "probe"), ("train.head_from_probe", True)])
def test_a_probe_has_no_attention(key, value):
    config = configs.defaults("resnet")
    config.update_from_flattened_dict({key: value, "model.head.pooling": "attention"})
    with pytest.raises(ConfigError, match="config.model.head.pooling=attention: a probe fits the linear layer alone"):
        configs.check(config)


def test_wise_ft_needs_the_last_weights():
    config = configs.defaults("resnet")
    config.train.wise_ft_alpha = 0.7
    configs.check(config)
    config.protocol = "oracle"
    with pytest.raises(ConfigError, match="wise_ft_alpha applies to the last weights, but config.protocol=oracle"):
        configs.check(config)


def with_stage(objective):
    config = configs.defaults("patch_transformer")
    config.pretrain = configs.pretrain_defaults(objective)
    return config


@pytest.mark.parametrize("objective", list(objectives.PRETRAINING))
def test_a_config_has_the_keys_of_its_objective_only(objective):
    configs.check(with_stage(objective))
    keys = {key.removeprefix("pretrain.") for key in configs.flatten(with_stage(objective)) if "pretrain." in key}
    for name in objectives.PRETRAINING:
        others = set(objectives.defaults(name)) - set(objectives.defaults(objective))
        assert not keys & others
    assert set(objectives.defaults(objective)) <= keys and "batch_size" in keys
    without = {key for key in configs.flatten(configs.defaults("resnet")) if key.startswith("pretrain.")}
    assert without == {"pretrain.objective"}


@pytest.mark.parametrize(
    ("objective", "key", "value", "message"),
    [
        ("simclr", "temperature", 0.0, "pretrain.temperature=0.0 is out of range"),
        ("simclr", "batch_size", 1, "pretrain.batch_size=1 is out of range: it must be between 2 and"),
        ("simclr", "augment.mixup_alpha", 0.3, "mixup_alpha mixes labels: use config.pretrain.background_mix"),
        ("simclr", "augment.mel_jitter", True, "pretrain.augment.mel_jitter=True has no effect"),
        ("simclr", "augment.filter_kind", "x", "pretrain.augment.filter_kind=x: choose one of step, linear"),
        ("simclr", "augment.resample", (9,), "config.pretrain.augment.resample=.*a factor must be a number"),
        ("masked", "augment.filter_db", 3.0, "pretrain.augment.filter_db=3.0 has no effect in masked prediction"),
        ("simclr", "augment.crop_s", 9.0, "pretrain.augment.crop_s=9 is longer than the clips"),
        ("simclr", "optim.lr", 0.0, "config.pretrain.optim.lr=0.0 must be above 0"),
        ("simclr", "optim.b1", 1.0, "config.pretrain.optim.b1=1.0 is out of range"),
        ("masked", "mask_kind", "blocks", "choose one of random, block, time, frequency; did you mean block?"),
        ("masked", "mask_ratio", 1.5, "pretrain.mask_ratio=1.5 is out of range"),
        ("masked", "augment.freq_mask", 3, "pretrain.augment.freq_mask=3 has no effect in masked prediction"),
    ],
)
def test_values_of_the_stage_that_cannot_run_are_an_error(objective, key, value, message):
    config = with_stage(objective)
    config.update_from_flattened_dict({f"pretrain.{key}": value})
    with pytest.raises(ConfigError, match=message):
        configs.check(config)


def test_the_checks_of_the_objective_are_called(monkeypatch):
    def check(config):
        raise ConfigError(f"refused {config.pretrain.temperature}")

    monkeypatch.setattr(objectives.PRETRAINING["simclr"], "check", check)
    with pytest.raises(ConfigError, match="refused 0.5"):
        configs.check(with_stage("simclr"))
    configs.check(with_stage("masked"))


def test_flat_keys_and_differences():
    config = configs.defaults("resnet")
    flat = configs.flatten(config)
    assert flat["train.batch_size"] == 32 and flat["model.encoder.width"] == 64 and flat["task"] == "auto"
    other = configs.defaults("resnet")
    other.optim.lr = 0.5
    other.data.dir = "elsewhere"  # the location of the data is not part of the experiment
    assert workdir.differences(flat, configs.flatten(other)) == ["optim.lr (0.001, now 0.5)"]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("train.epoch", "config.train.epochs"),
        ("optm.lr", "config.optim.lr"),
        ("mixup_alpha", "config.augment.mixup_alpha"),
        ("data.tset_fold", "config.data.test_fold"),
        ("batch_size", "config.eval.batch_size or config.train.batch_size"),
    ],
)
def test_the_nearest_key(key, expected):
    assert f"there is no config.{key}; did you mean {expected}?" in configs.nearest(key, configs.defaults("resnet"))


@pytest.mark.parametrize(
    ("objective", "key", "expected"),
    [
        ("simclr", "pretrain.temprature", "; did you mean config.pretrain.temperature?"),
        ("masked", "pretrain.mask.ratio", "; did you mean config.pretrain.mask_ratio?"),
        (
            "masked",
            "pretrain.temperature",
            ": config.pretrain.objective=masked, and the key is one of simclr",
        ),
    ],
)
def test_the_nearest_key_of_an_objective(objective, key, expected):
    assert configs.nearest(key, with_stage(objective)) == f"there is no config.{key}{expected}"


def test_a_key_of_an_objective_without_such_a_stage():
    message = configs.nearest("pretrain.temperature", configs.defaults("resnet"))
    assert (
        message == 'there is no config.pretrain.temperature: config.pretrain.objective="", and the key is one of simclr'
    )
    message = configs.nearest("pretrain.batch_size", configs.defaults("resnet"))
    assert all(name in message for name in objectives.PRETRAINING)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("config.train.epoch = 2", "line 5: there is no key epoch; did you mean epochs?"),
        ("config.train.epochs = 'three'", "line 5: TypeError"),
        ("config = base.load('resnet35')", "--config=resnet35 does not exist; did you mean resnet34?"),
        ("config = base.defaults(model='resnett')", "there is no model resnett; .*did you mean resnet?"),
        ("config = {}", "returns dict, not a ConfigDict"),
        ("config = (", "line 5: SyntaxError"),
    ],
)
def test_a_mistake_in_a_config_file_is_one_sentence_with_its_line(tmp_path, line, message):
    path = tmp_path / "mistake.py"
    path.write_text(
        "from esc_jax import config as base\n\ndef get_config():\n"
        f"    config = base.load('quickstart')\n    {line}\n    return config\n"
    )
    with pytest.raises(ConfigError, match=message.replace("(", "\\(")):
        configs.load(path)


def test_a_value_that_is_no_number_is_refused():
    config = configs.defaults("resnet")
    config.train.ema = None
    with pytest.raises(ConfigError, match="config.train.ema=None must be a number"):
        configs.check(config)
