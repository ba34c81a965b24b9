"""The self-supervised stage: what it learns from, its results, resume, rounds, errors."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import optax
import pytest

from esc_jax import config as configs
from esc_jax.data import folds, synthetic
from esc_jax.data.clips import Clips
from esc_jax.data.datasets import registry as datasets
from esc_jax.data.resident import ResidentClips
from esc_jax.errors import ConfigError, UserError
from esc_jax.evaluation import diagnostics
from esc_jax.experiments import evaluate, pretrain, probe_heads, single
from esc_jax.inference import embeddings
from esc_jax.models import model as models
from esc_jax.objectives import registry as objectives
from esc_jax.objectives.simclr import SimCLR
from esc_jax.tasks import registry as tasks
from esc_jax.tokenizers import kmeans
from esc_jax.training import checkpoint, loop
from esc_jax.training import state as states
from tests.training import helpers

TASK = tasks.get("single_label")
TINY = """
from esc_jax import config as base

def get_config():
    config = base.load("tests/configs/tiny.py")
    config.pretrain = base.pretrain_defaults("{objective}")
    config.pretrain.update(batch_size=16, epochs=4, monitor_epochs=2)
    config.train.epochs = 1
    return config
"""


def make_config(tmp_path, objective="simclr"):
    """The command-line option of the tiny config with a self-supervised stage."""
    path = tmp_path / "tiny_stage.py"
    path.write_text(TINY.format(objective=objective))
    return f"--config={path}"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_one_command_runs_both_stages_and_reports_them(run, tmp_path):
    config, folder = make_config(tmp_path), tmp_path / "run"
    printed = run("main", config, f"--workdir={folder}").stdout
    results = json.loads((folder / "results.json").read_text())
    history = lines(folder / "pretrain" / "metrics.jsonl")
    assert [line["epoch"] for line in history] == [1, 2, 3, 4] and [line["step"] for line in history][-1] == 12
    assert ["knn_accuracy" in line for line in history] == [False, True, False, True]
    stage = results["pretrain"]
    assert set(stage) == {"objective", "seconds", "metrics", "rounds", "probe_score"}
    assert stage["objective"] == "simclr" and stage["rounds"] == [{"round": 1}]
    expected = {"loss", "pretext_accuracy", "alignment", "uniformity", "knn_accuracy", "effective_rank"}
    assert stage["metrics"] == {name: history[-1][name] for name in expected}
    assert "pretraining (simclr)" in printed and (folder / "curves.png").exists()
    # A second start finds both stages finished.
    (folder / "results.json").unlink()
    run("main", config, f"--workdir={folder}")
    again = json.loads((folder / "results.json").read_text())
    assert again["pretrain"] == stage and again["folds"] == results["folds"]
    assert run("main", config, f"--workdir={folder}", "--mode=evaluate").stdout == printed


@pytest.mark.slow
def test_a_second_test_under_the_protocol_all_draws_both_stages_again(noise_clips, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "load", lambda config, check=None: noise_clips)
    config = small_config()
    config.protocol, config.pretrain.epochs = "all", 2
    config.train.update(batch_size=4, epochs=1)
    single.train_and_evaluate(config, tmp_path / "run")
    picture = (tmp_path / "run/curves.png").read_bytes()
    evaluate.evaluate_again(config, tmp_path / "run")
    assert (tmp_path / "run/curves.png").read_bytes() == picture


def small_config(objective="simclr", **changes):
    """A config with a short stage of a small network."""
    config = helpers.resnet()
    config.train.tensorboard = False
    config.pretrain = configs.pretrain_defaults(objective)
    config.pretrain.update(batch_size=4, epochs=4, monitor_epochs=4)
    config.pretrain.augment.update(crop_s=0.4, speed_octaves=0.1, gain_db=6.0)
    if objective == "masked":
        config.pretrain.update(patch_size=8, clusters=6)
    if objective in ("simclr", "masked"):
        config.pretrain.background_mix = 0.3
    config.pretrain.update(changes)
    return config


def small_stage(clips, objective="simclr", **changes):
    """(config, task, clips, split, model) of the stage of `small_config`."""
    config = small_config(objective, **changes)
    split = folds.split(clips.folds, clips.sources, "holdout", 3)
    return config, TASK, clips, split, models.create(config, clips.classes)


def learn(folder, config, task, clips, split, model, resident=None):
    pretrain.check(config, clips, split, model)
    return pretrain.pretrain(config, folder, task, clips, split, model, resident)


class Teacher(SimCLR):
    """SimCLR that also carries a moving average of the encoder, and reports its distance."""

    name = "teacher"
    ranges = SimCLR.ranges | {"decay": (0, 1)}

    @staticmethod
    def defaults():
        return SimCLR.defaults() | {"decay": 0.9}

    def init_carry(self, variables):
        return {"encoder": jax.tree.map(jax.numpy.copy, variables["params"]["encoder"])}

    def after_step(self, carry, params, step, outputs):
        rate = 1.0 - self._config.decay
        return {"encoder": optax.incremental_update(params["encoder"], carry["encoder"], rate)}

    def loss(self, variables, carry, constants, inputs, keys):
        output = super().loss(variables, carry, constants, inputs, keys)
        distance = optax.global_norm(jax.tree.map(jax.numpy.subtract, variables["params"]["encoder"], carry["encoder"]))
        metrics = output.metrics | {"distance": jax.numpy.broadcast_to(distance, output.loss.shape[:1])}
        return output._replace(metrics=metrics)


@pytest.fixture
def teacher(monkeypatch):
    """A new objective: one class, and one line in the registry."""
    monkeypatch.setitem(objectives.PRETRAINING, "teacher", Teacher)
    return "teacher"


def interrupt(monkeypatch):
    """As if a signal came in the first step."""
    enter = loop.StopSignal.__enter__

    def stop(self):
        enter(self)
        self.received = True
        return self

    monkeypatch.setattr(loop.StopSignal, "__enter__", stop)


@pytest.mark.slow
def test_an_interrupted_stage_resumes_to_the_same_bits_with_its_carry(teacher, noise_clips, tmp_path, monkeypatch):
    parts = small_stage(noise_clips, teacher, checkpoint_epochs=1, epochs=2, projection_dim=8, projection_hidden=16)
    whole = learn(tmp_path / "whole", *parts)
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(loop.Interrupted):
            learn(tmp_path / "cut", *parts)
    resumed = learn(tmp_path / "cut", *parts, ResidentClips(noise_clips))  # the same batches, from the devices
    jax.tree.map(np.testing.assert_array_equal, resumed.variables, whole.variables)
    assert [{k: v for k, v in line.items() if k not in ("seconds", "data_wait")} for line in resumed.history] == [
        {k: v for k, v in line.items() if k not in ("seconds", "data_wait")} for line in whole.history
    ]
    assert whole.history[0]["distance"] > 0
    carries = []
    for name in ("cut", "whole"):
        folder, step = checkpoint.find(tmp_path / name)
        encoder = jax.tree.map(np.zeros_like, whole.variables["params"]["encoder"])
        carries.append(
            checkpoint.ocp.StandardCheckpointer().restore(folder / str(step) / "objective", {"encoder": encoder})
        )
    jax.tree.map(np.testing.assert_array_equal, *carries)
    assert np.abs(
        carries[0]["encoder"]["stem"]["kernel"] - whole.variables["params"]["encoder"]["stem"]["kernel"]
    ).max()


@pytest.mark.slow
def test_with_attention_pooling_the_diagnostics_are_those_of_the_mean(noise_clips, tmp_path):
    """The stage does not train the head, whose attention is uniform at initialization."""
    diagnoses = []
    for pooling in ("mean", "attention"):
        parts = small_stage(noise_clips, epochs=1, monitor_epochs=1)
        parts[0].model.head.pooling = pooling
        model = models.create(parts[0], noise_clips.classes)
        learned = learn(tmp_path / pooling, *parts[:-1], model)
        (line,) = learned.history
        diagnoses.append([line["knn_accuracy"], line["effective_rank"]])
        jax.tree.map(
            np.testing.assert_array_equal, learned.variables["params"]["head"], model.variables["params"]["head"]
        )
    np.testing.assert_allclose(*diagnoses, rtol=1e-4)  # the sums of the two means are rounded differently


@pytest.mark.extended
@pytest.mark.parametrize("objective", ["simclr", pytest.param("masked", marks=pytest.mark.slow)])
def test_labels_and_test_clips_are_not_used(noise_clips, tmp_path, objective):
    read = set()

    def fetch(i):
        read.add(noise_clips.filenames[i])
        return noise_clips.fetch(i)

    parts = small_stage(dataclasses.replace(noise_clips, fetch=fetch), objective)
    learned = learn(tmp_path / "one", *parts).variables
    # Folds 1 and 2: fold 3, the last four files, is tested.
    assert read == {f"{i}.wav" for i in range(8)}
    relabelled = dataclasses.replace(noise_clips, labels=noise_clips.labels[::-1].copy())
    again = learn(tmp_path / "two", *small_stage(relabelled, objective)).variables
    jax.tree.map(np.testing.assert_array_equal, learned, again)
    before = parts[-1].variables["params"]
    assert float(np.abs(learned["params"]["encoder"]["stem"]["kernel"] - before["encoder"]["stem"]["kernel"]).max()) > 0
    jax.tree.map(np.testing.assert_array_equal, learned["params"]["head"], before["head"])


@pytest.mark.extended
def test_a_round_predicts_the_features_of_the_round_before(noise_clips, tmp_path):
    parts = small_stage(noise_clips, "masked", rounds=2, epochs=2)
    learned = learn(tmp_path, *parts)
    assert [report["round"] for report in learned.reports] == [1, 2] and len(learned.history) == 2
    for report in learned.reports:
        assert report["tokenizer"]["clusters"] == 6 and 0 < report["tokenizer"]["entropy_bits"] <= np.log2(6)
    widths = [kmeans.Codebook.load(f / "tokenizer.npz").centroids.shape[1] for f in (tmp_path / "round1", tmp_path)]
    assert widths == [64, 16]  # patches of 8 × 8, then features of the encoder's last stage
    assert (tmp_path / "round1" / "tokens.png").exists() and (tmp_path / "tokens.png").exists()
    again = learn(tmp_path, *parts)  # is read from the checkpoints
    jax.tree.map(np.testing.assert_array_equal, again.variables, learned.variables)
    assert again.history == learned.history and again.reports == learned.reports


@pytest.mark.extended
def test_a_run_can_be_the_teacher(noise_clips, untrained, tmp_path):
    config, *rest = small_stage(noise_clips, "masked", epochs=1, teacher=str(untrained), clip_loss_weight=1.0)
    learned = learn(tmp_path, config, *rest)
    assert 0 < learned.history[-1]["clip_error"] < 10
    assert kmeans.Codebook.load(tmp_path / "tokenizer.npz").centroids.shape == (6, 16)
    assert learned.reports[0]["tokenizer"]["used"] > 1
    model = dataclasses.replace(rest[-1], sample_rate=8000)
    with pytest.raises(ConfigError, match="teacher was trained at 16000 Hz: set config.data.sample_rate=16000"):
        learn(tmp_path / "other", config, *rest[:-1], model)


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"protocol": "all"}, "was trained on every clip, with those of the test fold among them"),
        ({"protocol": "oracle"}, "was selected on its test fold"),
        ({"protocol": "holdout", "data.test_fold": 1}, "was trained with clips of the test fold 3"),
        ({"protocol": "holdout"}, ""),
    ],
)
def test_a_teacher_that_has_seen_test_clips_is_refused(noise_clips, tmp_path, trained, message):
    """Unless it was trained on other data."""
    config, *rest = small_stage(noise_clips, "masked", teacher=str(tmp_path / "teacher"))
    config.data.test_fold = 3
    of_teacher = configs.load("tests/configs/tiny.py")
    of_teacher.update_from_flattened_dict({"task": "single_label", "data.test_fold": 3, **trained})
    meta = {"config": of_teacher.to_dict(), "classes": ["a", "b"], "sample_rate": 16_000}
    state = states.create({"params": {"w": np.zeros(1)}, "batch_stats": {}}, optax.sgd(0.1), ema=False)
    for data in (noise_clips.identity, "other"):
        checkpoints = checkpoint.Checkpoints(tmp_path / "teacher" / "checkpoints")
        checkpoints.save(state, meta | {"data": data})
        checkpoints.close()
        if message and data == noise_clips.identity:
            with pytest.raises(ConfigError, match=message):
                pretrain.check(config, *rest[1:])
        else:
            pretrain.check(config, *rest[1:])
        shutil.rmtree(tmp_path / "teacher")


@pytest.mark.slow
def test_a_tokenizer_of_other_clips_is_not_used(noise_clips, tmp_path, caplog):
    """It is fitted again before the first checkpoint; afterwards, the stage is refused."""
    one, other = (
        small_stage(dataclasses.replace(noise_clips, fetch=lambda i, g=gain: noise_clips.fetch(i) // g,
                                        fingerprint=f"gain{gain}"), "masked", epochs=1)
        for gain in (1, 2)
    )  # fmt: skip
    learn(tmp_path / "one", *one)
    expected = kmeans.Codebook.load(tmp_path / "one" / "tokenizer.npz").centroids
    (tmp_path / "two").mkdir()
    learn(tmp_path / "three", *other)
    shutil.copy(tmp_path / "three" / "tokenizer.npz", tmp_path / "two")
    learn(tmp_path / "two", *one)
    np.testing.assert_array_equal(kmeans.Codebook.load(tmp_path / "two" / "tokenizer.npz").centroids, expected)
    assert "is fitted again: it is of other training clips or another teacher" in caplog.text
    with pytest.raises(ConfigError, match="was started on other training clips or with another teacher"):
        learn(tmp_path / "two", *other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 9}, "pretrain.batch_size=9 is larger than the number of training clips, 8"),
        ({"mask_ratio": 0.05}, "mask_ratio=0.05 of 6 patches .8 × 8. masks no patch, so nothing is predicted"),
        ({"mask_ratio": 0.99}, "mask_ratio=0.99 of 6 patches .8 × 8. masks every patch"),
        ({"patch_size": 64}, "of 0 patches"),
        (
            {"predictor_layers": 1},
            "predictor_layers=1 needs an encoder of visible patches: model.name",
        ),
        ({"clusters": 200}, "clusters=200 is more than the 64 patches of the training clips"),
    ],
)
def test_configs_that_do_not_fit_the_data_are_errors(noise_clips, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        learn(tmp_path / "stage", *small_stage(noise_clips, "masked", **changes))
    assert not (tmp_path / "stage").exists()


def test_messages_about_the_optimizer_name_the_stage(noise_clips, tmp_path):
    too_long, unmatched = {"warmup_steps": 1000}, {"groups": (("nothing", 0.1),)}
    with pytest.raises(UserError, match="^pretrain.optim: the warm-up has 1000 steps, but the training has only"):
        learn(tmp_path / "long", *small_stage(noise_clips, optim=too_long))
    assert not (tmp_path / "long").exists()
    with pytest.raises(UserError, match="^pretrain.optim.groups: 'nothing' matches no parameter"):
        learn(tmp_path / "unmatched", *small_stage(noise_clips, optim=unmatched))
    config = small_stage(noise_clips)[0]
    config.pretrain.optim.schedule = "step"
    with pytest.raises(UserError, match="^pretrain.optim.schedule=step: the schedules are"):
        configs.check(config)


def test_a_stage_needs_two_training_folds(noise_clips):
    config, _, clips, split, model = small_stage(noise_clips)
    with pytest.raises(ConfigError, match="needs at least two training folds"):
        pretrain.check(config, dataclasses.replace(clips, folds=(1,) * 8 + (3,) * 4), split, model)


@pytest.mark.parametrize(
    ("objective", "option", "message"),
    [
        ("simclr", "pretrain.batch_size=1", "config.pretrain.batch_size=1 is out of range: it must be between 2 and"),
        ("simclr", "pretrain.temprature=1", "there is no config.pretrain.temprature; did you mean"),
        ("simclr", "pretrain.mask_ratio=0.5", "config.pretrain.objective=simclr, and the key is one of masked"),
        ("masked", "pretrain.mask_kind=blocks", "choose one of random, block, time, frequency; did you mean block?"),
        ("masked", "pretrain.clusters=1000000", "config.pretrain.clusters=1000000 is more than the"),
    ],
)
def test_errors_on_the_command_line(run, tmp_path, objective, option, message):
    folder = tmp_path / "run"
    done = run("main", make_config(tmp_path, objective), f"--config.{option}", f"--workdir={folder}", check=2)
    # Lines before the last one are about the data.
    assert message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr and not folder.exists()


@pytest.fixture(scope="module")
def synthetic_clips():
    """96 synthetic sounds of half a second, 12 classes, 4 folds, in memory."""
    rng = np.random.default_rng(0)
    sounds = [synthetic.clip(name, rng) for _ in range(8) for name in synthetic.CLASSES]
    # The event lasts at least from 30 % to 40 % of its clip.
    audio = [(32767 * sound[len(sound) * 3 // 10 :][:8000]).astype(np.int16) for sound in sounds]
    return Clips(
        labels=np.tile(np.arange(12, dtype=np.int32), 8),
        folds=tuple(i // 24 + 1 for i in range(96)),
        sources=tuple(f"r{i}" for i in range(96)),
        filenames=tuple(f"{i}.wav" for i in range(96)),
        classes=tuple(synthetic.CLASSES),
        sample_rate=16_000,
        samples=np.array([len(one) for one in audio]),
        length=8000,
        fingerprint="synthetic",
        bad={},
        fetch=lambda i: audio[i],
    )


def long_stage(clips, objective, **changes):
    """A stage with time to learn. The level of the synthetic sounds does not depend on their class."""
    options = {"batch_size": 24, "epochs": 60, "monitor_epochs": 60, "checkpoint_epochs": 60, "background_mix": 0.0}
    config, *rest, _ = small_stage(clips, objective, **(options | changes))
    config.frontend.hop = 128
    config.pretrain.optim.lr = 5e-3
    config.pretrain.augment.update(speed_octaves=0.0, gain_db=24.0)
    if objective == "simclr":
        config.pretrain.augment.freq_mask = 2
    return config, *rest, models.create(config, clips.classes)


@pytest.mark.extended
def test_simclr_improves_the_linear_probe(synthetic_clips, tmp_path):
    config, task, clips, split, model = long_stage(synthetic_clips, "simclr", temperature=0.2)
    learned = learn(tmp_path, config, task, clips, split, model)
    accuracy, test = {}, list(split.test)
    for name, variables in (("random", model.variables), ("learned", learned.variables)):
        x = embeddings.embed_clips(model.with_variables(variables), clips, tmp_path / name)
        head = probe_heads.fit_split(task, x, clips, split)
        accuracy[name] = task.score(clips.labels[test], probe_heads.head_logits(x[0][test], head.kernel, head.bias))
    assert accuracy["learned"] >= accuracy["random"] + 0.1, accuracy  # 33 and 63 % when it was written
    report = pretrain.downstream(tmp_path, task, clips, split, model, learned)
    assert report["probe_score"] == accuracy["learned"]


@pytest.mark.extended
def test_masked_prediction_learns_more_than_the_frequencies_of_tokens(synthetic_clips, tmp_path):
    learned = learn(tmp_path, *long_stage(synthetic_clips, "masked", clusters=24))
    # A constant prediction has at best the entropy of the tokens.
    assert learned.history[-1]["loss"] < 0.8 * np.log(2) * learned.reports[0]["tokenizer"]["entropy_bits"]


@pytest.mark.slow
def test_advice_of_the_objective_is_logged(noise_clips, tmp_path, caplog):
    config, *rest = small_stage(noise_clips, background_mix=0.0)
    config.pretrain.augment.update(crop_s=0.0, speed_octaves=0.0, gain_db=0.0)  # two equal views
    learn(tmp_path, config, *rest)
    assert "100.0 % of the views are matched" in caplog.text and "pretrain.background_mix" in caplog.text


def test_effective_rank_counts_directions():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((10, 10)))[0]
    for directions in (1, 4, 10):
        spread = np.zeros((4000, 10))
        spread[:, :directions] = np.linalg.qr(rng.standard_normal((4000, directions)))[0]
        x = (spread - spread.mean(0)) @ basis
        assert diagnostics.effective_rank(x) == pytest.approx(directions, rel=0.01)


def test_nearest_neighbours_are_from_other_folds():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    labels = np.repeat(np.arange(3), 4)
    assert diagnostics.knn_score(TASK, x, labels, [1, 2] * 6, 3, k=2) == 1.0
    # Each class is a fold: no neighbour is of the same class.
    assert diagnostics.knn_score(TASK, x, labels, labels, 3, k=2) == 0.0
    assert diagnostics.knn_score(TASK, x, labels, [1] * 12, 3, k=3) == 1.0
