"""What all commands share: exit status, one sentence on failure, output of C libraries."""

from collections.abc import Callable
import contextlib
import faulthandler
import functools
import os
import pathlib
import signal
import sys

from esc_jax import files
from esc_jax.errors import EX_TEMPFAIL, describe_error

Main = Callable[[list[str] | None], int | None]


def command(main: Main) -> Callable[[list[str] | None], int]:
    """Decorates the `main` of a command: it returns the exit status.

    An error that a user can cause is written to stderr as one sentence (`esc_jax.errors.describe_error`). Other errors
    are raised. A closed pipe (`esc-jax predict … | head`) ends the command with status 1 and no message. What is
    written to a stream that was closed before (`>&-`) is discarded.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        open_streams()
        try:
            try:
                status = main(argv) or 0
            except SystemExit:  # --help
                sys.stdout.flush()
                raise
            sys.stdout.flush()  # here, so that an error is reported; the interpreter would print a traceback at exit
            return status
        except BrokenPipeError:
            _discard_stdout()
            return 1
        except (Exception, KeyboardInterrupt) as error:
            description = describe_error(error)
            if description is None:
                raise
        status, sentence = description
        try:
            sys.stdout.flush()
        except OSError:  # a full disk
            _discard_stdout()
        sys.stderr.write(f"esc_jax: {sentence}\n")
        return status

    return run


def open_streams() -> None:
    """Replaces a stdout or stderr that the process was started without, so that writing to it is no error."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))


def _discard_stdout() -> None:
    """Discards the rest of stdout, so that the interpreter's own flush at exit does not fail again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def exit_when_interrupted() -> contextlib.AbstractContextManager[None]:
    """Ctrl-C ends the process without an exception, which can crash C libraries while they are imported."""

    def stop(number: int) -> int:
        if number == signal.SIGINT:
            os.write(sys.stderr.fileno(), b"esc_jax: interrupted\n")
        return 128 + number

    return files.exit_on_signal(stop, interrupt=True)


def write_at_signal(sentence: str) -> None:
    """Writes a sentence to stderr in the handler of a signal, where `sys.stderr` may be in use."""
    os.write(sys.stderr.fileno(), f"\nesc_jax: {sentence}\n".encode(errors="replace"))


def exit_resumable(describe: Callable[[], str], *, interrupt: bool = True) -> contextlib.AbstractContextManager[None]:
    """SIGTERM and Ctrl-C end the process with status 75 and a sentence; the same command continues.

    Args:
        describe: returns the beginning of the sentence, such as "stopped: 3 recordings classified".
        interrupt: whether Ctrl-C does, too.
    """

    def stop(number: int) -> int:
        write_at_signal(f"{describe()}; run the same command again to continue")
        return EX_TEMPFAIL

    return files.exit_on_signal(stop, interrupt=interrupt)


def initialize_device() -> pathlib.Path:
    """Sets up XLA with the persistent compilation cache; before the first use of a device.

    Returns:
        The root of the caches.
    """
    with exit_when_interrupted():
        from esc_jax.data import cache
        from esc_jax.runtime import xla  # imports JAX, which --help does not need

        root = cache.cache_root()
        xla.initialize(root / "compiled")
    return root


def discard_native_output() -> None:
    """Discards what C libraries write to stdout and stderr, such as decoders on broken files; Python's output remains.

    Has no effect if Python's streams are not those of the process (in a notebook, or under pytest).
    """
    if sys.stdout is not sys.__stdout__ or sys.stderr is not sys.__stderr__ or not (sys.stdout and sys.stderr):
        return
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        stream.flush()
        # File names are bytes on Linux and need not be valid UTF-8, hence errors="replace".
        copy = open(os.dup(number), "w", buffering=1, encoding=stream.encoding, errors="replace")
        setattr(sys, name, copy)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, number)
        os.close(null)
    faulthandler.enable(sys.stderr)  # a crash in C still prints a Python traceback
