"""Errors that a command reports in one sentence. Their subclasses are defined where they are raised."""

from collections.abc import Iterable, Iterator, Sequence
import contextlib

EX_TEMPFAIL = 75  # exit status of a command that was stopped, and that continues when it is run again


class UserError(Exception):
    """An error that the user of a command can correct. The message is one sentence that says how.

    Attributes:
        status: exit status of the command: 2 where the request is wrong, 1 where it could not be carried out.
    """

    status = 2


class ConfigError(UserError, ValueError):
    """A config that cannot run. The message is one sentence that names the key."""


class Failure(UserError):
    """A correct request that could not be carried out."""

    status = 1


class MultipleErrors(Failure):
    """One or more failures. The message has a line for each."""

    def __init__(self, problems: Iterable[str]):
        super().__init__("\nesc_jax: ".join(map(printable, problems)))


def first_line(error: BaseException) -> str:
    """First line of the message of an exception, or its class name where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def shorten(value: object) -> str:
    """A value from a file or a command line for a message: one line, of at most 60 characters."""
    return _cut(" ".join(str(value).split()), 60)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def name_some(names: Sequence[str], most: int) -> str:
    """The first names of a list for a message: "a, b and 3 more"; "none" for an empty list."""
    others = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{others}" or "none"


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number of things: "1 file", "2 files". The plural is `noun` with an s, unless it is given."""
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"


def printable(message: str) -> str:
    """A message on one line, without control characters, which names in files can contain, and of limited length."""
    text = "".join(c if c.isprintable() else " " if c.isspace() else f"\\x{ord(c):02x}" for c in message)
    return _cut(text, 4000)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether XLA could not allocate memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


def describe_error(error: BaseException, place: object = "") -> tuple[int, str] | None:
    """Exit status and message for an error that a user can cause or correct; None for any other, which is a bug.

    Args:
        error: the exception.
        place: file that was processed, for errors that name none.
    """
    if isinstance(error, MultipleErrors):
        return error.status, str(error)
    if isinstance(error, UserError):
        return error.status, printable(str(error))
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, OSError):
        # Of a rename, the second name is that of the file, and the first one is temporary.
        name = error.filename2 or error.filename or place or "writing the results"
        return 1, f"{error.strerror or first_line(error)}: {name}"
    if type(error).__name__ == "JaxRuntimeError":  # by name, since --help must not import JAX
        problem = "the device has too little memory" if is_out_of_memory(error) else "the device reported an error"
        return 1, f"{place and f'{place}: '}{problem} ({first_line(error)})"
    return None


@contextlib.contextmanager
def collect_errors(problems: list[str], place: object) -> Iterator[None]:
    """Appends the message of an error that `describe_error` knows to `problems`, so that other files are processed."""
    try:
        yield
    except Exception as error:
        description = describe_error(error, place)
        if description is None:
            raise
        problems.append(description[1])
