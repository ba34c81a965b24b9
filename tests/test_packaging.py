"""The package declares what it imports, and nothing else."""

import ast
import pathlib
import re
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Import name → distribution, where they differ.
DISTRIBUTIONS = {"absl": "absl-py", "orbax": "orbax-checkpoint"}
# Imported by `jax.export`, which does not declare it.
INDIRECT = {"flatbuffers"}
# jax requires the jaxlib of its own version.
IMPLIED = {"jaxlib"}


def normalized(name):
    """A distribution's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=!~;\[ ]", name)[0]).lower()


def imported():
    """Names of all packages that esc_jax imports, at the top of a module or in a function."""
    names = set(INDIRECT)
    for path in (ROOT / "esc_jax").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    names -= {"esc_jax", *sys.stdlib_module_names, *IMPLIED}
    return {normalized(DISTRIBUTIONS.get(name, name)) for name in names}


def test_dependencies_are_what_the_package_imports():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    dependencies = {normalized(name) for name in project["dependencies"]}
    extras = project["optional-dependencies"]
    used = ("tensorflow", "torch", "demo", "textgrid", "onnx", "tflite", "live", "search", "serve")
    optional = {normalized(name) for extra in used for name in extras[extra]}
    assert dependencies - imported() == set(), "declared and not imported"
    assert imported() - dependencies - optional == set(), "imported and not declared"


def test_configs_import_the_package_only():
    """In a wheel, configs are in the package: another import would fail there."""
    for path in (ROOT / "configs").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            assert not isinstance(node, ast.Import), path.name
            assert not isinstance(node, ast.ImportFrom) or node.module == "esc_jax", path.name
