"""The cache folder."""

import pathlib

import pytest

from esc_jax.data.cache import cache_root


@pytest.mark.parametrize(("value", "expected"), [("", "~/.cache/esc_jax"), ("/data/cache", "/data/cache/esc_jax")])
def test_the_users_cache_folder(monkeypatch, value, expected):
    monkeypatch.delenv("ESC_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_root() == pathlib.Path(expected).expanduser()


def test_the_argument_has_precedence(monkeypatch, tmp_path):
    monkeypatch.setenv("ESC_JAX_CACHE", str(tmp_path / "environment"))
    assert cache_root() == tmp_path / "environment" and cache_root(tmp_path / "argument") == tmp_path / "argument"
