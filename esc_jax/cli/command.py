"""The entry point of every command: exit status, one sentence on failure."""

from collections.abc import Callable
import functools
import os
import sys

from esc_jax.errors import describe_error


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
            found = describe_error(error)
            if found is None:
                raise
        sys.stderr.write(f"esc_jax: {found[1]}\n")
        return found[0]

    return run
