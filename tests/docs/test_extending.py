"""The examples of docs/extending.md run."""

import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from esc_jax.augment import options
from esc_jax.frontends.log_mel import LogMel
from esc_jax.models import heads
from esc_jax.models.encoder import Classifier
from esc_jax.models.model import Model
from esc_jax.objectives.base import Keys
from esc_jax.runtime import devices

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "extending.md"
CLIPS, RATE = 4, 16_000


def example(name: str) -> Any:
    """The class `name` of the only Python example that defines it."""
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (code,) = [code for code in examples if f"class {name}(" in code]
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    return namespace[name]


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
