"""Implementations that other installed packages declare as entry points."""

import sys

import pytest

from esc_jax import extensions
from esc_jax.extensions import ExtensionError, Registry

ENTRY_POINTS = """
[esc_jax.shapes]
circle = otherpackage:circle
square = otherpackage:square
missing = otherpackage:missing
broken = brokenpackage:shape
"""


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A registry with one implementation of its own, and four of two other packages."""
    installed = tmp_path / "otherpackage-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: otherpackage\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "otherpackage.py").write_text("circle, square = 'a circle', 'another square'\n")
    (tmp_path / "brokenpackage.py").write_text("raise RuntimeError('no GPU')\n")
    monkeypatch.syspath_prepend(tmp_path)
    extensions._entry_points.cache_clear()
    yield Registry("esc_jax.shapes", {"square": "a square"}, convert=str.upper)
    extensions._entry_points.cache_clear()
    for name in ("otherpackage", "brokenpackage"):
        sys.modules.pop(name, None)


def test_other_packages_are_imported_when_their_names_are_used(shapes):
    assert list(shapes) == ["square", "circle", "missing", "broken"] and len(shapes) == 4
    assert "circle" in shapes and "triangle" not in shapes
    assert "otherpackage" not in sys.modules
    assert shapes["circle"] == "A CIRCLE" == shapes.get("circle") and "otherpackage" in sys.modules
    assert shapes["square"] == "a square"  # no other package replaces it
    assert list(shapes) == ["square", "circle", "missing", "broken"]
    with pytest.raises(KeyError):
        shapes["triangle"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("missing", "AttributeError: .*has no attribute 'missing'"), ("broken", "RuntimeError: no GPU")],
)
def test_a_package_that_cannot_be_imported_is_named(shapes, name, reason):
    with pytest.raises(ExtensionError, match=rf"^{name} is .*package:\w+ of otherpackage, which .* \({reason}\)$"):
        shapes[name]
    assert shapes["circle"] == "A CIRCLE"


def test_names_can_be_set_and_deleted(shapes, monkeypatch):
    with monkeypatch.context() as changes:
        changes.setitem(shapes, "triangle", "a triangle")
        assert shapes["triangle"] == "a triangle" and list(shapes)[1] == "triangle"
    assert "triangle" not in shapes
    shapes["broken"] = "mended"
    assert shapes["broken"] == "mended" and len(shapes) == 4
