"""Fixtures of the tests of benchmarks/."""

import importlib.util
import pathlib
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load_benchmark(monkeypatch):
    """A module of benchmarks/, under a name of its own: `load_benchmark("novelty")`."""

    def load(name: str):
        monkeypatch.syspath_prepend(BENCHMARKS)  # the modules import one another
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", BENCHMARKS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        return module

    return load
