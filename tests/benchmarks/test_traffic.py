"""The traffic of compiled programs."""

import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = """HloModule jit_f

%fused (p: f32[8]) -> f32[8] {
  ROOT %a = f32[8]{0} add(%p, %p)
}

ENTRY %main (p0: bf16[64,32], p1: bf16[32,16]) -> f32[64,16] {
  %p0 = bf16[64,32]{1,0} parameter(0)
  %p1 = bf16[32,16]{1,0} parameter(1)
  %call = (f32[64,16]{1,0}, s8[4096]{0}) custom-call(%p0, %p1), metadata={op_name="jit(f)/FORWARD/layer_3/out/dot"}
  %part = f32[64,16]{1,0} get-tuple-element(%call), index=0
  ROOT %y = f32[64,16]{1,0} fusion(%part, %part), kind=kLoop, metadata={op_name="jit(f)/BACKWARD/layer_3/jit(relu)/max"}
}
"""
PROGRAM = PROGRAM.replace("FORWARD", "jvp(Classifier)/Classifier.encode/encoder")
PROGRAM = PROGRAM.replace("BACKWARD", "transpose(jvp(Classifier))/Classifier.encode/encoder")


@pytest.fixture
def traffic(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("traffic")


def test_each_array_of_a_kernel_counts_once_and_workspaces_do_not(traffic):
    assert traffic.kernels(PROGRAM) == [
        ("forward: layer/out/dot", "library", 2 * (64 * 32 + 32 * 16) + 4 * 64 * 16),
        ("backward: layer/max", "fusion", 2 * 4 * 64 * 16),
    ]


@pytest.mark.skipif(importlib.util.find_spec("jax_plugins") is not None, reason="a plugin of JAX is installed")
def test_jax_without_cuda_is_one_sentence(traffic):
    with pytest.raises(SystemExit, match=r'^benchmarks/traffic.py needs JAX for CUDA: pip install "jax\[cuda13\]"$'):
        traffic.compile_for_h100(jnp.sin, jax.ShapeDtypeStruct((8,), np.float32))


def test_a_program_of_xla_is_read(traffic):
    shapes = jax.ShapeDtypeStruct((1000, 30), np.float32), jax.ShapeDtypeStruct((1000, 30), np.bool_)
    program = jax.jit(lambda x, mask: jnp.where(mask, jnp.sin(x), x * x)).lower(*shapes).compile().as_text()
    ((_, kind, size),) = traffic.kernels(program)
    assert kind == "fusion" and size == 30_000 * (4 + 1 + 4)
