"""Modules that run in evaluation mode within a training step, and the paths by which they are selected."""

from collections.abc import Callable, Iterator
import contextlib
from typing import Any

from flax import linen as nn


@contextlib.contextmanager
def eval_mode(predicate: Callable[[str], bool]) -> Iterator[None]:
    """Context in which selected modules, with all modules that they contain, run in evaluation mode.

    Their BatchNorm uses its running statistics and does not update them; their dropout is off.

    Args:
        predicate: of the path of a module, such as "encoder/block3".
    """

    def call(function: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__" and predicate("/".join(context.module.path)):
            # `train` is the only Python bool that modules of this project are called with.
            args = tuple(False if a is True else a for a in args)
            kwargs = {k: False if a is True else a for k, a in kwargs.items()}
        return function(*args, **kwargs)

    with nn.intercept_methods(call):
        yield


@contextlib.contextmanager
def called_modules() -> Iterator[dict[str, None]]:
    """Context that yields the paths of the modules that are called or traced in it, as `eval_mode` gets them."""
    paths: dict[str, None] = {}

    def call(function: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name == "__call__" and context.module.path:
            paths["/".join(context.module.path)] = None
        return function(*args, **kwargs)

    with nn.intercept_methods(call):
        yield paths
