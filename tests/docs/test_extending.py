"""The examples of docs/extending.md run."""

import pathlib
import re
import subprocess
import sys
import tomllib
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import soundfile

from esc_jax import config as configs
from esc_jax.augment import options
from esc_jax.frontends.log_mel import LogMel
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.model import Model
from esc_jax.objectives import registry as objectives
from esc_jax.objectives.base import Keys
from esc_jax.runtime import devices

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "extending.md"
CLIPS, RATE = 4, 16_000
CONFIG = """
from esc_jax import config as base


def get_config():
    config = base.defaults(model="mean_pool")
    config.data.update(name="synthetic", clips_per_fold=1, sample_rate=16_000, clip_s=1.0)
    config.frontend.update(n_fft=512, hop=256, mels=32)
    config.model.encoder.width = 8
    config.pretrain = base.pretrain_defaults("simsiam")
    config.pretrain.update(projection_dim=8, batch_size=16, epochs=1)
    config.pretrain.augment.gain_db = 6.0
    config.train.update(batch_size=16, epochs=1, tensorboard=False)
    config.eval.tta = 0
    return config
"""


def examples(language: str) -> list[str]:
    """The examples of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def source(name: str) -> str:
    """The only Python example that defines the class `name`."""
    (code,) = [code for code in examples("python") if f"class {name}(" in code]
    return code


def example(name: str) -> Any:
    """The class `name` of the page."""
    namespace: dict[str, Any] = {}
    exec(source(name), namespace)
    return namespace[name]


@pytest.fixture
def package(tmp_path) -> pathlib.Path:
    """A folder in which the package of the page is installed."""
    project = tomllib.loads(examples("toml")[0])["project"]
    points = project["entry-points"]
    folder = tmp_path / "installed"
    (folder / "mypackage").mkdir(parents=True)
    for value in (value for group in points.values() for value in group.values()):
        module, name = value.split(":")
        (folder / f"{module.replace('.', '/')}.py").write_text(source(name))
    information = folder / f"{project['name']}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1\n")
    lines = [f"[{group}]\n{name} = {value}\n" for group, values in points.items() for name, value in values.items()]
    (information / "entry_points.txt").write_text("".join(lines))
    return folder


@pytest.mark.slow
def test_a_package_of_its_own_trains_and_predicts(package, environment, tmp_path):
    """The model and the objective of the page, in processes that know them as entry points of an installed package."""
    workdir, config = tmp_path / "run", tmp_path / "mine.py"
    config.write_text(CONFIG)

    def run(module: str, *arguments: str, installed: bool = True) -> subprocess.CompletedProcess[str]:
        paths = {"PYTHONPATH": f"{ROOT}:{package}" if installed else str(ROOT)}
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment | paths, capture_output=True, text=True)

    done = run("esc_jax.main", f"--config={config}", f"--workdir={workdir}")
    assert done.returncode == 0 and "pretraining (simsiam): " in done.stdout, done.stderr
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-0.1, 0.1, RATE), RATE)
    done = run("esc_jax", "predict", f"--model={workdir}", "noise.wav")
    assert done.returncode == 0 and "whole" in done.stdout, done.stderr
    refused = run("esc_jax", "predict", f"--model={workdir}", "noise.wav", installed=False)
    assert refused.returncode == 1 and "model.name=mean_pool: the architectures are " in refused.stderr


def test_the_configs_of_the_page_are_valid(monkeypatch, tmp_path):
    """Those of an experiment, and of the objective with it in the registry."""
    monkeypatch.setitem(objectives.PRETRAINING, "simsiam", example("SimSiam"))
    for number, code in enumerate(code for code in examples("python") if "def get_config" in code):
        path = tmp_path / f"config{number}.py"
        path.write_text(code)
        config = configs.load(path)
        configs.check(config)
    assert number == 1 and config.pretrain.objective == "simsiam"


def test_model_and_objective_examples():
    """The encoder has the documented shapes; the objective's loss is minus a mean of cosines."""
    frontend = LogMel(sample_rate=RATE, n_fft=512, hop=256, mels=64)
    encoder = example("MeanPool")()
    model = Model(Classifier(encoder, heads.Linear(classes=5)), frontend, {}, tuple("abcde"), RATE, 1.0)
    features = frontend(jnp.zeros((1, RATE)))
    output, _ = encoder.init_with_output(jax.random.key(0), features)
    assert output.embedding.shape == (1, 256) and output.features.shape == (1, features.shape[1], 256)

    simsiam = example("SimSiam")
    config = ml_collections.ConfigDict(simsiam.defaults() | {"augment": options.defaults(), "batch_size": CLIPS})
    config.augment.gain_db = 6.0
    objective = simsiam(config, model)
    variables = objective.init(jax.random.key(1), features)
    audio = np.random.default_rng(0).integers(-3000, 3000, (1, CLIPS, RATE)).astype(np.int16)

    def loss(audio):
        inputs = objective.inputs(None, jax.random.key(2), {"audio": audio})
        return objective.loss(variables, None, None, inputs, Keys(*jax.random.split(jax.random.key(3))))

    result = jax.pmap(loss, axis_name=devices.AXIS)(audio)
    assert result.loss.shape == (1, CLIPS) and np.isfinite(result.loss).all() and (np.abs(result.loss) <= 1).all()
    assert result.metrics["similarity"].shape == (1, CLIPS)
