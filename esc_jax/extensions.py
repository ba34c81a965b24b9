"""Registries: implementations by name, from this package and from other installed packages.

Another package adds an implementation with an entry point (https://packaging.python.org/specifications/entry-points),
in its pyproject.toml:

    [project.entry-points."esc_jax.models"]
    mean_pool = "mypackage.models:MeanPool"

It is imported when its name is used for the first time: in a config, or in the checkpoint of a run.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
import functools
from importlib import metadata
from typing import Any, TypeVar

from esc_jax.errors import UserError, first_line

_T = TypeVar("_T")


class ExtensionError(UserError, ImportError):
    """An implementation of another package that cannot be imported. The message is one sentence."""


@functools.cache
def _entry_points() -> Any:
    """All entry points. Each call of `metadata.entry_points` reads those of all installed packages."""
    return metadata.entry_points()


class Registry(MutableMapping[str, _T]):
    """Implementations by name. Those of this package come first; no other package can replace them.

    Args:
        group: of the entry points, such as "esc_jax.models".
        known: the implementations of this package.
        convert: applied to what an entry point names.
    """

    def __init__(self, group: str, known: Mapping[str, _T], convert: Callable[[Any], _T] = lambda value: value):
        self._known, self._convert = dict(known), convert
        self._others = {point.name: point for point in _entry_points().select(group=group) if point.name not in known}

    def __getitem__(self, name: str) -> _T:
        """The implementation. Raises KeyError, or ExtensionError if it cannot be imported."""
        if name in self._others:
            point = self._others[name]
            try:
                self._known[name] = self._convert(point.load())
            except Exception as error:
                package = point.dist.name if point.dist else "a package"
                raise ExtensionError(
                    f"{name} is {point.value} of {package}, which cannot be imported"
                    f" ({type(error).__name__}: {first_line(error)})"
                ) from error
            del self._others[name]
        return self._known[name]

    def __setitem__(self, name: str, value: _T) -> None:
        self._others.pop(name, None)
        self._known[name] = value

    def __delitem__(self, name: str) -> None:
        self._others.pop(name, None)
        del self._known[name]

    def __contains__(self, name: object) -> bool:
        return name in self._known or name in self._others

    def __iter__(self) -> Iterator[str]:
        yield from list(self._known)
        yield from list(self._others)

    def __len__(self) -> int:
        return len(self._known) + len(self._others)
