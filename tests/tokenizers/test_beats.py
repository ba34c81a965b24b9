"""The BEATs tokenizer against labels of the published code."""

import json
import pathlib

import jax
import numpy as np
import pytest

from esc_jax.pretrained import beats
from esc_jax.pretrained.checkpoint import PretrainedError
from esc_jax.tokenizers.beats import Quantizer, from_arrays, read_tokenizer

GOLDENS = pathlib.Path(__file__).parents[1] / "goldens"


@pytest.fixture
def file():
    """cfg and arrays of the golden tokenizer."""
    golden = np.load(GOLDENS / "beats_tokenizer.npz")
    arrays = {name.removeprefix("model/"): golden[name] for name in golden.files if name.startswith("model/")}
    return json.loads(str(golden["cfg"])), arrays


def test_golden_labels(file):
    tokenizer = from_arrays(*file)
    assert tokenizer.entries == 16
    labels = jax.jit(tokenizer.tokens)(np.load(GOLDENS / "beats.npz")["waveform"])
    np.testing.assert_array_equal(labels, np.load(GOLDENS / "beats_tokenizer.npz")["labels"])


def test_reference_labels(shared):
    pytest.importorskip("torch")
    folder = shared / "reference/beats"
    reference = np.load(folder / "tiny_beats_reference.npz")
    labels = jax.jit(read_tokenizer(folder / "tiny_beats_tokenizer.pt").tokens)(reference["waveform"])
    np.testing.assert_array_equal(labels, reference["tokenizer.labels"])


def test_quantizer_takes_the_nearest_entry():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    quantizer = Quantizer(entries=7, width=3)
    variables = jax.jit(quantizer.init)(jax.random.key(1), x)
    params = jax.tree.map(np.asarray, variables["params"])
    z = np.tanh(np.asarray(x) @ params["hidden"]["kernel"]) @ params["output"]["kernel"]
    z = z / np.linalg.norm(z, axis=-1, keepdims=True)
    distance = np.linalg.norm(z[:, :, None] - params["codebook"], axis=-1)
    np.testing.assert_array_equal(jax.jit(quantizer.apply)(variables, x), distance.argmin(-1))


def test_files_that_are_no_tokenizer(file):
    cfg, arrays = file
    untrained = arrays | {"quantize.embedding.initted": np.zeros(1, np.float32)}
    with pytest.raises(PretrainedError, match="never initialised"):
        from_arrays(cfg, untrained)
    with pytest.raises(PretrainedError, match=r"quantize.embedding.weight \(16, 8\)"):
        from_arrays(cfg | {"quant_n": 32}, arrays)
    with pytest.raises(PretrainedError, match="without a place: quantize.cluster_size"):
        beats.from_arrays(cfg, arrays)
    del arrays["quantize.embedding.weight"]
    with pytest.raises(PretrainedError, match="no codebook"):
        from_arrays(cfg, arrays)
