"""What every error is that a command says in one sentence; its kinds are where they are raised."""

from collections.abc import Callable, Iterable, Iterator
import contextlib
import functools
import os
import sys


class Problem(Exception):
    """Something that the person who started the command can mend; the message is one sentence that says how.

    Attributes:
        status: of the process that ends with it: 2 where what was asked for is wrong, 1 where it could not be done.
    """

    status = 2


class Failure(Problem):
    """What was asked for is right, and could not be done."""

    status = 1


class Several(Failure):
    """More than one thing that could not be done, or one; each is a sentence in a line of its own."""

    def __init__(self, problems: Iterable[str]):
        super().__init__("\nesc_jax: ".join(problems))


def first_line(error: BaseException) -> str:
    """Of what an exception says; its name where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def out_of_memory(error: BaseException) -> bool:
    """Whether XLA found no room for something."""
    return "RESOURCE_EXHAUSTED" in str(error)


def told(error: BaseException, place: object = "") -> tuple[int, str] | None:
    """Exit status and sentence for what a user can cause or mend; None for anything else, which is a mistake of ours.

    Args:
        error: that was raised.
        place: file that was worked on, for errors that name none.
    """
    if isinstance(error, Problem):
        return error.status, str(error)
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, OSError):
        return 1, f"{error.strerror or first_line(error)}: {error.filename or place or 'writing the results'}"
    if type(error).__name__ == "JaxRuntimeError":  # by name, since --help must not import JAX
        what = "the device has too little memory" if out_of_memory(error) else "the device could not do it"
        return 1, f"{place and f'{place}: '}{what} ({first_line(error)})"
    return None


@contextlib.contextmanager
def collected(problems: list[str], place: object) -> Iterator[None]:
    """Adds what goes wrong with one file (`told`) to `problems`, so that the others are still worked on."""
    try:
        yield
    except Exception as error:
        found = told(error, place)
        if found is None:
            raise
        problems.append(found[1])


def command(main: Callable[[list[str] | None], int | None]) -> Callable[..., int]:
    """The `main` of a command, made to return its exit status and to say what is `told` in one sentence."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            status = main(argv) or 0
            sys.stdout.flush()  # here, not at the interpreter's end, where nobody can say what went wrong
            return status
        except BrokenPipeError:  # the reader of a pipe, such as head, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except (Exception, KeyboardInterrupt) as error:
            found = told(error)
            if found is None:
                raise
        sys.stderr.write(f"esc_jax: {found[1]}\n")
        return found[0]

    return run
