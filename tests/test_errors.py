"""Errors as a command reports them."""

import errno

import jax
import jax.numpy as jnp
import pytest

from esc_jax import errors
from esc_jax.training.loop import Interrupted, TrainError


def test_out_of_memory_errors_of_xla_are_recognized():
    with pytest.raises(jax.errors.JaxRuntimeError) as raised:
        jnp.zeros((1 << 50,)).block_until_ready()
    status, message = errors.describe_error(raised.value, "a.wav")
    assert status == 1 and message.startswith("a.wav: the device has too little memory (") and "\n" not in message
    assert errors.is_out_of_memory(raised.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.ConfigError("a sentence"), (2, "a sentence")),
        (TrainError("the loss is nan"), (1, "the loss is nan")),
        (Interrupted("stopped"), (75, "stopped")),
        (KeyboardInterrupt(), (130, "interrupted")),
        (OSError(errno.ENOSPC, "No space left on device", "x.csv"), (1, "No space left on device: x.csv")),
        (OSError(errno.ENOSPC, "No space left on device"), (1, "No space left on device: a.wav")),
        (OSError(errno.EXDEV, "Cross-device link", "1.partial", None, "x.csv"), (1, "Cross-device link: x.csv")),
        (RuntimeError("a mistake of the program"), None),
    ],
)
def test_status_and_message(error, expected):
    assert errors.describe_error(error, "a.wav") == expected


@pytest.mark.parametrize(("names", "text"), [("", "none"), ("ab", "a, b"), ("abcd", "a, b and 2 more")])
def test_a_message_has_the_first_names(names, text):
    assert errors.name_some(list(names), 2) == text


def test_errors_of_files_are_collected():
    problems = []
    with errors.collect_errors(problems, "a.wav"):
        raise TrainError("first")
    with errors.collect_errors(problems, "b.wav"):
        raise OSError(errno.EIO, "broken")
    assert problems == ["first", "broken: b.wav"]
    assert str(errors.MultipleErrors(problems)) == "first\nesc_jax: broken: b.wav"
    with pytest.raises(RuntimeError), errors.collect_errors(problems, "c.wav"):
        raise RuntimeError


def test_names_in_messages_are_on_one_line_and_not_too_long():
    status, message = errors.describe_error(errors.UserError("a\nb\x1b[31m ü $x$ " + "y" * 100_000))
    assert status == 2 and message.startswith("a b\\x1b[31m ü $x$ yyy") and len(message) == 4000
    several = errors.MultipleErrors(["one\ntwo", "three"])
    assert errors.describe_error(several) == (1, "one two\nesc_jax: three")


def test_one_thing_is_singular():
    assert [errors.counted(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
    assert [errors.counted(number, "copy", "copies") for number in (1, 2)] == ["1 copy", "2 copies"]
