"""Every test runs on four virtual CPU devices, with strict dtype and rank promotion."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of real material named by ESC_JAX_SHARED; the test is skipped where there is none."""
    path = os.environ.get("ESC_JAX_SHARED")
    if not path or not pathlib.Path(path).is_dir():
        pytest.skip("real clips and weights: set ESC_JAX_SHARED to the folder that holds them")
    return pathlib.Path(path).resolve()
