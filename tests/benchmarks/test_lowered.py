"""The program for CUDA, counted without a GPU."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from esc_jax import config as configs
from esc_jax.augment import compose
from esc_jax.ops.max_pool import max_pool

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture
def lowered(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("lowered")


def test_operations_are_counted_with_the_calls_of_their_functions(lowered):
    @jax.jit
    def sort(x):
        return jnp.sort(x) + jax.lax.platform_dependent(x, cpu=jnp.sin, default=jnp.cos)

    def program(x, kernel):
        loop = jax.lax.while_loop(lambda x: x.sum() < 9.0, lambda x: x + 1.0, sort(sort(x)))
        loop = loop.at[jnp.arange(3)].set(jnp.fft.rfft(x).real[:3])
        return (
            loop,
            x[jnp.arange(1 << 16) % 8],
            kernel @ kernel,
            kernel.astype(jnp.bfloat16) @ kernel.astype(jnp.bfloat16),
        )

    kernel = jax.ShapeDtypeStruct((512, 512), np.float32)
    counts = lowered.count(lowered.lower(program, np.zeros(8, np.float32), kernel))
    assert counts == {
        "loops": 1, "sorts": 2, "scatters": 1, "FFTs": 1, "custom calls": 0, "products": 2,
        "gathers": 1, "float32": 1,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["resnet34", "efficientat_finetune"])
def test_augmentation_for_cuda_has_no_loop(lowered, name):
    config = configs.load(f"configs/{name}.py")
    audio, positions = jax.ShapeDtypeStruct((4, 160_000), np.float32), jnp.arange(4)

    def inputs(key, audio):
        audio = compose.augment_waveforms(config.augment, key, positions, audio, 32_000)
        share, partner = compose.mixup_pairs(config.augment, key, positions, 4)
        audio = compose.mix_waveforms(config.augment, key, positions, share, audio, audio[partner], 32_000)
        return compose.augment_spectrograms(config.augment, key, positions, audio[:, :4000].reshape(4, 50, 80))

    counts = lowered.count(lowered.lower(inputs, jax.random.key(0), audio))
    assert all(counts[column] == 0 for column in ("loops", "sorts", "scatters", "custom calls"))
    # Rotation and crop are one step: two samples for the interpolation. The third gather is that of the partners.
    assert counts["gathers"] == (3 if config.augment.crop_s else 2)


def test_the_gradient_of_max_pooling_for_cuda_is_no_scatter(lowered):
    def total(x):
        return max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))).sum()

    x = jax.ShapeDtypeStruct((2, 16, 16, 4), jnp.bfloat16)
    assert lowered.count(lowered.lower(jax.grad(total), x))["scatters"] == 0


def test_rows_of_a_training_step(lowered, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["lowered.py", "--tiny", f"--out={tmp_path}"])
    lowered.main()
    assert capsys.readouterr().out == (tmp_path / "lowered.md").read_text()
    rows = json.loads((tmp_path / "lowered.json").read_text())["results"]["lowered"]
    assert [row["part"] for row in rows] == ["inputs", "network", "optimizer"]
    assert all(row[column] == 0 for row in rows for column in ("loops", "sorts", "scatters", "custom calls"))
    inputs, network, _ = rows
    # The product of the frontend is in float32. The network has 6 convolutions and the head.
    assert inputs["float32"] == inputs["products"] == inputs["FFTs"] == 1
    assert network["float32"] == 0 and network["products"] == 3 * 7 - 1  # with their gradients; the input has none
