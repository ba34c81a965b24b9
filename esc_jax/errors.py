"""Errors that a command reports in one sentence."""

from collections.abc import Iterable, Iterator
import contextlib


class UserError(Exception):
    """Something that the person who started the command can mend; the message is one sentence that says how.

    Attributes:
        status: of the process that ends with it: 2 where what was asked for is wrong, 1 where it could not be done.
    """

    status = 2


class ConfigError(UserError, ValueError):
    """A config that cannot run. The message is one sentence that names the key."""


class Failure(UserError):
    """What was asked for is right, and could not be done."""

    status = 1


class MultipleErrors(Failure):
    """More than one thing that could not be done, or one; each is a sentence in a line of its own."""

    def __init__(self, problems: Iterable[str]):
        super().__init__("\nesc_jax: ".join(problems))


def first_line(error: BaseException) -> str:
    """Of what an exception says; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA found no room for something."""
    return "RESOURCE_EXHAUSTED" in str(error)


def describe_error(error: BaseException, place: object = "") -> tuple[int, str] | None:
    """Exit status and sentence for what a user can cause or mend; None for anything else, which is a mistake of ours.

    Args:
        error: that was raised.
        place: file that was worked on, for errors that name none.
    """
    if isinstance(error, UserError):
        return error.status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, OSError):
        return 1, f"{error.strerror or first_line(error)}: {error.filename or place or 'writing the results'}"
    if type(error).__name__ == "JaxRuntimeError":  # by name, since --help must not import JAX
        what = "the device has too little memory" if is_out_of_memory(error) else "the device could not do it"
        return 1, f"{place and f'{place}: '}{what} ({first_line(error)})"
    return None


@contextlib.contextmanager
def collect_errors(problems: list[str], place: object) -> Iterator[None]:
    """Adds what goes wrong with one file (`describe_error`) to `problems`, so that the others are still worked on."""
    try:
        yield
    except Exception as error:
        found = describe_error(error, place)
        if found is None:
            raise
        problems.append(found[1])
